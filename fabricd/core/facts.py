"""What has to be known to say why two pods can or cannot talk: values, gathered by others.

A part that could not be looked at says why in its `fault`. `core.explain` judges; nothing here
or there knows how a node is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fabricd.core.desired import DesiredState
from fabricd.core.state import IkeState, KernelState
from fabricd.model import Address, Community, Node, Rejection

# ---------------------------------------------------------------- records and what nodes publish


@dataclass(frozen=True, slots=True)
class Records:
    """The records in force, as far as they can be known here."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    communities: Mapping[str, Community] = field(default_factory=dict)
    rejected: tuple[Rejection, ...] = ()
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What rejected node records would have as subnets, as far as that can be read, by key."""
    fault: str = ""
    """Why the store did not answer: these are the last good records then, kept on this node."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """What a node says of one of its peers in its status document."""

    name: str
    up: bool
    state: str
    reason: str = ""
    last_error: str = ""
    blocks: tuple[str, ...] | None = None
    """The address blocks of the certificate that the peer has shown (RFC 3779); None: not known."""
    not_after: float | None = None
    """When that certificate ends, Unix seconds."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node's status document, as far as it matters here."""

    node: str
    peers: Mapping[str, PeerView] = field(default_factory=dict)
    synced: bool = True
    faults: tuple[str, ...] = ()
    """Why its store, kernel or charon do not answer, a line each."""


# ---------------------------------------------------------------- one node, looked at


@dataclass(frozen=True, slots=True)
class Lookup:
    """The kernel's answer to "where would this packet go?"."""

    packet: str
    """In words: `2.2.2.34 from 2.2.2.2 iif br-edge`."""
    link: str = ""
    """Where it leaves; `lo` for an address of the node's own."""
    table: str = ""
    source: str = ""
    """The address that a packet of the node's own would have."""
    refused: str = ""
    """What the kernel said instead."""


@dataclass(frozen=True, slots=True)
class Policy:
    """An XFRM policy that matches the two addresses, as ip-xfrm(8) shows it."""

    direction: str
    """`out`, `in` or `fwd`."""
    selector: str
    """`2.2.2.0/27 to 2.2.2.32/27`."""
    priority: int
    """The lowest number wins."""
    block: bool = False
    template: str = ""
    """The tunnel: `10.20.8.4 to 10.20.8.12`; empty: passed as it is, or blocked."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A rule of the packet filter that does something to the packets."""

    packet: str
    """Which ones: `2.2.2.2 to 2.2.2.34`."""
    rule: str
    """Table, chain and handle, for nft(8)."""
    does: str
    """`drops` or `changes the source of`."""
    certain: bool
    """False: a condition of it depends on the packet, or could not be judged."""


@dataclass(frozen=True, slots=True)
class Echo:
    """What came of ICMP echo requests (RFC 792, RFC 4443)."""

    target: Address
    answered: bool
    size: int = 0
    """Octets of the IP packet."""
    source: str = ""
    fault: str = ""
    """Why none could be sent."""


@dataclass(frozen=True, slots=True)
class Here:
    """The node on which this is asked: one of the two ends."""

    local: Address
    """The one of the two addresses that is behind this node."""
    remote: Address
    desired: DesiredState
    credential_faults: tuple[str, ...] = ()
    kernel: KernelState | None = None
    kernel_fault: str = ""
    ike: IkeState | None = None
    ike_fault: str = ""
    endpoint: Lookup | None = None
    """The way to the peer's endpoint; None: it has none, or only a DNS name."""
    endpoint_echo: Echo | None = None
    out: Lookup | None = None
    """The way of a packet from the local pod to the remote one."""
    delivery: Lookup | None = None
    """The way of a packet from the remote pod to the local one, once it is out of the tunnel."""
    policies: tuple[Policy, ...] = ()
    policies_fault: str = ""
    obstacles: tuple[Obstacle, ...] = ()
    ike_obstacles: tuple[Obstacle, ...] = ()
    """What the packet filter does to IKE and ESP between the two nodes."""
    filter_fault: str = ""
    """What of the packet filter could not be read, and why."""
    neighbour: str = ""
    """NUD state of the local pod on its link: `REACHABLE`, `FAILED` …; empty: none known."""
    local_echo: Echo | None = None
    remote_echo: Echo | None = None
    peer_echo: Echo | None = None
    """From the peer's own address inside its subnet; None: not known which."""
    big_echo: Echo | None = None
    """The largest packet that this node's side of the path takes, not to be fragmented."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    name: str
    """The node on which this is asked."""
    source: Address
    destination: Address
    records: Records
    prefix: str = "/fabric"
    """Of the keys in the store, for messages."""
    now: float = 0.0
    """Unix seconds."""
    daemon: NodeView | None = None
    """What this node's daemon says."""
    daemon_fault: str = ""
    published: Mapping[str, NodeView] = field(default_factory=dict)
    """What the nodes have published in the store."""
    published_fault: str = ""
    here: Here | None = None
    """None: neither address is behind this node, or they never meet on it."""

    def ask_on(self, *nodes: str) -> str:
        """What to do to see more: ask there."""
        return f"run fabricctl why {self.source} {self.destination} on {' or '.join(nodes)}"

    @property
    def views(self) -> Mapping[str, NodeView]:
        """What nodes say, this one's daemon before what it has published."""
        own = {} if self.daemon is None else {self.name: self.daemon}
        return {**self.published, **own}
