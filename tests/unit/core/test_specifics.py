"""More specific routes against what another gateway has left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from fabricd.core.desired import DesiredState, desired
from fabricd.core.doors import METRIC, with_doors
from fabricd.core.plan import plan
from fabricd.core.specifics import KEPT, MOST, YOUNG, beside_doors, specifics
from fabricd.core.state import KernelState, Route
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Node, Prefix, Role, network

CLOUD = Prefix("10.233.0.0/16"), Prefix("fd00:233::/48")
ONE, TWO = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")
HALVES = ("2.2.2.0/28", "2.2.2.16/28")
QUARTERS = ("2.2.2.0/29", "2.2.2.8/29", "2.2.2.16/29", "2.2.2.24/29")


def gateway(name: str, priority: int) -> Node:
    return Node(name, Role.CLOUD, CLOUD, f"CN={name}", "10.0.0.9", priority=priority)


def edge(name: str, *subnets: str) -> Node:
    return Node(name, Role.EDGE, tuple(map(Prefix, subnets)), f"CN={name}", "10.0.0.1")


def seen_from(name: str, *edges: Node) -> DesiredState:
    identity = Identity(frozenset(), "key1", "d")
    networks = (Prefix("2.0.0.0/8"), Prefix("fd00:2::/32"))
    around = Surroundings(name, networks, "br-edge", identity=identity)
    nodes = [*edges, gateway("gw1", 200), gateway("gw2", 100)]
    return desired({node.name: node for node in nodes}, {}, around)


WANT = seen_from("gw1", edge("edge1", ONE), edge("edge2", TWO))
[DOOR] = WANT.doors[ONE]


def there(*prefixes: str) -> tuple[Route, ...]:
    return tuple(replace(DOOR, prefix=Prefix(text)) for text in prefixes)


def beside(
    ages: Mapping[str, int] | None,
    learned: Iterable[str] = (),
    had: Iterable[str] = (),
    want: DesiredState = WANT,
) -> set[str]:
    """Prefixes of the routes beside the doors."""
    known = None if ages is None else {Prefix(name): age for name, age in ages.items()}
    others = frozenset(map(Prefix, learned))
    arrived = {name: others for name, age in (known or {}).items() if age < YOUNG}
    found = specifics(want.doors, known, frozenset(map(Prefix, had)), others, arrived)
    assert set(found) == {*there(*(route.prefix for route in found))}
    return {route.prefix for route in found}


def test_where_nothing_was_left_behind_there_are_none() -> None:
    assert beside({ONE: 0}) == set()
    assert beside({ONE: 0}, learned=("2.0.0.0/8", "2.2.2.64/28", TWO, "10.233.90.0/24")) == set()


def test_halves_left_behind_are_halved() -> None:
    assert beside({ONE: 0}, learned=HALVES) == {*QUARTERS}
    assert beside({ONE: 0}, learned=HALVES[:1]) == {*QUARTERS[:2]}


def test_what_is_shorter_than_the_door_does_no_harm() -> None:
    want = seen_from("gw2", edge("edge1", ONE))
    assert beside({ONE: 0}, learned=(ONE,), want=want) == set()
    assert beside({ONE: 0}, learned=(ONE, HALVES[0]), want=want) == {*QUARTERS[:2]}


def test_of_several_layers_the_longest_counts() -> None:
    layers = (*HALVES, *QUARTERS[:2])
    eighths = {"2.2.2.0/30", "2.2.2.4/30", "2.2.2.8/30", "2.2.2.12/30"}
    assert beside({ONE: 0}, learned=layers) == {*eighths, *QUARTERS[2:]}


def test_an_address_can_t_be_halved() -> None:
    want = seen_from("gw1", edge("edge1", "2.2.2.9/32"))
    assert beside({"2.2.2.9/32": 0}, learned=("2.2.2.9/32",), want=want) == set()


def test_there_are_never_more_than_a_table_can_bear() -> None:
    want = seen_from("gw1", edge("edge1", "2.3.0.0/16"))
    left = [str(part) for part in network("2.3.0.0/16").subnets(new_prefix=24)]
    assert len(beside({"2.3.0.0/16": 0}, learned=left, want=want)) == MOST


def test_only_who_carries_the_edge_does_so() -> None:
    assert beside({TWO: 0}, learned=HALVES) == set()
    assert beside({}, learned=HALVES, had=QUARTERS) == set()


def test_they_outlast_what_they_are_for() -> None:
    assert beside({ONE: YOUNG}, had=QUARTERS) == {*QUARTERS}, "others may still have the halves"
    assert beside({ONE: KEPT - 1}, had=QUARTERS) == {*QUARTERS}
    assert beside({ONE: KEPT}, had=QUARTERS) == set()
    assert beside({ONE: KEPT}, had=QUARTERS, learned=HALVES) == {*QUARTERS}


def test_after_an_orderly_move_they_go_soon() -> None:
    assert beside({ONE: YOUNG - 1}, had=QUARTERS) == set()


def test_what_is_not_known_is_left_as_it_is() -> None:
    assert beside(None, learned=HALVES) == set()
    assert beside(None, had=QUARTERS) == {*QUARTERS}


def test_ipv6() -> None:
    want = seen_from("gw1", edge("edge1", "fd00:2:0:1::/64"))
    found = beside({"fd00:2:0:1::/64": 0}, learned=("fd00:2:0:1::/65", *HALVES), want=want)
    assert found == {"fd00:2:0:1::/66", "fd00:2:0:1:4000::/66"}


def test_they_go_though_the_store_is_away() -> None:
    stale = there("2.2.2.64/28")
    observed = {route.key: route for route in (*WANT.kernel.routes.values(), *there(*HALVES))}
    observed |= {route.key: route for route in stale}
    kernel = KernelState(links=WANT.kernel.links, routes=observed, rules=WANT.kernel.rules)
    removed = {a.item for a in plan(WANT, kernel, None, removals=False) if a.kind == "route.remove"}
    assert removed == {*there(*HALVES)}
    assert beside_doors(WANT.doors, observed.values()) == {*there(*HALVES)}


# ---------------------------------------------------------------- two gateways


@dataclass
class Gateway:
    """One of two, with what BGP has told it."""

    want: DesiredState
    age: int | None = None
    """Of its CHILD_SA; None: it has none."""
    arrived: frozenset[Prefix] = frozenset()
    """What it had been told when its CHILD_SA came."""
    routes: dict[tuple[int, str, int], Route] = field(default_factory=dict)

    def look(self, learned: Iterable[Prefix]) -> None:
        """A pass over its kernel."""
        ages = {} if self.age is None else {ONE: self.age}
        observed = KernelState(routes=self.routes)
        there = {route.prefix for route in beside_doors(self.want.doors, self.routes.values())}
        arrived = {remote: self.arrived for remote, age in ages.items() if age < YOUNG}
        more = specifics(self.want.doors, ages, there, frozenset(learned), arrived)
        state = with_doors(KernelState(), self.want.doors, ages, observed, more)
        self.routes = dict(state.routes)

    @property
    def prefixes(self) -> set[Prefix]:
        return {route.prefix for route in self.routes.values() if route.metric == METRIC}

    @property
    def longest(self) -> int:
        return max(network(prefix).prefixlen for prefix in self.prefixes)


@pytest.mark.parametrize("since", [1, 1000])
@pytest.mark.parametrize(("old", "new"), [("gw1", "gw2"), ("gw2", "gw1")])
def test_while_an_edge_moves_the_new_one_wins_and_none_outdoes_the_other(
    old: str, new: str, since: int
) -> None:
    leaving, arriving = (Gateway(seen_from(name, edge("edge1", ONE))) for name in (old, new))
    leaving.age = since
    leaving.look(())
    arriving.arrived = frozenset(leaving.prefixes)
    for age in range(YOUNG):
        leaving.age, arriving.age = since + age, age
        arriving.look(leaving.prefixes)
        leaving.look(arriving.prefixes)
        assert arriving.longest == leaving.longest + 1
    leaving.age = None
    leaving.look(arriving.prefixes)
    arriving.look(leaving.prefixes)
    assert leaving.prefixes == set()
    assert arriving.prefixes == {door.prefix for door in arriving.want.doors[ONE]}
