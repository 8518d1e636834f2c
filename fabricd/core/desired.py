"""From the records in force to what this node's kernel and charon should hold.

A pure function: the same records, credentials and surroundings give the same state. What the
surroundings are (the link that carries tunnels, the node's own addresses) is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from fabricd.core.action import Tunnel
from fabricd.core.claims import endpoint_prefix
from fabricd.core.ownership import (
    DEAD_END,
    LINK_ALIAS,
    ROUTE_PROTOCOL,
    RULE_PRIORITY,
    TABLE,
    conn_name,
    owns_address,
    owns_link,
)
from fabricd.core.state import (
    Child,
    Conn,
    IfAddress,
    KernelState,
    Link,
    Route,
    RouteKind,
    Rule,
    Sysctl,
)
from fabricd.core.topology import Peering, peerings
from fabricd.model import (
    Address,
    Community,
    Node,
    Prefix,
    Role,
    address,
    family,
    first_host,
    network,
)

MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""

TUNNEL_METRIC: Final = 100
FAIL_CLOSED_METRIC: Final = 10_000
"""Behind every other route to the same prefix: it matters when no tunnel's route is there."""
BLACKHOLE_METRIC: Final = 198
"""Lets a blackhole that an operator set by hand (metric 0) stand beside ours, untouched."""

FORWARDING: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}

ANY: Final = "%any"

USERSPACE_LINK: Final = "ipsec0"
"""The tun device of strongSwan's `kernel-libipsec` plugin (kernel_libipsec_router.c)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node proves itself with, as far as the desired state depends on it."""

    authorities: frozenset[str]
    """Names of the CA certificates that charon has to trust."""
    key: str
    """Identifier of the private key."""
    digest: str
    """Changes with the certificate, the CA set, and the template of a connection."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the node that are not in any record."""

    name: str
    """This node's."""
    networks: tuple[Prefix, ...]
    """All edge pods live in these."""
    bridge: str
    """Name of the pods' bridge on an edge."""
    tunnel_link: str | None = DEAD_END
    """Where routes to peers lead: the dead end with the kernel's ESP, charon's tun device else.
    None: neither can be had."""
    local_addresses: tuple[Address, ...] = ()
    """The node's own addresses: a gateway takes the source of its routes from among them."""
    identity: Identity | None = None
    """None: credentials can't be used, so charon is left as it is."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What should be."""

    node: Node | None
    """This node's record; None: it is not in the fabric (any more)."""
    peerings: tuple[Peering, ...]
    kernel: KernelState
    authorities: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    conns: Mapping[str, Conn] = field(default_factory=dict)
    carried: Mapping[str, frozenset[Child]] = field(default_factory=dict)
    """By connection: the pairs that need a CHILD_SA."""
    tunnels: Mapping[str, tuple[Tunnel, ...]] = field(default_factory=dict)
    """By connection: what this node has to initiate; empty where the peer does."""
    ike: bool = True
    """Whether anything is known about charon's part."""
    kept_links: frozenset[str] = frozenset()
    """Links that stay if they are there: pods hang on the bridge of a node without a record."""


NOTHING: Final = DesiredState(node=None, peerings=(), kernel=KernelState())
"""The state of a node that has nothing of the fabric: what `purge` strives for."""


def desired(
    nodes: Mapping[str, Node], communities: Mapping[str, Community], around: Surroundings
) -> DesiredState:
    """Derive the state of the node `around.name`."""
    self = nodes.get(around.name)
    found = peerings(self, nodes, communities) if self else ()
    conns, carried, tunnels = _ike(self, found, around.identity)
    return DesiredState(
        node=self,
        peerings=found,
        kernel=_kernel(self, found, nodes, around),
        authorities=around.identity.authorities if around.identity else frozenset(),
        keys=frozenset({around.identity.key}) if around.identity else frozenset(),
        conns=conns,
        carried=carried,
        tunnels=tunnels,
        ike=around.identity is not None,
        kept_links=frozenset() if self else frozenset({around.bridge}),
    )


# ---------------------------------------------------------------- kernel


def _kernel(
    self: Node | None,
    found: tuple[Peering, ...],
    nodes: Mapping[str, Node],
    around: Surroundings,
) -> KernelState:
    links = [Link(DEAD_END, "bridge", up=True, alias=LINK_ALIAS)]
    addresses: list[IfAddress] = []
    if self is not None and self.role is Role.EDGE:
        links.append(Link(around.bridge, "bridge", up=True, alias=LINK_ALIAS))
        addresses = [
            IfAddress(
                around.bridge, f"{first_host(s)}/{network(s).prefixlen}", protocol=ROUTE_PROTOCOL
            )
            for s in self.subnets
        ]
    routes = [
        *_fail_closed(self, nodes.values(), around.networks),
        *_to_peers(self, found, around),
    ]
    families = {family(route.prefix) for route in routes if route.table == TABLE}
    forwarded = {family(subnet) for subnet in self.subnets} if self else set()
    return KernelState(
        links={link.name: link for link in links},
        addresses={(item.link, item.address): item for item in addresses},
        routes={(r.table, r.prefix, r.metric): r for r in routes},
        rules={
            (number, RULE_PRIORITY): Rule(number, RULE_PRIORITY, TABLE)
            for number in sorted(families)
        },
        sysctls={FORWARDING[n]: Sysctl(FORWARDING[n], "1") for n in sorted(forwarded)},
    )


