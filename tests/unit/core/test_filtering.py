"""What keeps its source and what does not: this node's pods, and everything that is fabric."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.filtering import collapsed, filtering
from fabricd.core.index import Index
from fabricd.core.state import Filter
from fabricd.core.surroundings import Surroundings
from fabricd.model import Node, Prefix, Role

AROUND = Surroundings("edge1", (Prefix("2.0.0.0/8"),), "br-edge")
BOTH = (Prefix("2.2.2.0/27"), Prefix("fd00:2::/64"))
EDGE = Node("edge1", Role.EDGE, BOTH, "CN=edge1", "10.20.8.4")
OTHER = Node("edge2", Role.EDGE, (Prefix("9.9.9.0/24"),), "CN=edge2", "10.20.8.5")
GATEWAY = Node("gw", Role.CLOUD, (Prefix("10.233.0.0/16"),), "CN=gw", "10.20.8.9")
NODES = Index.of({node.name: node for node in (EDGE, OTHER, GATEWAY)}, {}, AROUND.networks)


def test_an_edge_gives_its_pods_its_address_towards_all_that_is_not_fabric() -> None:
    assert filtering(EDGE, NODES, AROUND) == Filter(
        masqueraded=BOTH,
        inside=(  # networks, and subnets of every node, peer or not
            Prefix("2.0.0.0/8"),
            Prefix("9.9.9.0/24"),
            Prefix("10.233.0.0/16"),
            Prefix("fd00:2::/64"),
        ),
        bridge="br-edge",
    )


def test_where_it_is_not_wanted() -> None:
    found = filtering(EDGE, NODES, replace(AROUND, masquerade=False))
    assert found is not None
    assert found.masqueraded == ()
    assert found.inside == filtering(EDGE, NODES, AROUND).inside  # type: ignore[union-attr]


def test_a_gateways_pods_are_the_clusters() -> None:
    found = filtering(GATEWAY, NODES, replace(AROUND, name="gw"))
    assert found is not None
    assert (found.masqueraded, found.bridge) == ((), "")
    assert Prefix("2.0.0.0/8") in found.inside, "TCP through its tunnels is fit to the path"


def test_a_node_without_a_record_has_no_table() -> None:
    assert filtering(None, NODES, AROUND) is None


def test_neighbours_become_one_and_what_lies_within_goes_without_saying() -> None:
    prefixes = ("2.2.2.32/27", "2.2.2.0/27", "fd00::/65", "fd00::8000:0:0:0/65", "2.2.2.8/32")
    assert collapsed(map(Prefix, prefixes)) == ("2.2.2.0/26", "fd00::/64")


@given(
    st.lists(
        st.tuples(st.integers(0, 2**12 - 1), st.integers(20, 32)).map(
            lambda drawn: Prefix(str(ip_network((drawn[0] << 20, drawn[1]), strict=False)))
        )
    ),
    st.integers(0, 2**32 - 1),
)
def test_the_same_addresses_in_prefixes_that_do_not_overlap(
    prefixes: list[Prefix], number: int
) -> None:
    address = ip_address(number)
    nets = [ip_network(text) for text in collapsed(prefixes)]
    holding = [net for net in nets if address in net]
    assert len(holding) == any(address in ip_network(text) for text in prefixes)
