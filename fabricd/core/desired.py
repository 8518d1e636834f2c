"""From the records in force to what this node's kernel and charon should hold.

A pure function: the same records, credentials and surroundings give the same state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from fabricd.core.action import Tunnel
from fabricd.core.connections import Connection, Side, connection, connections
from fabricd.core.doors import Doors, Way, doors, doors_to
from fabricd.core.index import Index
from fabricd.core.kept import KeptEach
from fabricd.core.mtu import ETHERNET, pod_mtu
from fabricd.core.routing import kernel_state, unroutable
from fabricd.core.state import Child, Conn, KernelState
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Pair, Peering, peering, peerings
from fabricd.model import Community, Node, Prefix


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What should be."""

    node: Node | None
    """This node's record; None: it is not in the fabric (any more)."""
    peerings: tuple[Peering, ...]
    kernel: KernelState
    authorities: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    retired_keys: frozenset[str] = frozenset()
    crls: Mapping[str, int] = field(default_factory=dict)
    conns: Mapping[str, Conn] = field(default_factory=dict)
    carried: Mapping[str, frozenset[Child]] = field(default_factory=dict)
    """By connection: the pairs that need a CHILD_SA."""
    tunnels: Mapping[str, tuple[Tunnel, ...]] = field(default_factory=dict)
    """By connection: what this node has to initiate; empty where the peer does."""
    ike: bool = True
    """Whether anything is known about charon's part."""
    doors: Doors = field(default_factory=dict)
    """A gateway's routes to edges; those that are open are in `kernel` too."""
    unroutable: tuple[tuple[str, Prefix, Prefix], ...] = ()
    """Peer, its subnet, and what of this node's own that lies in: no route leads there."""
    kept_links: frozenset[str] = frozenset()
    """Links that stay if they are there: pods hang on the bridge of a node without a record. So
    does our table of nftables then."""
    kept_ports: bool = False
    """Not all pods that are attached are known: ends on the bridge stay, whoever's they are, but
    for `left_ports`."""
    left_ports: frozenset[str] = frozenset()
    """Ends on the bridge of pods that are being detached."""
    pod_mtu: int = ETHERNET
    """Octets: what pods may send at most in one packet."""


NOTHING: Final = DesiredState(node=None, peerings=(), kernel=KernelState())
"""The state of a node that has nothing of the fabric: what `purge` strives for."""


class Memory:
    """What was found for each peer the last time, and all records by what is asked of them."""

    def __init__(self, networks: Collection[Prefix]) -> None:
        """`networks`: the fabric's."""
        self.index = Index(networks)
        self.peerings = KeptEach[str, Pair, Peering](peering)
        self.connections = KeptEach[str, Side, Connection](connection)
        self.doors = KeptEach[str, Way, Doors](doors_to)


def desired(
    nodes: Mapping[str, Node],
    communities: Mapping[str, Community],
    around: Surroundings,
    memory: Memory | None = None,
) -> DesiredState:
    """Derive the state of the node `around.name`. `memory`: of other records, which is brought up
    to date for these; that costs less than a new one.
    """
    memory = memory or Memory(around.networks)
    index = memory.index
    index.update(nodes, communities)
    self = nodes.get(around.name)
    found = peerings(self, index, dict(around.unfit), memory.peerings) if self else ()
    identity = around.identity
    ike = connections(self, found, around, memory.connections)
    return DesiredState(
        node=self,
        peerings=found,
        kernel=kernel_state(self, found, index, around),
        authorities=identity.authorities if identity else frozenset(),
        keys=frozenset({identity.key}) if identity else frozenset(),
        retired_keys=identity.retired if identity else frozenset(),
        crls=dict(identity.crls) if identity else {},
        conns={each.conn.name: each.conn for each in ike},
        carried={each.conn.name: each.carried for each in ike},
        tunnels={each.conn.name: each.tunnels for each in ike},
        ike=identity is not None,
        doors=doors(self, found, index.gateways.values(), around, memory.doors),
        unroutable=tuple(
            (peering.peer.name, remote, net)
            for peering in found
            for remote in peering.peer.subnets
            if (net := unroutable(remote, around)) is not None
        ),
        kept_links=frozenset() if self else frozenset({around.bridge}),
        pod_mtu=pod_mtu(self, (peering.peer for peering in found), around),
    )