def _fail_closed(
    self: Node | None, nodes: Collection[Node], networks: tuple[Prefix, ...]
) -> list[Route]:
    """Routes that refuse what would otherwise follow the default route in clear text."""
    result = []
    refused = set(networks)
    if self is not None and self.role is Role.CLOUD:
        result += [
            Route(MAIN_TABLE, net, RouteKind.BLACKHOLE, metric=BLACKHOLE_METRIC) for net in networks
        ]
        refused = set()
    for node in nodes:
        if node is self or (self and Role.CLOUD is self.role is node.role):
            continue
        refused |= {s for s in node.subnets if not _within(s, networks)}
    result += [
        Route(TABLE, net, RouteKind.UNREACHABLE, metric=FAIL_CLOSED_METRIC)
        for net in sorted(refused)
    ]
    # An underlay inside a network of the fabric: what the tunnels themselves use stays reachable.
    result += [
        Route(TABLE, endpoint, RouteKind.THROW, metric=FAIL_CLOSED_METRIC)
        for endpoint in sorted(set(filter(None, map(endpoint_prefix, nodes))))
        if _within(endpoint, refused)
    ]
    if self is not None and self.role is Role.EDGE:
        # The node's own pods are reached as the main table says.
        result += [
            Route(TABLE, s, RouteKind.THROW, metric=FAIL_CLOSED_METRIC) for s in self.subnets
        ]
    return result


def _to_peers(self: Node | None, found: tuple[Peering, ...], around: Surroundings) -> list[Route]:
    if self is None or around.tunnel_link is None:
        return []
    sources = {n: _source(self, n, around) for n in (4, 6)}
    remotes = sorted({child.remote for peering in found for child in peering.carried})
    return [
        Route(
            TABLE,
            remote,
            link=around.tunnel_link,
            source=sources[family(remote)],
            metric=TUNNEL_METRIC,
        )
        for remote in remotes
    ]


def _source(self: Node, number: int, around: Surroundings) -> Address | None:
    """An address of the node inside its own subnets, so that the node itself fits the traffic
    selectors: an edge's gateway address, on a gateway whichever the cluster's CNI has set.
    """
    subnets = [s for s in self.subnets if family(s) == number]
    if self.role is Role.EDGE:
        return first_host(subnets[0]) if subnets else None
    inside = (
        a
        for a in around.local_addresses
        if family(a) == number and _within(Prefix(f"{a}/{32 if number == 4 else 128}"), subnets)
    )
    return min(inside, default=None)


def _within(subnet: Prefix, networks: Iterable[Prefix]) -> bool:
    inner = network(subnet)
    return any(
        family(outer) == family(subnet) and inner.subnet_of(network(outer))  # type: ignore[arg-type]
        for outer in networks
    )


# ---------------------------------------------------------------- IKE


def _ike(
    self: Node | None, found: tuple[Peering, ...], identity: Identity | None
) -> tuple[dict[str, Conn], dict[str, frozenset[Child]], dict[str, tuple[Tunnel, ...]]]:
    conns: dict[str, Conn] = {}
    carried: dict[str, frozenset[Child]] = {}
    tunnels: dict[str, tuple[Tunnel, ...]] = {}
    if self is None or identity is None:
        return conns, carried, tunnels
    for peering in found:
        if peering.obstacle:
            continue
        conn = _conn(self, peering, identity)
        conns[conn.name] = conn
        carried[conn.name] = peering.carried
        names = sorted(conn.child_name(child) for child in peering.carried) or [""]
        tunnels[conn.name] = (
            tuple(Tunnel(conn.name, name) for name in names) if peering.initiate else ()
        )
    return conns, carried, tunnels


def _conn(self: Node, peering: Peering, identity: Identity) -> Conn:
    # The responder takes the peer from wherever it comes, its certificate decides: so a peer
    # that moves or sits behind NAT changes nothing here, and needs no record's change.
    endpoint = peering.peer.endpoint if peering.initiate else None
    remote_addrs = (endpoint or ANY,)
    parts = (self.identity, peering.peer.identity, *remote_addrs, identity.digest)
    return Conn(
        name=conn_name(peering.peer.name),
        digest=sha256("\0".join(parts).encode()).hexdigest()[:8],
        children=peering.children,
        local_id=self.identity,
        remote_id=peering.peer.identity,
        remote_addrs=remote_addrs,
    )


def local_addresses(state: KernelState) -> tuple[Address, ...]:
    """The node's addresses, without prefix lengths, sorted. Not those that we have put there:
    a route that takes one as its source goes with it.
    """
    return tuple(
        sorted(
            address(item.address.partition("/")[0])
            for item in state.addresses.values()
            if not owns_address(state, item)
        )
    )


def tunnel_link(state: KernelState, userspace_esp: bool | None) -> str | None:
    """Where the routes to peers have to lead; None when another link has the dead end's name,
    out of which clear text could go anywhere.

    charon's `kernel-libipsec` decrypts and encrypts between sockets and a tun device that it
    makes itself; without that device, or with the kernel's own ESP, they lead to the dead end.
    `userspace_esp` is None as long as charon has not been asked: then the device tells.
    """
    device = state.links.get(USERSPACE_LINK)
    if userspace_esp is not False and device is not None and device.kind == "tun":
        return USERSPACE_LINK
    dead_end = state.links.get(DEAD_END)
    return DEAD_END if dead_end is None or owns_link(dead_end) else None
