"""A gateway's routes to the edges that it carries."""

from __future__ import annotations

from fabricd.core.desired import DesiredState, desired
from fabricd.core.doors import with_doors
from fabricd.core.plan import plan
from fabricd.core.plan_kernel import describe_route
from fabricd.core.state import KernelState, Route
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Node, Prefix, Role

CLOUD = Prefix("10.233.0.0/16")
ONE, TWO = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")


def gateway(name: str, priority: int = 100) -> Node:
    return Node(name, Role.CLOUD, (CLOUD,), f"CN={name}", "10.0.0.9", priority=priority)


def edge(name: str, *subnets: str) -> Node:
    return Node(name, Role.EDGE, tuple(map(Prefix, subnets)), f"CN={name}", "10.0.0.1")


def seen_from(name: str, *nodes: Node) -> DesiredState:
    identity = Identity(frozenset(), "key1", "d")
    around = Surroundings(name, (Prefix("2.0.0.0/8"),), "br-edge", identity=identity)
    return desired({node.name: node for node in nodes}, {}, around)


def doors(state: DesiredState) -> dict[str, list[str]]:
    return {
        remote: [describe_route(route) for route in ways] for remote, ways in state.doors.items()
    }


def test_an_edge_has_none() -> None:
    assert seen_from("edge1", edge("edge1", ONE), gateway("gw1")).doors == {}


def test_each_further_gateway_cuts_the_subnet_in_halves() -> None:
    nodes = [edge("edge1", ONE), *(gateway(f"gw{n}", 100 - n) for n in range(1, 7))]
    counts = [len(seen_from(f"gw{n}", *nodes).doors[ONE]) for n in range(1, 7)]
    assert counts == [1, 2, 4, 8, 8, 8]
    assert doors(seen_from("gw2", *nodes)) == {
        ONE: [
            "2.2.2.0/28 dev fabric0 table 254 metric 16",
            "2.2.2.16/28 dev fabric0 table 254 metric 16",
        ]
    }


def test_an_address_can_t_be_cut() -> None:
    nodes = [edge("edge1", "2.2.2.1/32"), gateway("gw1", 200), gateway("gw2")]
    assert doors(seen_from("gw2", *nodes)) == {
        "2.2.2.1/32": ["2.2.2.1/32 dev fabric0 table 254 metric 16"]
    }


def test_a_subnet_outside_of_the_networks_stays_in_our_own_table() -> None:
    nodes = [edge("edge1", "192.168.7.0/24"), gateway("gw1", 200), gateway("gw2")]
    assert doors(seen_from("gw2", *nodes)) == {
        "192.168.7.0/24": ["192.168.7.0/24 dev fabric0 table 198 metric 100"]
    }


WANT = seen_from("gw1", edge("edge1", ONE), edge("edge2", TWO), gateway("gw1"))
[DOOR] = WANT.doors[ONE]


def opened(carried: frozenset[Prefix] | None, *there: Route) -> set[str]:
    routes = {route.key: route for route in there}
    state = with_doors(WANT.kernel, WANT.doors, carried, KernelState(routes=routes))
    return {describe_route(state.routes[key]) for key in state.routes.keys() - WANT.kernel.routes}


def test_a_door_is_open_while_a_child_sa_carries() -> None:
    assert opened(frozenset()) == set()
    assert opened(frozenset({ONE}), DOOR) == {describe_route(DOOR)}
    assert opened(frozenset({ONE, Prefix("2.9.9.0/24")})) == {describe_route(DOOR)}


def test_what_is_not_known_is_left_as_it_is() -> None:
    assert opened(None) == set()
    assert opened(None, DOOR) == {describe_route(DOOR)}


def test_a_door_is_closed_though_the_store_is_away() -> None:
    stale = Route(DOOR.table, Prefix("2.2.2.64/27"), link=DOOR.link, metric=16)
    routes = dict(WANT.kernel.routes)
    for route in (DOOR, stale):
        routes[route.key] = route
    kernel = KernelState(links=WANT.kernel.links, routes=routes, rules=WANT.kernel.rules)
    actions = plan(WANT, kernel, None, removals=False)
    assert [a.name for a in actions if "remove" in a.kind.value] == [
        f"route.remove {describe_route(DOOR)}"
    ]
