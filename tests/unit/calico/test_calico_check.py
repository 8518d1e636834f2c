"""What is said of a node that was read: the rows that no lab test breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fabricd.calico.check import Cluster, Row, check
from fabricd.calico.facts import Filters, NodeFacts, Route
from fabricd.calico.pools import Options, manifests
from fabricd.model import Address, Prefix

WANTED = manifests([Prefix("2.0.0.0/8")], Options())
PODS = {"metadata": {"name": "pods"}, "spec": {"cidr": "10.233.64.0/18"}}
CLUSTER = Cluster(
    WANTED, {"pods": PODS, "fabric-pool": WANTED[0]}, gateways=frozenset({Address("10.20.8.141")})
)
LEARNED = Route("2.0.0.0/8", "unicast", "bird", ("10.20.8.141",), ("tunl0",))
NODE = NodeFacts(is_gateway=False, routes={4: [LEARNED]}, forwards={4: True}, filters=Filters())


def row(name: str, cluster: Cluster = CLUSTER, node: NodeFacts = NODE) -> Row:
    [found] = [row for row in check(cluster, node) if row.name == name]
    return found


def with_route(**changes: Any) -> NodeFacts:
    return replace(NODE, routes={4: [replace(LEARNED, **changes)]})


def test_all_is_right() -> None:
    assert [found for found in check(CLUSTER, NODE) if not found.ok] == []


@pytest.mark.parametrize("protocol", ["bird", "12"])
def test_a_route_from_bird_is_right_through_a_tunnel_and_by_several_gateways(protocol: str) -> None:
    node = with_route(protocol=protocol, vias=("10.20.8.141", "10.20.8.143"), links=("tunl0",))
    found = row("route 2.0.0.0/8", node=node)
    assert found.ok
    assert found.detail == (
        f"2.0.0.0/8 via 10.20.8.141 via 10.20.8.143 dev tunl0 proto {protocol} "
        "(10.20.8.143 is no gateway's endpoint)"
    )


def test_a_next_hop_is_not_compared_when_no_gateway_is_known() -> None:
    found = row("route 2.0.0.0/8", replace(CLUSTER, gateways=frozenset()))
    assert found.detail == "2.0.0.0/8 via 10.20.8.141 dev tunl0 proto bird"


def test_a_next_hop_that_bird_can_not_resolve() -> None:
    found = row("route 2.0.0.0/8", node=with_route(kind="unreachable", vias=(), links=()))
    assert not found.ok
    assert found.detail == "unreachable 2.0.0.0/8 proto bird: BIRD can't resolve the next hop"


def test_pools_that_can_not_be_read_are_not_judged() -> None:
    found = row("pool fabric-pool", replace(CLUSTER, pools=None, why="store: away"))
    assert (found.ok, found.detail) == (False, "can't be judged: store: away")
    assert "--pools -" in found.todo


def test_a_pool_for_another_network_needs_force() -> None:
    other = manifests([Prefix("3.0.0.0/8")], Options())[0]
    found = row("pool fabric-pool", replace(CLUSTER, pools={"fabric-pool": other}))
    assert (found.detail, found.todo) == (
        "cidr is 3.0.0.0/8, not 2.0.0.0/8",
        "fabricctl calico apply --force",
    )


def test_filters_that_can_not_be_read_are_not_judged() -> None:
    nothing = replace(NODE, filters=Filters(read=False))
    assert row("snat", node=nothing).detail == (
        "can't be judged: neither nft nor iptables-save is installed"
    )
    part = replace(NODE, filters=Filters(unread=("nft: not permitted", "ipset: gone")))
    found = row("snat", node=part)
    assert found.ok
    assert found.detail == (
        "no rule changes the source; can't be judged: nft: not permitted and 1 more"
    )


def test_each_network_has_its_rows_and_each_address_family_its_switch() -> None:
    wanted = manifests([Prefix("2.0.0.0/8"), Prefix("fd00:2::/32")], Options())
    node = replace(NODE, is_gateway=True, routes={4: [], 6: []}, forwards={4: True, 6: False})
    found = check(Cluster(wanted, {}), node)
    assert [(row.name, row.ok) for row in found] == [
        ("pool fabric-pool", False),
        ("pool fabric-pool-2", False),
        ("blackhole 2.0.0.0/8", False),
        ("blackhole fd00:2::/32", False),
        ("forwarding ipv4", True),
        ("forwarding ipv6", False),
        ("snat", True),
    ]
    assert all(row.todo for row in found if not row.ok)


def test_the_link_towards_a_host_is_that_of_the_most_specific_route() -> None:
    routes = [
        Route("default", "unicast", "static", links=("wan",)),
        Route("10.0.0.0/8", "unicast", "static", links=("lan",)),
        Route("10.20.8.0/24", "unicast", "kernel", links=("eth0",)),
        Route("10.20.8.9", "blackhole", "static"),
    ]
    node = replace(NODE, routes={4: routes})
    assert node.links_to(Address("10.20.8.4")) == {"eth0"}
    assert node.links_to(Address("10.9.9.9")) == {"lan"}
    assert node.links_to(Address("192.0.2.1")) == {"wan"}
    assert node.links_to(Address("10.20.8.9")) == frozenset()
    assert node.links_to(Address("fd00::1")) == frozenset()
