"""Doors: a gateway's routes to edges, each there while a CHILD_SA carries what it leads to.

They stand in the main table, where the cluster's BIRD learns them: so the gateway that carries an
edge is the one to which the cluster sends what is for that edge. Of several gateways the one where
an edge belongs has its subnet as it is, the next one its halves, the next its quarters: wherever
the edge is, the longest prefix leads there, though an older way may not have been withdrawn yet by
a gateway that died without a word. (Where that is not enough, `core.specifics` stand beside them.)
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from fabricd.core.kept import KeptEach
from fabricd.core.ownership import TABLE
from fabricd.core.routing import MAIN_TABLE, TUNNEL_METRIC, source, unroutable
from fabricd.core.state import IkeSa, IkeState, KernelState, Route, RouteKey
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Peering, rank_gateways
from fabricd.core.tunnels import carrying
from fabricd.model import Node, Prefix, Role, family, network, within

METRIC: Final = 16
"""Before routes to the same prefix that BIRD has from another gateway (its default is 32)."""

MAX_SPLITS: Final = 3
"""Halvings: eight routes for a subnet are the most."""

Doors = Mapping[Prefix, tuple[Route, ...]]
"""Routes by the peer's subnet that has to be carried."""


class Way(NamedTuple):
    """One peering of a gateway's, and what it has to know to open the doors to there."""

    self: Node
    peering: Peering
    gateways: tuple[Node, ...]
    around: Surroundings


def doors(
    self: Node | None,
    found: Iterable[Peering],
    gateways: Iterable[Node],
    around: Surroundings,
    kept: KeptEach[str, Way, Doors] | None = None,
) -> Doors:
    """A gateway's routes, were all of its edges here. `kept`: as for `topology.peerings`."""
    if self is None or self.role is not Role.CLOUD or around.tunnel_link is None:
        return {}
    kept, others = kept or KeptEach(doors_to), tuple(gateways)
    ways = ((peering.peer.name, Way(self, peering, others, around)) for peering in found)
    result: dict[Prefix, tuple[Route, ...]] = {}
    for found_doors in kept.of(ways).values():
        result |= found_doors
    return result


def doors_to(way: Way) -> Doors:
    """The routes to one edge."""
    self, peering, gateways, around = way
    ranks = (rank_gateways(peering.peer.name, subnet, gateways) for subnet in self.subnets)
    place = min(rank.index(self.name) for rank in ranks)
    return {
        remote: _door(self, remote, place, around)
        for remote in sorted({child.remote for child in peering.children})
        if unroutable(remote, around) is None
    }


def _door(self: Node, remote: Prefix, place: int, around: Surroundings) -> tuple[Route, ...]:
    from_here = source(self, family(remote), around)
    if remote in around.networks or not within(remote, around.networks):
        # Refused in our own table, where the main table's routes come too late or don't count.
        return (
            Route(TABLE, remote, link=around.tunnel_link, source=from_here, metric=TUNNEL_METRIC),
        )
    net = network(remote)
    halvings = min(place, MAX_SPLITS, net.max_prefixlen - net.prefixlen)
    door = Route(MAIN_TABLE, remote, link=around.tunnel_link, source=from_here, metric=METRIC)
    return tuple(to_part(door, Prefix(str(part))) for part in net.subnets(prefixlen_diff=halvings))


def to_part(door: Route, part: Prefix) -> Route:
    """A route through the same door, to a part of what it leads to."""
    return replace(door, prefix=part)


def carried_ages(
    ike: IkeState, kept: KeptEach[str, tuple[IkeSa, ...], Mapping[Prefix, int]] | None = None
) -> dict[Prefix, int]:
    """The peers' subnets that some CHILD_SA carries, with the seconds since the latest of these was
    installed. `kept`: as for `topology.peerings`, by connection.
    """
    kept = kept or KeptEach(ages_in)
    ages: dict[Prefix, int] = {}
    for found in kept.of(ike.by_conn.items()).values():
        for remote, stated in found.items():
            age = stated + ike.elapsed
            ages[remote] = min(age, ages.get(remote, age))
    return ages


def ages_in(sas: Iterable[IkeSa]) -> Mapping[Prefix, int]:
    """The same of some IKE_SAs, with the ages that they say themselves."""
    ages: dict[Prefix, int] = {}
    for pair, child in carrying(sas):
        ages[pair.remote] = min(child.age, ages.get(pair.remote, child.age))
    return ages


def with_doors(
    kernel: KernelState,
    all_doors: Doors,
    carried: Container[Prefix] | None,
    observed: KernelState,
    beside: Iterable[Route] = (),
) -> KernelState:
    """The desired state with the doors that are open: those of `carried`; where that is not known,
    those that are there already. `beside`: more routes, from `core.specifics`.
    """
    routes: dict[RouteKey, Route] = {**kernel.routes, **{route.key: route for route in beside}}
    for remote, ways in all_doors.items():
        for route in ways:
            if route.key in observed.routes if carried is None else remote in carried:
                routes[route.key] = route
    return replace(kernel, routes=routes)
