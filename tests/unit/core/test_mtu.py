"""How large a packet may be: reckoned octet by octet, as the RFCs lay a packet out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.mtu import pod_mtu, tunnel_mtu, underlay_mtu
from fabricd.core.surroundings import Surroundings
from fabricd.model import Address, Node, Prefix, Role

AROUND = Surroundings(
    "edge1",
    (Prefix("2.0.0.0/8"),),
    "br-edge",
    underlays=((Address("10.20.8.4"), 1500), (Address("192.168.7.1"), 1400)),
)
SELF = Node("edge1", Role.EDGE, (Prefix("2.2.2.0/27"),), "CN=edge1", "10.20.8.4")
PEER = Node("edge2", Role.EDGE, (Prefix("2.2.2.32/27"),), "CN=edge2", "10.20.8.5")


def on_the_wire(inner: int, outer: int) -> int:
    """Octets of the packet on the underlay that carries an inner one of this size."""
    padding = -(inner + 2) % 4  # RFC 4303, 2.4: pad length and next header end a 4-octet word
    esp = 4 + 4  # SPI, sequence number: RFC 4303, 2.1 and 2.2
    esp += 8 + inner + padding + 2  # IV: RFC 4106, 3.1
    esp += 16  # ICV: RFC 4106, 6
    udp = 8  # RFC 3948, 2.1
    return {4: 20, 6: 40}[outer] + udp + esp


@given(st.integers(200, 9216), st.sampled_from([4, 6]))
def test_the_largest_packet_fits_and_the_next_larger_one_does_not(
    underlay: int, outer: int
) -> None:
    inner = tunnel_mtu(underlay, outer)
    assert on_the_wire(inner, outer) <= underlay < on_the_wire(inner + 1, outer)


@pytest.mark.parametrize(
    ("underlay", "outer", "inner"), [(1500, 4, 1438), (1500, 6, 1418), (9000, 4, 8938)]
)
def test_what_is_well_known(underlay: int, outer: int, inner: int) -> None:
    assert tunnel_mtu(underlay, outer) == inner


def test_the_underlay_is_the_link_with_the_endpoint() -> None:
    assert underlay_mtu(SELF, AROUND) == 1500
    assert underlay_mtu(replace(SELF, endpoint="192.168.7.1"), AROUND) == 1400


@pytest.mark.parametrize("endpoint", [None, "10.20.8.99", "edge1.example.net"])
def test_where_no_link_has_it_the_smallest_counts(endpoint: str | None) -> None:
    assert underlay_mtu(replace(SELF, endpoint=endpoint), AROUND) == 1400
    assert underlay_mtu(None, AROUND) == 1400


def test_where_no_link_is_known_it_is_ethernet() -> None:
    assert underlay_mtu(SELF, replace(AROUND, underlays=())) == 1500


@pytest.mark.parametrize("name", ["fd00::5", "edge2.example.net"])
def test_one_peer_that_may_be_reached_by_ipv6_makes_it_smaller(name: str) -> None:
    assert pod_mtu(SELF, [PEER], AROUND) == 1438
    assert pod_mtu(SELF, [PEER, replace(PEER, endpoint=name)], AROUND) == 1418
    assert pod_mtu(replace(SELF, endpoint=name), [PEER], replace(AROUND, underlays=())) == 1418


def test_a_peer_behind_nat_costs_nothing_more() -> None:
    assert pod_mtu(SELF, [replace(PEER, endpoint=None)], AROUND) == 1438


def test_what_charons_own_device_lets_pass() -> None:
    assert pod_mtu(SELF, [PEER], replace(AROUND, userspace_mtu=1400)) == 1400
    assert pod_mtu(SELF, [PEER], replace(AROUND, userspace_mtu=9000)) == 1438


def test_never_less_than_every_link_must_carry() -> None:
    narrow = replace(AROUND, underlays=((Address("10.20.8.4"), 600),))
    assert pod_mtu(SELF, [], narrow) == 576
    both = replace(SELF, subnets=(*SELF.subnets, Prefix("fd00:2::/64")))
    assert pod_mtu(both, [], narrow) == 1280, "RFC 8200, section 5"


def test_what_is_told_counts() -> None:
    assert pod_mtu(SELF, [PEER], replace(AROUND, mtu=1300, userspace_mtu=1400)) == 1300


def test_a_node_without_a_record() -> None:
    assert pod_mtu(None, [], replace(AROUND, underlays=())) == 1438
