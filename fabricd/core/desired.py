"""From the records in force to what this node's kernel and charon should hold.

A pure function: the same records, credentials and surroundings give the same state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fabricd.core.action import Tunnel
from fabricd.core.connections import connections
from fabricd.core.doors import Doors, doors
from fabricd.core.routing import kernel_state, unroutable
from fabricd.core.state import Child, Conn, KernelState
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Peering, peerings
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
    """Links that stay if they are there: pods hang on the bridge of a node without a record."""


NOTHING: Final = DesiredState(node=None, peerings=(), kernel=KernelState())
"""The state of a node that has nothing of the fabric: what `purge` strives for."""


def desired(
    nodes: Mapping[str, Node], communities: Mapping[str, Community], around: Surroundings
) -> DesiredState:
    """Derive the state of the node `around.name`."""
    self = nodes.get(around.name)
    found = peerings(self, nodes, communities, dict(around.unfit)) if self else ()
    identity = around.identity
    ike = connections(self, found, around)
    return DesiredState(
        node=self,
        peerings=found,
        kernel=kernel_state(self, found, nodes, around),
        authorities=identity.authorities if identity else frozenset(),
        keys=frozenset({identity.key}) if identity else frozenset(),
        retired_keys=identity.retired if identity else frozenset(),
        crls=dict(identity.crls) if identity else {},
        conns=ike.conns,
        carried=ike.carried,
        tunnels=ike.tunnels,
        ike=identity is not None,
        doors=doors(self, found, nodes, around),
        unroutable=tuple(
            (peering.peer.name, remote, net)
            for peering in found
            for remote in peering.peer.subnets
            if (net := unroutable(remote, around)) is not None
        ),
        kept_links=frozenset() if self else frozenset({around.bridge}),
    )
