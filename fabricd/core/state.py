"""What a node's kernel and charon hold: ONE set of types for what should be and what is.

`core.desired` builds these values from the records, the observers in `kernel` and `ike`
build them from dumps, and `core.diff` compares them with ==. A fact that an observer cannot
read back must not take part in the comparison: such fields are marked `compare=False` and
are covered by a digest that can be read back.

This file may not know how a value is dumped or set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple
from zlib import crc32

from fabricd.model import Address, Prefix

# ---------------------------------------------------------------- kernel


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A network interface."""

    name: str
    kind: str
    """IFLA_INFO_KIND: `bridge`, `veth`, `tun` …; empty for a physical interface."""
    up: bool
    """The administrative state, IFF_UP."""
    alias: str = ""
    """IFLA_IFALIAS: the mark of ownership."""
    mtu: int = 0
    """Desired: what it must let pass at least; 0: that does not matter."""


@dataclass(frozen=True, slots=True, order=True)
class IfAddress:
    """An address on an interface."""

    link: str
    address: str
    """With its prefix length: `2.2.2.1/27`."""
    protocol: int = 0
    """IFA_PROTO, who put it there (kernel 5.18 and later): the mark of ownership."""


class RouteKind(StrEnum):
    """RTN_* of linux/rtnetlink.h."""

    UNICAST = "unicast"
    BLACKHOLE = "blackhole"
    """Dropped in silence."""
    UNREACHABLE = "unreachable"
    """Dropped, and the sender is told."""
    THROW = "throw"
    """Look-up in this table ends here and goes on with the next rule."""


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of ours; the observer returns only those that carry our protocol number."""

    table: int
    prefix: Prefix
    kind: RouteKind = RouteKind.UNICAST
    link: str | None = None
    source: Address | None = None
    """RTA_PREFSRC."""
    metric: int = 0
    """RTA_PRIORITY. IPv6 turns an absent metric into 1024, so always set one there."""

    @property
    def key(self) -> RouteKey:
        """What it is known by to the kernel."""
        return self.table, self.prefix, self.metric


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """A routing policy rule of ours: `from all lookup TABLE`, perhaps narrowed."""

    family: int
    priority: int
    table: int
    to: Prefix | None = None
    """`to PREFIX`; None: everything."""
    suppress: int | None = None
    """`suppress_prefixlength N`: routes to prefixes of this length and shorter don't count."""


@dataclass(frozen=True, slots=True, order=True)
class Sysctl:
    """A kernel switch; `name` as sysctl(8) takes it, with slashes: `net/ipv4/ip_forward`."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, order=True)
class Pod:
    """A pod's way out: a veth pair between the bridge and the pod's network namespace.

    One end is a port of the bridge, the other has the pod's addresses and leads to its default
    routes. Observed: as much of that as is found.
    """

    name: str
    netns: str
    """Path of the network namespace: `/run/netns/ns1`."""
    ifname: str
    """The interface's name in there."""
    addresses: tuple[str, ...]
    """With prefix lengths, at most one a family: `2.2.2.2/27`."""
    port: str
    """The name of the other end (`core.pods`)."""
    bridge: str
    """Whose port it is; empty: nobody's."""
    mtu: int
    """Of both ends. Observed: 0 if they differ."""
    gateways: tuple[Address, ...] = ()
    """Where the default routes lead."""
    up: bool = True
    """Both ends are."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What nftables does for pods and tunnels: our table, `core.filtering` says what for."""

    masqueraded: tuple[Prefix, ...]
    """Sources that get the node's own address on their way out of the fabric."""
    inside: tuple[Prefix, ...]
    """What belongs to the fabric: packets to there keep their source, TCP is fit to the path."""
    bridge: str
    """Packets that leave by it stay among the pods."""
    intact: bool = True
    """Observed: False when the rules are not ours any more, or not all there."""


RouteKey = tuple[int, str, int]
"""Table, prefix, metric: what makes two routes the same route to the kernel."""


@dataclass(frozen=True, slots=True)
class KernelState:
    """Kernel objects by the key that identifies them to the kernel."""

    links: Mapping[str, Link] = field(default_factory=lambda: MappingProxyType({}))
    """By name. Observed: every link there is, ours or not."""
    addresses: Mapping[tuple[str, str], IfAddress] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By link and address. Observed: every address there is, ours or not."""
    routes: Mapping[RouteKey, Route] = field(default_factory=lambda: MappingProxyType({}))
    """Observed: only ours."""
    learned: frozenset[Prefix] = field(default=frozenset(), compare=False)
    """Where the main table's routes lead that BIRD has set. Observed only."""
    rules: Mapping[tuple[int, int], Rule] = field(default_factory=lambda: MappingProxyType({}))
    """By family and priority. Observed: only ours."""
    sysctls: Mapping[str, Sysctl] = field(default_factory=lambda: MappingProxyType({}))
    """By name. Observed: those that the desired state may ask for."""
    pods: Mapping[str, Pod] = field(default_factory=lambda: MappingProxyType({}))
    """By name. Observed: those that were asked for, as far as their ports are there."""
    departed: frozenset[str] = frozenset()
    """Pods whose network namespace is not there (any more). Observed only."""
    filter: Filter | None = None
    """Our table of nftables."""
    filter_fault: str = ""
    """Why nftables can't be used here, if so. Observed only."""


# ---------------------------------------------------------------- IKE


IKE_REKEY: Final = 4 * 3600
"""Seconds after which an IKE_SA is rekeyed, at least."""


