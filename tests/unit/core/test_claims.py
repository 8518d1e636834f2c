"""What two nodes can't both have."""

from __future__ import annotations

import pytest

from fabricd.core.claims import Claims
from fabricd.model import Node, Prefix, Role


def node(
    name: str,
    *subnets: str,
    endpoint: str | None = None,
    role: Role = Role.EDGE,
    identity: str | None = None,
) -> Node:
    return Node(name, role, tuple(map(Prefix, subnets)), identity or f"CN={name}", endpoint)


def claims(*nodes: Node) -> Claims:
    result = Claims()
    for item in nodes:
        assert result.conflict(item) is None
        result.add(item)
    return result


def test_neighbours_do_not_overlap() -> None:
    taken = claims(node("a", "2.2.2.0/27"), node("b", "2.2.2.64/26"), node("c", "fd00:2::/64"))
    assert taken.conflict(node("d", "2.2.2.32/27", "2.2.2.128/25", "fd00:2:0:1::/64")) is None


@pytest.mark.parametrize(
    "subnet", ["2.2.2.0/24", "2.2.2.0/25", "2.2.0.0/16", "2.2.2.7/32", "2.0.0.0/7"]
)
def test_equal_around_or_within(subnet: str) -> None:
    conflict = claims(node("a", "2.2.2.0/24")).conflict(node("b", subnet))
    assert conflict == ("subnets", f"{subnet} overlaps 2.2.2.0/24 of nodes/a")


def test_ipv6_overlaps_too() -> None:
    taken = claims(node("a", "fd00:2::/64"))
    assert taken.conflict(node("b", "fd00::/16")) is not None
    assert taken.conflict(node("b", "fd00:2::8/127")) is not None


def test_gateways_share_with_one_another_not_with_edges() -> None:
    taken = claims(
        node("gw1", "10.233.0.0/16", role=Role.CLOUD),
        node("gw2", "10.233.0.0/16", role=Role.CLOUD),
        node("gw3", "10.233.64.0/18", role=Role.CLOUD),
    )
    assert taken.conflict(node("edge", "10.233.1.0/24")) is not None
    taken = claims(node("edge", "10.233.1.0/24"))
    assert taken.conflict(node("gw1", "10.233.0.0/16", role=Role.CLOUD)) is not None


def test_an_endpoint_stays_outside_of_the_tunnels() -> None:
    taken = claims(node("a", "2.2.2.0/27", endpoint="10.20.8.4"))
    field, reason = taken.conflict(node("b", "10.20.0.0/16")) or ("", "")
    assert field == "subnets"
    assert "10.20.8.4, the endpoint of nodes/a" in reason
    assert taken.conflict(node("b", "3.3.3.0/27", endpoint="2.2.2.9")) == (
        "endpoint",
        "2.2.2.9 lies in a subnet of nodes/a",
    )
    assert taken.conflict(node("b", "3.3.3.0/27", endpoint="3.3.3.1")) == (
        "subnets",
        "3.3.3.0/27 contains the node's own endpoint 3.3.3.1",
    )


def test_a_dns_name_claims_nothing() -> None:
    taken = claims(node("a", "2.2.2.0/27", endpoint="gw.example.net"))
    assert taken.conflict(node("b", "3.3.3.0/27", endpoint="gw.example.net")) is None


@pytest.mark.parametrize("spelling", ["C=CN, CN=a", "C=CN,CN=a", "c = cn , cn=A"])
def test_one_identity_in_any_spelling(spelling: str) -> None:
    taken = claims(node("a", "2.2.2.0/27", identity="C=CN, CN=a"))
    assert taken.conflict(node("b", "3.3.3.0/27", identity=spelling)) == (
        "identity",
        f"{spelling!r} is the identity of nodes/a",
    )
    assert taken.conflict(node("b", "3.3.3.0/27", identity="CN=a, C=CN")) is None
