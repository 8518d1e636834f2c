"""Doors: a gateway's routes to edges, each there while a CHILD_SA carries what it leads to.

They stand in the main table, where the cluster's BIRD learns them: so the gateway that carries an
edge is the one to which the cluster sends what is for that edge. Of several gateways the one where
an edge belongs has its subnet as it is, the next one its halves, the next its quarters: wherever
the edge is, the longest prefix leads there, though an older way may not have been withdrawn yet by
a gateway that died without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from fabricd.core.ownership import TABLE
from fabricd.core.routing import MAIN_TABLE, TUNNEL_METRIC, source, unroutable, within
from fabricd.core.state import IkeState, KernelState, Route, RouteKey
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Peering, rank_gateways
from fabricd.core.tunnels import installed
from fabricd.model import Node, Prefix, Role, family, network

METRIC: Final = 16
"""Before routes to the same prefix that BIRD has from another gateway (its default is 32)."""

MAX_SPLITS: Final = 3
"""Halvings: eight routes for a subnet are the most."""

Doors = Mapping[Prefix, tuple[Route, ...]]
"""Routes by the peer's subnet that has to be carried."""


def doors(
    self: Node | None, found: Iterable[Peering], nodes: Mapping[str, Node], around: Surroundings
) -> Doors:
    """A gateway's routes, were all of its edges here."""
    if self is None or self.role is not Role.CLOUD or around.tunnel_link is None:
        return {}
    gateways = [node for node in nodes.values() if node.role is Role.CLOUD]
    result: dict[Prefix, tuple[Route, ...]] = {}
    for peering in found:
        edge = peering.peer
        place = min(
            rank_gateways(edge.name, subnet, gateways).index(self.name) for subnet in self.subnets
        )
        for remote in sorted({child.remote for child in peering.children}):
            if unroutable(remote, around) is None:
                result[remote] = _door(self, remote, place, around)
    return result


def _door(self: Node, remote: Prefix, place: int, around: Surroundings) -> tuple[Route, ...]:
    from_here = source(self, family(remote), around)
    if remote in around.networks or not within(remote, around.networks):
        # Refused in our own table, where the main table's routes come too late or don't count.
        return (
            Route(TABLE, remote, link=around.tunnel_link, source=from_here, metric=TUNNEL_METRIC),
        )
    net = network(remote)
    halvings = min(place, MAX_SPLITS, net.max_prefixlen - net.prefixlen)
    return tuple(
        Route(
            MAIN_TABLE,
            Prefix(str(part)),
            link=around.tunnel_link,
            source=from_here,
            metric=METRIC,
        )
        for part in net.subnets(prefixlen_diff=halvings)
    )


def carried_remotes(ike: IkeState) -> frozenset[Prefix]:
    """The peers' subnets that some CHILD_SA carries."""
    return frozenset(pair.remote for pair in installed(ike.sas))


def with_doors(
    kernel: KernelState, all_doors: Doors, carried: frozenset[Prefix] | None, observed: KernelState
) -> KernelState:
    """The desired state with the doors that are open: those of `carried`; where that is not known,
    those that are there already.
    """
    routes: dict[RouteKey, Route] = dict(kernel.routes)
    for remote, ways in all_doors.items():
        for route in ways:
            if route.key in observed.routes if carried is None else remote in carried:
                routes[route.key] = route
    return replace(kernel, routes=routes)
