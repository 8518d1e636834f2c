"""From ipsec.conf to records and back to who peers with whom: the same connections come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.events import Listed, Put
from fabricd.core.index import Index
from fabricd.core.ipsec_conf import parse
from fabricd.core.migration import Migration, migrate
from fabricd.core.rib import Rib
from fabricd.core.topology import peerings
from fabricd.model import Prefix

TEMPLATE = "C=CN, O=StrongSwan, CN={name}"

# The connections of the first proof of concept: edge2's file, and the gateway's.

EDGE2 = """\
conn net-edge3  # to another edge
          left=10.20.8.4                # the way out
          leftsubnet=2.2.2.0/27         # of the containers here
          leftcert=edge2Cert.pem        # our own
          right=10.20.8.12
          rightsubnet=2.2.2.32/27
          rightid="C=CN, O=StrongSwan, CN=edge3"    # as in its certificate
          auto=add

conn net-cloud  # to the cloud
          left=10.20.8.4
          leftsubnet=2.2.2.0/27
          leftcert=edge2Cert.pem
          right=10.20.8.141
          rightsubnet=10.233.0.0/16
          rightid="C=CN, O=StrongSwan, CN=node1"
          auto=start
"""

NODE1 = """\
conn net-edge2
          left=10.20.8.141
          leftsubnet=10.233.0.0/16
          leftcert=node1Cert.pem
          right=10.20.8.4
          rightsubnet=2.2.2.0/27
          rightid="C=CN, O=StrongSwan, CN=edge2"
          auto=add

conn net-edge3
          left=10.20.8.141
          leftsubnet=10.233.0.0/16
          leftcert=node1Cert.pem
          right=10.20.8.12
          rightsubnet=2.2.2.32/27
          rightid="C=CN, O=StrongSwan, CN=edge3"
          auto=add