@dataclass(frozen=True, slots=True, order=True)
class Child:
    """One pair of traffic selectors of a connection."""

    local: Prefix
    remote: Prefix


@dataclass(frozen=True, slots=True)
class Conn:
    """A charon connection, `fabric-PEER`: one a peer, one child for each pair of subnets.

    `list-conns` does not return everything that `load-conn` takes, and prints identities in
    a form of its own. So the digest stands for all of it: it is part of every child's name,
    which is read back from connections and from SAs alike.
    """

    name: str
    digest: str
    """Of everything but the children (`core.connections`). Empty when observed names disagree."""
    children: frozenset[Child]
    turn: int | None = None
    """Where the peer initiates: which generation of CHILD_SAs comes next (`core.turns`). It is part
    of the children's names too."""
    local_id: str = field(default="", compare=False)
    remote_id: str = field(default="", compare=False)
    remote_addrs: tuple[str, ...] = field(default=(), compare=False)
    """Where to find the peer; `%any`: it comes to us."""
    dpd: int = field(default=10, compare=False)
    """Seconds of silence after which the peer is asked whether it lives."""

    @property
    def rekey(self) -> int:
        """Seconds after which its IKE_SAs are rekeyed. It follows from the digest: charon makes a
        CHILD_SA within any IKE_SA whose set-up equals the connection's, so to have peers
        authenticate anew there must be a difference that it sees; and it tells of an IKE_SA
        without CHILD_SAs what that was made with.
        """
        return IKE_REKEY + crc32(self.digest.encode()) % 3600

    def child_name(self, child: Child) -> str:
        """The child's name in charon."""
        name = f"{child.local}-{child.remote}-{self.digest}"
        return name if self.turn is None else f"{name}-{self.turn}"


class ChildName(NamedTuple):
    """What the name of a child of ours says."""

    pair: Child
    digest: str
    turn: int | None


@lru_cache(maxsize=65536)
def parse_child_name(name: str) -> ChildName | None:
    """The inverse of `Conn.child_name`, or None for a name not made by it."""
    parts = name.split("-")
    if len(parts) not in {3, 4} or "/" not in parts[0] or "/" not in parts[1] or not parts[2]:
        return None
    if len(parts) == 4 and not parts[3].isdecimal():
        return None
    pair = Child(Prefix(parts[0]), Prefix(parts[1]))
    return ChildName(pair, parts[2], int(parts[3]) if len(parts) == 4 else None)


@dataclass(frozen=True, slots=True)
class ChildSa:
    """A CHILD_SA, as `list-sas` shows it."""

    id: int
    """uniqueid: changes with each rekey."""
    name: str
    state: str
    """CREATED, ROUTED, INSTALLING, INSTALLED, UPDATING, REKEYING, REKEYED, RETRYING, DELETING …"""
    local: frozenset[str]
    """Traffic selectors as negotiated."""
    remote: frozenset[str]
    bytes_in: int = 0
    bytes_out: int = 0
    age: int = 0
    """Seconds from when it was installed to `IkeState.elapsed` ago; below 0 if it came since."""


@dataclass(frozen=True, slots=True)
class IkeSa:
    """An IKE_SA of one of our connections, as `list-sas` shows it."""

    id: int
    conn: str
    state: str
    """CREATED, CONNECTING, ESTABLISHED, PASSIVE, REKEYING, REKEYED, DELETING, DESTROYING."""
    initiator: bool
    remote_host: str = ""
    age: int = 0
    """Seconds from when it was established to `IkeState.elapsed` ago; below 0 if that was since."""
    children: tuple[ChildSa, ...] = ()
    rekey: int = field(default=0, compare=False)
    """Seconds from its beginning to its rekeying; 0: not known."""


@dataclass(frozen=True)
class IkeState:
    """What charon holds that is ours."""

    authorities: frozenset[str] = frozenset()
    """Names of CA certificates, `fabric-ca-DIGEST`."""
    keys: frozenset[str] = frozenset()
    """Identifiers of private keys: hex SHA-1 of the public key (RFC 5280, 4.2.1.2, method 1).
    Observed: every key in charon."""
    crls: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Certificate revocation lists: issuer to the list's number (RFC 5280, 5.2.3). Observed: every
    list in charon."""
    certificates: frozenset[bytes] = field(default=frozenset(), compare=False)
    """DER of certificates that charon has, the peers' among them. Observed only."""
    conns: Mapping[str, Conn] = field(default_factory=lambda: MappingProxyType({}))
    sas: tuple[IkeSa, ...] = ()
    elapsed: int = field(default=0, compare=False)
    """Seconds by which all SAs are older than they say (`age_of`): so what is as it was can stay
    the same object. Observed only."""
    plugins: frozenset[str] = field(default=frozenset(), compare=False)
    """What charon has loaded. Observed only."""
    userspace_esp: bool = False
    """charon runs `kernel-libipsec`: packets pass through its own tun device, `ipsec0`."""

    @cached_property
    def by_conn(self) -> Mapping[str, tuple[IkeSa, ...]]:
        """The IKE_SAs by connection, newest last."""
        found: dict[str, list[IkeSa]] = {}
        for sa in sorted(self.sas, key=attrgetter("id")):
            found.setdefault(sa.conn, []).append(sa)
        return {conn: tuple(sas) for conn, sas in found.items()}

    def age_of(self, sa: IkeSa | ChildSa) -> int:
        """Seconds since it was established, or installed."""
        return sa.age + self.elapsed

    def of(self, conn: str) -> tuple[IkeSa, ...]:
        """The IKE_SAs of a connection, newest last."""
        return self.by_conn.get(conn, ())
