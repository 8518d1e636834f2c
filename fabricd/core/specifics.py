"""More specific routes: what a gateway sets against routes that another one has left behind.

A gateway that dies without a word leaves its routes to edges in everybody's tables until BGP's hold
time is over. Where the gateway that carries an edge by then has no longer prefixes to offer, the
cluster's traffic goes to the dead one. So a gateway that has just got an edge looks at what BIRD
has learned from others, and sets the halves of that against it.

Only a gateway whose CHILD_SA is young does so, and only against what was there before it. While an
edge moves, two of them have one: if the older answered what the younger sets, they would outdo each
other until there is nothing left to halve, and the cluster would follow the wrong one meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from fabricd.core.doors import METRIC, Doors, to_part
from fabricd.core.routing import MAIN_TABLE
from fabricd.core.state import Route
from fabricd.model import Prefix, family, holders, network

YOUNG: Final = 30
"""Seconds in which a gateway that has got an edge reacts to what it learns. In an orderly move the
other one's routes are gone after ten, and a look at the kernel follows (`daemon.pacing.SWEEP`)."""

KEPT: Final = 300
"""Seconds for which more specific routes stay at least, after that as long as there is a reason:
others may hold what was left behind for longer than this node. BIRD's hold time is 240 s."""

FEW: Final = 16
"""Prefixes for which it is quicker to go through all that hold each than to sort all subnets."""

MOST: Final = 64
"""Of these routes to one subnet."""


def specifics(
    all_doors: Doors,
    ages: Mapping[Prefix, int] | None,
    there: Collection[Prefix],
    learned: Collection[Prefix],
    arrived: Mapping[Prefix, Collection[Prefix]],
) -> tuple[Route, ...]:
    """The routes beside the doors, sorted. `ages`: the peers' subnets that are carried, with the
    seconds since the latest CHILD_SA; None: not known, what is there stays. `there`: where those
    lead that are there by now; `learned`: where BIRD's lead. `arrived`: of subnets whose CHILD_SA
    is young, what had been learned when it came; of the others no more is set than is there.
    """
    if not there and not (arrived and learned):
        return ()
    carried = all_doors.keys() & (all_doors if ages is None else ages).keys()
    had = _inside(there, carried)
    left = _inside(learned, carried & (arrived.keys() | had.keys()))
    result: list[Route] = []
    for remote in left.keys() | had.keys():
        doors = all_doors[remote]
        if doors[0].table != MAIN_TABLE:
            continue
        against = _no_shorter(left.get(remote, set()), doors)
        age = KEPT - 1 if ages is None else ages[remote]
        wanted: Iterable[Prefix] = ()
        if age < YOUNG and remote in arrived:
            against = against.intersection(arrived[remote])
            wanted = _halves(against).difference(against, (door.prefix for door in doors))
        elif age < KEPT or against:
            wanted = had.get(remote, ())
        by_length = sorted(wanted, key=lambda part: (network(part).prefixlen, part))
        result += [to_part(doors[0], part) for part in by_length[:MOST]]
    return tuple(sorted(result, key=lambda route: route.key))


def beside_doors(all_doors: Doors, routes: Iterable[Route]) -> set[Route]:
    """Those of our routes that lead to a part of what some door leads to, and are no doors."""
    doors = {route.key for ways in all_doors.values() for route in ways}
    alike = {
        route
        for route in routes
        if route.table == MAIN_TABLE and route.metric == METRIC and route.key not in doors
    }
    if not alike:  # as nearly always
        return set()
    found = _inside({route.prefix for route in alike}, all_doors)
    parts = {part for parts in found.values() for part in parts}
    return {route for route in alike if route.prefix in parts}


def _no_shorter(prefixes: Iterable[Prefix], doors: tuple[Route, ...]) -> set[Prefix]:
    length = network(doors[0].prefix).prefixlen
    return {prefix for prefix in prefixes if network(prefix).prefixlen >= length}


def _halves(prefixes: Iterable[Prefix]) -> set[Prefix]:
    """A single address has none."""
    return {
        Prefix(str(half))
        for net in map(network, prefixes)
        if net.prefixlen < net.max_prefixlen
        for half in net.subnets()
    }


def _inside(prefixes: Collection[Prefix], subnets: Collection[Prefix]) -> dict[Prefix, set[Prefix]]:
    """Those that lie in one of `subnets`, a set or mapping, by that; a subnet is never in another.
    There may be thousands of both; nearly always there are few prefixes.
    """
    if len(prefixes) <= FEW:
        few: dict[Prefix, set[Prefix]] = {}
        for prefix in prefixes:
            for subnet in filter(subnets.__contains__, holders(prefix)):
                few.setdefault(subnet, set()).add(prefix)
        return few
    by_place = {_place(subnet, network(subnet).prefixlen): subnet for subnet in subnets}
    lengths = sorted({(number, length) for number, length, _ in by_place})
    found: dict[Prefix, set[Prefix]] = {}
    for prefix in prefixes:
        for subnet in _holders(prefix, lengths, by_place):
            found.setdefault(subnet, set()).add(prefix)
    return found


_Place = tuple[int, int, int]
"""Address family, prefix length, the bits of the prefix."""


def _holders(
    prefix: Prefix, lengths: list[tuple[int, int]], by_place: Mapping[_Place, Prefix]
) -> Iterator[Prefix]:
    number, own = family(prefix), network(prefix).prefixlen
    for each, length in lengths:
        if each == number and length <= own:
            subnet = by_place.get(_place(prefix, length))
            if subnet is not None:
                yield subnet


def _place(prefix: Prefix, length: int) -> _Place:
    net = network(prefix)
    return net.version, length, int(net.network_address) >> (net.max_prefixlen - length)