"""

RECORDS = {
    "edge2": {
        "role": "edge",
        "endpoint": "10.20.8.4",
        "subnets": ["2.2.2.0/27"],
        "community": "group1",
    },
    "edge3": {
        "role": "edge",
        "endpoint": "10.20.8.12",
        "subnets": ["2.2.2.32/27"],
        "community": "group1",
    },
    "node1": {"role": "cloud", "endpoint": "10.20.8.141", "subnets": ["10.233.0.0/16"]},
}


def run(
    *texts: str,
    names: Mapping[str, str] | None = None,
    subjects: Mapping[str, str] | None = None,
    networks: tuple[str, ...] = ("2.0.0.0/8",),
) -> Migration:
    conns = [conn for text in texts for conn in parse(text, "ipsec.conf", lambda *_: {}).conns]
    nets = tuple(map(Prefix, networks))
    return migrate(conns, nets, TEMPLATE, names or {}, (subjects or {}).get)


def peers(done: Migration) -> set[frozenset[str]]:
    """Who peers with whom by the records, as the daemon has it."""
    puts = [
        Put(f"nodes/{name}", json.dumps(record).encode(), number)
        for number, (name, record) in enumerate(done.records.items(), 1)
    ]
    rib = Rib(TEMPLATE)
    rib.apply(Listed(tuple(puts)), now=0)
    records = rib.in_force()
    assert not records.rejected
    assert not records.warnings
    index = Index.of(records.nodes, records.communities)
    return {
        frozenset({node.name, peering.peer.name})
        for node in records.nodes.values()
        for peering in peerings(node, index)
    }


def pairs(text: str) -> set[frozenset[str]]:
    """`a-b a-c`."""
    return {frozenset(pair.split("-")) for pair in text.split()}


def conn(one: str, other: str, **more: str) -> str:
    """A connection between two of the nodes a to h, which are edges, and x to z, gateways."""

    def end(side: str, name: str) -> list[str]:
        number = ord(name) - ord("a")
        subnet = f"10.{number}.0.0/16" if name >= "x" else f"2.2.{number}.0/24"
        return [f"{side}=10.20.8.{number + 1}", f"{side}subnet={subnet}", f"{side}id=CN={name}"]

    values = [*end("left", one), *end("right", other)]
    values += [f"{key}={value}" for key, value in more.items()]
    return "\n    ".join([f"conn {one}-{other}", *values]) + "\n"


# ---------------------------------------------------------------- the first proof of concept


def test_the_files_of_the_proof_of_concept_give_its_fabric() -> None:
    done = run(EDGE2, NODE1)
    assert done.records == RECORDS
    assert done.warnings == []
    assert peers(done) == done.pairs == pairs("edge2-edge3 edge2-node1 edge3-node1")


def test_one_file_alone_shows_one_node() -> None:
    done = run(EDGE2)
    assert done.records == RECORDS
    assert done.warnings == [
        "the node with the certificate edge2Cert.pem is taken for edge2: if that is wrong, --name "
        "ADDRESS=NAME",
        "edge3 gets a tunnel to node1, of which these files know nothing",
    ]


def test_left_and_right_are_the_same_to_a_fabric() -> None:
    swapped = EDGE2
    for one, other in (("left", "\0"), ("right", "left"), ("\0", "right")):
        swapped = swapped.replace(one, other)
    assert swapped != EDGE2
    assert run(swapped).records == run(EDGE2).records


# ---------------------------------------------------------------- who is who


def test_a_certificate_that_can_be_read_tells_who_it_is() -> None:
    subjects = {"edge2Cert.pem": "C=CN, O=StrongSwan, CN=site7"}
    done = run(EDGE2, subjects=subjects)
    assert set(done.records) == {"site7", "edge3", "node1"}
    assert "taken for" not in " ".join(done.warnings)


def test_the_operator_says_who_it_is() -> None:
    done = run(EDGE2.replace("edge2Cert.pem", "my cert.pem"), names={"10.20.8.4": "edge2"})
    assert done.records == RECORDS


def test_who_it_is_can_be_unknown() -> None:
    text = EDGE2.replace("leftcert=edge2Cert.pem", "leftcert=-.pem")
    assert run(text).faults[0] == (
        "ipsec.conf: conn net-edge3: who is 10.20.8.4? Say --name ADDRESS=NAME, or import the "
        "other side's file as well"
    )
    assert run(text).records == {}


def test_an_address_is_no_name() -> None:
    text = conn("a", "b").replace("leftid=CN=a", "leftid=10.20.8.1")
    assert "who is 10.20.8.1?" in run(text).faults[0]


def test_an_identity_of_another_form_is_kept() -> None:
    text = conn("a", "x") + conn("b", "x")
    text = text.replace("leftid=CN=a", "leftid=@Edge_2.example.org").replace("CN=b", '"O=Z, CN=b"')
    records = run(text).records
    assert records["edge-2.example.org"]["identity"] == "Edge_2.example.org"
    assert records["b"]["identity"] == "O=Z, CN=b"


def test_a_node_without_an_address_is_behind_nat() -> None:
    text = conn("a", "x").replace("left=10.20.8.1\n", "left=%defaultroute\n")
    done = run(text)
    assert "endpoint" not in done.records["a"]
    assert done.warnings == [
        "a: no address is known: a record without endpoint is for a node behind NAT"
    ]


def test_one_name_for_two_is_a_fault() -> None:
    text = conn("a", "x") + conn("b", "x").replace("CN=b", "CN=a")
    assert run(text).faults == [
        "ipsec.conf: conn b-x: a is 10.20.8.1 elsewhere, and 10.20.8.2 here"
    ]


# ---------------------------------------------------------------- roles


def test_a_gateway_has_subnets_outside_of_the_fabric() -> None:
    done = run(conn("a", "x"), networks=("2.0.0.0/8", "10.23.0.0/16"))
    assert [record["role"] for record in done.records.values()] == ["edge", "edge"]
    mixed = conn("a", "b").replace("leftsubnet=2.2.0.0/24", "leftsubnet=2.2.0.0/24,192.168.0.0/24")
    done = run(mixed)
    assert done.records["a"]["role"] == "edge"
    assert done.records["a"]["subnets"] == ["192.168.0.0/24", "2.2.0.0/24"]
    assert done.warnings == [
        "a: 192.168.0.0/24 is outside of 2.0.0.0/8: put it into [fabric] networks on all nodes"
    ]


def test_gateways_do_not_peer() -> None:
    done = run(conn("a", "x"), conn("a", "y"), conn("x", "y"))
    assert done.pairs == pairs("a-x a-y")
    assert done.warnings == [
        "ipsec.conf: conn x-y: x and y are gateways: left out, the cluster's own network joins them"
    ]


# ---------------------------------------------------------------- communities


@pytest.mark.parametrize(
    ("edges", "tokens"),
    [
        ("a-b", {"a": "group1", "b": "group1"}),
        ("a-b b-c c-a", {"a": "group1", "b": "group1", "c": "group1"}),
        ("a-b b-c", {"a": "group1", "b": "group1;group2", "c": "group2"}),
        (
            "a-b b-c c-a c-d",
            {"a": "group1", "b": "group1", "c": "group1;group2", "d": "group2"},
        ),
    ],
)
def test_edges_with_tunnels_between_all_of_them_share_a_community(
    edges: str, tokens: dict[str, str]
) -> None:
    done = run(*(conn(*pair.split("-")) for pair in edges.split()))
    assert {name: record["community"] for name, record in done.records.items()} == tokens
    assert peers(done) == pairs(edges)


@given(st.sets(st.sampled_from(list(combinations("abcdefgh", 2)))))
def test_no_tunnel_is_lost_and_none_comes(edges: set[tuple[str, str]]) -> None:
    with_gateway = [conn(name, "x") for name in "abcdefgh"]
    done = run(*with_gateway, *(conn(*pair) for pair in sorted(edges)))
    assert done.warnings == []
    wanted = {frozenset(pair) for pair in edges} | {frozenset({name, "x"}) for name in "abcdefgh"}
    assert peers(done) == done.pairs == wanted


# ---------------------------------------------------------------- what is not carried over


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"type": "transport"}, "ipsec.conf: conn a-b: type=transport: left out"),
        (
            {"keyexchange": "ikev1"},
            "ipsec.conf: conn a-b: keyexchange=ikev1: fabricd speaks IKEv2 only: left out",
        ),
        ({"leftsubnet": ""}, "leftsubnet is missing: a fabric joins the subnets behind nodes"),
        ({"leftsubnet": "%dynamic"}, "leftsubnet=%dynamic"),
        ({"leftsubnet": "2.2.0.0/24[tcp/80]"}, "leftsubnet=2.2.0.0/24[tcp/80]"),
        ({"leftsubnet": "2.2.0.1/24"}, "leftsubnet=2.2.0.1/24: 2.2.0.1/24 has host bits set"),
    ],
)
def test_a_connection_that_is_left_out(more: dict[str, str], warning: str) -> None:
    done = run(conn("c", "d"), conn("a", "b", **more))
    assert set(done.records) == {"c", "d"}
    assert warning in done.warnings[0]


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"authby": "secret"}, "conn a-b: authenticates with a shared secret"),
        ({"auto": "route"}, "conn a-b: auto=route: fabricd brings every tunnel up"),
        ({"esp": "aes128-sha1!"}, "esp is not carried over (conn a-b)"),
        ({"leftsourceip": "%config"}, "leftsourceip is not carried over (conn a-b)"),
    ],
)
def test_what_a_connection_loses(more: dict[str, str], warning: str) -> None:
    done = run(conn("a", "b", **more))
    assert done.pairs == pairs("a-b")
    assert warning in "\n".join(done.warnings)


def test_a_tunnel_carries_all_subnets_of_its_nodes() -> None:
    done = run(conn("a", "b"), conn("a", "x", leftsubnet="2.9.0.0/24"))
    assert done.records["a"]["subnets"] == ["2.2.0.0/24", "2.9.0.0/24"]
    assert [text for text in done.warnings if "without" in text] == [
        "ipsec.conf: conn a-b: without 2.9.0.0/24 of a: a tunnel carries all subnets of both nodes",
        "ipsec.conf: conn a-x: without 2.2.0.0/24 of a: a tunnel carries all subnets of both nodes",
    ]


def test_a_section_for_others_is_no_connection() -> None:
    shared = "conn shared\n    leftsubnet=2.2.0.0/24\n    auto=ignore\n"
    assert run(shared, conn("a", "b")).warnings == []
