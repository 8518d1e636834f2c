"""Who peers with whom, who initiates, which gateway carries an edge."""

from __future__ import annotations

from collections import Counter

import pytest

from fabricd.core.index import Index
from fabricd.core.state import Child
from fabricd.core.topology import Peering, choose_gateway, initiates, peerings
from fabricd.model import Community, Node, Prefix, Role

CLUSTER = Prefix("10.233.0.0/16")


def edge(
    name: str, *tokens: str, endpoint: str | None = "10.20.8.1", subnets: tuple[str, ...] = ()
) -> Node:
    number = int(name.strip("edgc") or 0)
    return Node(
        name,
        Role.EDGE,
        tuple(map(Prefix, subnets or (f"2.2.{number}.0/27",))),
        f"CN={name}",
        endpoint,
        frozenset(tokens),
    )


def gateway(
    name: str, *subnets: str, priority: int = 100, endpoint: str | None = "10.20.8.9"
) -> Node:
    having = tuple(map(Prefix, subnets or (CLUSTER,)))
    return Node(name, Role.CLOUD, having, f"CN={name}", endpoint, priority=priority)


def seen_from(name: str, *nodes: Node, **communities: list[str]) -> dict[str, Peering]:
    by_name = {node.name: node for node in nodes}
    by_token = {t: Community(t, frozenset(members)) for t, members in communities.items()}
    return {p.peer.name: p for p in peerings(by_name[name], Index.of(by_name, by_token))}


# ---------------------------------------------------------------- who peers with whom


def test_every_edge_with_every_gateway() -> None:
    nodes = (edge("edge1"), edge("edge2"), gateway("gw1"), gateway("gw2"))
    assert list(seen_from("edge1", *nodes)) == ["gw1", "gw2"]
    assert list(seen_from("gw1", *nodes)) == ["edge1", "edge2"]


def test_gateways_not_with_each_other_whatever_they_share() -> None:
    assert seen_from("gw1", gateway("gw1"), gateway("gw2"), app1=["gw1", "gw2"]) == {}


def test_edges_when_they_share_a_community() -> None:
    nodes = (edge("edge1", "a", "b"), edge("edge2", "b", "c"), edge("edge3", "c"), edge("edge4"))
    assert list(seen_from("edge1", *nodes)) == ["edge2"]
    assert list(seen_from("edge2", *nodes)) == ["edge1", "edge3"]
    assert seen_from("edge4", *nodes) == {}
    assert seen_from("edge1", *nodes)["edge2"].because == ("b",)


def test_the_communitys_record_lists_nodes_that_do_not_name_it() -> None:
    nodes = (edge("edge1", "a"), edge("edge2"), edge("edge3"))
    found = seen_from("edge2", *nodes, a=["edge2", "nobody"], z=["edge2", "edge3"])
    assert {name: peering.because for name, peering in found.items()} == {
        "edge1": ("a",),
        "edge3": ("z",),
    }


def test_a_gateway_in_a_community_is_a_gateway_all_the_same() -> None:
    found = seen_from("edge1", edge("edge1", "a"), gateway("gw1"), a=["gw1"])
    assert found["gw1"].because == ()


def test_memberships_come_from_both_records() -> None:
    nodes = {"edge1": edge("edge1", "a"), "edge2": edge("edge2")}
    communities = {"b": Community("b", frozenset({"edge1", "edge2", "nobody"}))}
    index = Index.of(nodes, communities)
    assert [index.tokens(node) for node in nodes.values()] == [{"a", "b"}, {"b"}]


# ---------------------------------------------------------------- who initiates


@pytest.mark.parametrize(
    ("one", "other", "initiator"),
    [
        (edge("edge1"), gateway("gw"), "edge1"),
        (edge("edge1", endpoint=None), gateway("gw"), "edge1"),
        (edge("edge1"), gateway("gw", endpoint=None), "edge1"),  # even if it can't
        (edge("edge1"), gateway("a"), "edge1"),
        (edge("edge1"), edge("edge2"), "edge1"),
        (edge("edge10"), edge("edge2"), "edge10"),  # the lower name, not the lower number
        (edge("edge1", endpoint=None), edge("edge2", endpoint=None), "edge1"),
        (edge("edge1"), edge("edge2", endpoint=None), "edge2"),
        (edge("edge1", endpoint=None), edge("edge2"), "edge1"),
    ],
)
def test_exactly_one_initiates(one: Node, other: Node, initiator: str) -> None:
    assert initiates(one, other) == (one.name == initiator)
    assert initiates(other, one) == (other.name == initiator)


@pytest.mark.parametrize(
    ("one", "other", "obstacle"),
    [
        (edge("edge1"), edge("edge2"), ""),
        (edge("edge1", endpoint=None), gateway("gw"), ""),
        (
            edge("edge1", endpoint=None),
            edge("edge2", endpoint=None),
            "neither edge1 nor edge2 has an endpoint",
        ),
        (edge("edge1"), gateway("gw", endpoint=None), "gw has no endpoint to be reached at"),
        (
            edge("edge1", endpoint=None),
            gateway("gw", endpoint=None),
            "neither edge1 nor gw has an endpoint",
        ),
        (
            edge("edge1", subnets=("fd00:1::/64",)),
            gateway("gw"),
            "edge1 and gw have no address family in common",
        ),
    ],
)
def test_obstacles_read_the_same_at_both_ends(one: Node, other: Node, obstacle: str) -> None:
    for here, there in ((one, other), (other, one)):
        assert (
            seen_from(here.name, one, other, a=[one.name, other.name])[there.name].obstacle
            == obstacle
        )


# ---------------------------------------------------------------- what passes


def test_a_child_for_each_pair_of_subnets_of_one_family() -> None:
    one = edge("edge1", "a", subnets=("2.2.1.0/27", "2.2.1.32/27", "fd00:1::/64"))
    other = edge("edge2", "a", subnets=("2.2.2.0/27", "fd00:2::/64"))
    peering = seen_from("edge1", one, other)["edge2"]
    assert {(c.local, c.remote) for c in peering.children} == {
        ("2.2.1.0/27", "2.2.2.0/27"),
        ("2.2.1.32/27", "2.2.2.0/27"),
        ("fd00:1::/64", "fd00:2::/64"),
    }
    assert peering.carried == peering.children
    assert not peering.standby


def test_of_two_gateways_one_carries_and_the_other_stands_by() -> None:
    nodes = (edge("edge1"), gateway("gw1", priority=50), gateway("gw2"))
    found = seen_from("edge1", *nodes)
    pair = Child(Prefix("2.2.1.0/27"), CLUSTER)
    assert found["gw1"].children == found["gw2"].children == {pair}
    assert (found["gw1"].carried, found["gw1"].standby) == (frozenset(), True)
    assert (found["gw2"].carried, found["gw2"].standby) == (frozenset({pair}), False)
    mirrored = Child(CLUSTER, Prefix("2.2.1.0/27"))
    assert seen_from("gw1", *nodes)["edge1"].carried == frozenset()
    assert seen_from("gw2", *nodes)["edge1"].carried == {mirrored}


def test_a_gateway_carries_what_only_it_has() -> None:
    nodes = (edge("edge1"), gateway("gw1", CLUSTER, "10.96.0.0/12", priority=50), gateway("gw2"))
    found = seen_from("edge1", *nodes)
    assert {c.remote for c in found["gw1"].carried} == {"10.96.0.0/12"}
    assert {c.remote for c in found["gw2"].carried} == {CLUSTER}


# ---------------------------------------------------------------- which gateway


def test_the_highest_priority_that_can_be_reached() -> None:
    low, high = gateway("gw1", priority=100), gateway("gw2", priority=200)
    assert choose_gateway("edge1", CLUSTER, [low, high]) == "gw2"
    assert choose_gateway("edge1", CLUSTER, [high, low]) == "gw2"
    nowhere = gateway("gw3", priority=300, endpoint=None)
    assert choose_gateway("edge1", CLUSTER, [low, high, nowhere]) == "gw2"
    assert choose_gateway("edge1", CLUSTER, [nowhere]) == "gw3"


def test_no_gateway_has_it() -> None:
    assert choose_gateway("edge1", CLUSTER, []) is None
    assert choose_gateway("edge1", CLUSTER, [gateway("gw1", "10.96.0.0/12")]) is None


EDGES = [f"edge{number}" for number in range(1000)]


def shares(*gateways: Node) -> dict[str, str | None]:
    return {name: choose_gateway(name, CLUSTER, gateways) for name in EDGES}


def test_equal_gateways_divide_the_edges() -> None:
    count = Counter(shares(*(gateway(f"gw{n}") for n in range(4))).values())
    assert len(count) == 4
    assert all(200 <= number <= 300 for number in count.values()), (
        count
    )  # 250, give or take 3.6 sigma


def test_a_new_gateway_takes_its_share_and_moves_nobody_else() -> None:
    three = [gateway(f"gw{n}") for n in range(3)]
    before, after = shares(*three), shares(*three, gateway("gw3"))
    moved = {name for name in EDGES if before[name] != after[name]}
    assert {after[name] for name in moved} == {"gw3"}
    assert 200 <= len(moved) <= 300
    # And the same way back, when it goes.
    assert {name for name in EDGES if after[name] == "gw3"} == moved
