"""One record in, a checked value or its faults out, each with its field named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fabricd.core.records import MAX_LIST, Decoded, check_identity, decode
from fabricd.model import Community, Node, Role

TEMPLATE = "C=CN, O=StrongSwan, CN={name}"

LIKE_AN_OPERATOR = b"""{"role": "edge", "endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"],
                        "community": "app1;group1"}"""


def read(**fields: object) -> Decoded:
    """The node record of edge2 with a subnet, unless said otherwise."""
    raw = {"subnets": ["2.2.2.0/27"], **fields}
    return decode("nodes/edge2", json.dumps(raw).encode(), TEMPLATE)


def node(**fields: object) -> Node:
    decoded = read(**fields)
    assert isinstance(decoded.record, Node), decoded
    assert not decoded.faults
    return decoded.record


def fault(**fields: object) -> tuple[str, str]:
    """The one field at fault and the reason."""
    decoded = read(**fields)
    assert decoded.record is None
    (rejection,) = decoded.faults
    assert rejection.key == "nodes/edge2"
    return rejection.field, rejection.reason


# ---------------------------------------------------------------- what is right


def test_a_node_as_an_operator_types_it() -> None:
    assert decode("nodes/edge2", LIKE_AN_OPERATOR, TEMPLATE) == Decoded(
        Node(
            name="edge2",
            role=Role.EDGE,
            endpoint="10.20.8.4",
            subnets=("2.2.2.0/27",),  # type: ignore[arg-type] # written out
            communities=frozenset({"app1", "group1"}),
            identity="C=CN, O=StrongSwan, CN=edge2",
            priority=100,
        )
    )


def test_defaults() -> None:
    bare = node()
    assert bare.role is Role.EDGE
    assert bare.endpoint is None
    assert bare.communities == frozenset()
    assert bare.identity == "C=CN, O=StrongSwan, CN=edge2"
    assert bare.priority == 100


def test_null_is_the_same_as_absent() -> None:
    assert node(role=None, endpoint=None, community=None, identity=None, priority=None) == node()
    assert fault(subnets=None) == ("subnets", "is required")


def test_a_gateway_with_a_priority() -> None:
    gateway = node(role="cloud", priority=200)
    assert (gateway.role, gateway.priority) == (Role.CLOUD, 200)


@pytest.mark.parametrize(
    "written", ["app1;group1", " app1 ; group1 ;", ["app1", "group1"], ["group1", "app1", "app1"]]
)
def test_both_forms_of_community(written: object) -> None:
    assert node(community=written).communities == {"app1", "group1"}


@pytest.mark.parametrize("written", ["", ";", " ; ", []])
def test_no_community(written: object) -> None:
    assert node(community=written).communities == frozenset()


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (["2.2.2.32/27", "2.2.2.0/27"], ["2.2.2.0/27", "2.2.2.32/27"]),
        (["2.2.2.0/27", "2.2.2.0/27"], ["2.2.2.0/27"]),
        (["FD00:2:0::/64"], ["fd00:2::/64"]),
        (["fd00:2::/64", "2.2.2.0/27"], ["2.2.2.0/27", "fd00:2::/64"]),
        (["2.2.2.4/31", "2.2.2.9/32"], ["2.2.2.4/31", "2.2.2.9/32"]),
        (["2.2.2.0/027"], ["2.2.2.0/27"]),
    ],
)
def test_subnets_are_canonical_and_sorted(written: list[str], canonical: list[str]) -> None:
    assert list(node(subnets=written).subnets) == canonical


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("10.20.8.4", "10.20.8.4"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("gw.Example.net", "gw.example.net"),
        ("gw.example.net.", "gw.example.net."),
        ("gw", "gw"),
        ("site_9-a.example.net", "site_9-a.example.net"),
    ],
)
def test_endpoints(written: str, kept: str) -> None:
    assert node(endpoint=written).endpoint == kept


@pytest.mark.parametrize(
    "written",
    ["C=CN, O=Org, CN=edge2", "CN = edge2", "C=CN,O=Ärzte, CN=a b", "edge2.example.net", "ops@a.b"],
)
def test_identities(written: str) -> None:
    assert node(identity=f" {written} ").identity == written


def test_an_unknown_field_is_a_warning() -> None:
    decoded = read(colour="blue", Role="cloud")
    assert decoded.record is not None
    assert decoded.warnings == (
        "nodes/edge2: unknown field 'Role' is ignored",
        "nodes/edge2: unknown field 'colour' is ignored",
    )


def test_an_edge_has_no_use_for_a_priority() -> None:
    assert read(priority=5).warnings == (
        "nodes/edge2: priority means something only for role cloud",
    )
    assert not read(role="cloud", priority=5).warnings


def test_a_community() -> None:
    decoded = decode("communities/app1", b'{"members": ["edge7", "edge7", "a.b"]}', TEMPLATE)
    assert decoded == Decoded(Community("app1", frozenset({"edge7", "a.b"})))


def test_a_community_is_as_large_as_the_fabric() -> None:
    members = [f"edge{number}" for number in range(5000)]
    value = json.dumps({"members": members}).encode()
    assert decode("communities/all", value, TEMPLATE).record == Community("all", frozenset(members))


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "name", ["", "Edge2", "-a", "a-", "a/b", "edge2\n", "a b", "x" * 64, "é", "..", "\x00"]
)
def test_a_key_without_a_name(name: str) -> None:
    for folder in ("nodes", "communities"):
        decoded = decode(f"{folder}/{name}", LIKE_AN_OPERATOR, TEMPLATE)
        assert decoded.record is None
        assert [(f.key, f.field) for f in decoded.faults] == [(f"{folder}/{name}", "name")]


def test_a_record_of_any_size_is_not_kept() -> None:
    (fault,) = decode(
        "nodes/edge2", b'{"subnets": ["2.2.2.0/27"]}' + b" " * 65_536, TEMPLATE
    ).faults
    assert (fault.field, fault.reason) == ("", "has 65563 bytes: at most 65536")


def test_warnings_about_one_record_are_few() -> None:
    fields = ", ".join(f'"f{number}": 1' for number in range(1000))
    decoded = decode("nodes/edge2", f'{{"subnets": ["2.2.2.0/27"], {fields}}}'.encode(), TEMPLATE)
    assert len(decoded.warnings) == 9
    assert decoded.warnings[-1] == "nodes/edge2: 992 more unknown fields are ignored"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"2.2.2.0/27"',
        b"{'subnets': ['2.2.2.0/27']}",
        b'{"subnets": ["2.2.2.0/27"]} trailing',
        b'{"subnets": ["\xff"]}',
        b'\xef\xbb\xbf{"subnets": ["2.2.2.0/27"]}',
        b'{"x": ' + b"[" * 60_000,
        b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"priority": 1e999, "subnets": ["2.2.2.0/27"]}',
        b'{"priority": ' + b"9" * 60_000 + b"}",
    ],
    ids=lambda value: value[:24].decode("latin-1"),
)
def test_no_json_object(value: bytes) -> None:
    (rejection,) = decode("nodes/edge2", value, TEMPLATE).faults
    assert (rejection.key, rejection.field) == ("nodes/edge2", "")
    assert rejection.reason.startswith("not a JSON object: ")
    assert len(rejection.reason) < 300


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"role": "gateway"}, "role", "Invalid enum value 'gateway'"),
        ({"role": 1}, "role", "Expected `str`"),
        ({"endpoint": 5}, "endpoint", "Expected `str`"),
        ({"subnets": "2.2.2.0/27"}, "subnets", "Expected `array`"),
        ({"subnets": [5]}, "subnets", "Expected `str`"),
        ({"subnets": [["2.2.2.0/27"]]}, "subnets", "Expected `str`"),
        ({"subnets": []}, "subnets", "at least one"),
        ({"community": 5}, "community", "Expected"),
        ({"community": [5]}, "community", "Expected `str`"),
        ({"community": "app 1"}, "community", "'app 1' is no token"),
        ({"community": ["a;b"]}, "community", "'a;b' is no token"),
        ({"community": "app1\n;\x00"}, "community", "is no token"),
        ({"community": "x" * 64}, "community", "is no token"),
        ({"identity": 5}, "identity", "Expected `str`"),
        ({"priority": "5"}, "priority", "Expected `int`"),
        ({"priority": True}, "priority", "Expected `int`"),
        ({"priority": 1.5}, "priority", "Expected `int`"),
    ],
)
def test_a_field_of_the_wrong_kind(fields: dict[str, object], field: str, reason: str) -> None:
    found, why = fault(**fields)
    assert found == field
    assert reason in why


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("2.2.2.1/27", "has host bits set; the network is 2.2.2.0/27"),
        ("fd00::1/64", "has host bits set; the network is fd00::/64"),
        ("0.0.0.0/0", "whole address space"),
        ("::/0", "whole address space"),
        ("2.2.2.0/33", "is no network"),
        ("2.2.2/24", "is no network"),
        ("02.2.2.0/27", "is no network"),
        ("fd00::/129", "is no network"),
        ("2.2.2.0/255.255.255.224", "not in CIDR notation"),
        ("2.2.2.0", "not in CIDR notation"),
        ("2.2.2.0/27\n", "not in CIDR notation"),
        (" 2.2.2.0/27", "not in CIDR notation"),
        ("fe80::%eth0/64", "not in CIDR notation"),
        ("pods", "not in CIDR notation"),
        ("", "not in CIDR notation"),
        ("1" * 100 + "/8", "not in CIDR notation"),
        ("127.0.0.0/8", "can't live in 127.0.0.0/8"),
        ("224.0.0.0/4", "can't live in 224.0.0.0/4"),
        ("169.254.7.0/24", "can't live in 169.254.0.0/16"),
        ("fe80::/64", "can't live in fe80::/10"),
        ("ff02::/16", "can't live in ff00::/8"),
        ("::1/128", "can't live in ::/127"),
        ("::ffff:2.2.2.0/120", "can't live in ::ffff:0"),
        # Nearly everything is as bad as everything.
        ("0.0.0.0/1", "can't live in 0.0.0.0/8"),
        ("128.0.0.0/1", "can't live in 169.254.0.0/16"),
        ("64.0.0.0/2", "can't live in 127.0.0.0/8"),
        ("192.0.0.0/2", "can't live in 224.0.0.0/4"),
        ("::/1", "can't live in ::/127"),
        ("8000::/1", "can't live in fe80::/10"),
    ],
)
def test_a_bad_subnet(subnet: str, reason: str) -> None:
    field, why = fault(subnets=["2.9.9.0/24", subnet])
    assert field == "subnets"
    assert reason in why
    assert len(why) < 300


def test_subnets_of_one_record_that_overlap() -> None:
    nested = ["2.2.0.0/16", "2.2.2.0/27", "2.2.2.0/24", "2.2.0.0/17"]
    reasons = {fault(subnets=nested[i:] + nested[:i]) for i in range(4)}
    assert reasons == {("subnets", "2.2.0.0/16 and 2.2.0.0/17 overlap")}


def test_too_many() -> None:
    subnets = [f"2.{i // 256}.{i % 256}.0/24" for i in range(MAX_LIST + 1)]
    assert fault(subnets=subnets)[0] == "subnets"
    assert len(node(subnets=subnets[1:]).subnets) == MAX_LIST
    assert fault(community=[f"t{i}" for i in range(MAX_LIST + 1)])[0] == "community"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        " ",
        "10.20.8",
        "10.20.8.256",
        "10.20.8.4:500",
        "10.20.8.4/24",
        "010.20.8.4",
        "fd00::1::2",
        "[fd00::1]",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "%any",
        "gw.example.net,10.0.0.1",
        "gw..example.net",
        "-gw",
        "gw-.net",
        "gw.example.net\n",
        "a b",
        "x" * 64,
        "a." * 150,
        "gw.42",
    ],
)
def test_a_bad_endpoint(endpoint: str) -> None:
    field, why = fault(endpoint=endpoint)
    assert field == "endpoint"
    assert len(why) < 300


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "%any",
        "%any6",
        "*",
        "C=CN, O=*, CN=edge2",
        "CN=*",
        "CN=edge*",
        "CN=%any",
        "*.example.net",
        "*@example.net",
        "0.0.0.0",  # charon takes it for anybody
        "0.0.0.0-255.255.255.255",  # and this for a range of addresses
        "10.0.0.0-10.0.0.255",
        "10.0.0.0/8",
        "::",
        "keyid:0xab",
        "@#abcd",
        "{1}:xyz",
        "asn1dn:#3000",
        "C=CN, O",
        "C=CN, =x",
        "CN=",
        "CN= ",
        "CN=a, ",
        "CN=a=b",
        "CN=a\nb",
        "CN=a\x00",
        "CN=" + "x" * 253,
    ],
)
def test_an_identity_that_could_mean_somebody_else(identity: str) -> None:
    assert fault(identity=identity)[0] == "identity"


def test_check_identity_is_for_the_template_too() -> None:
    assert check_identity(TEMPLATE.replace("{name}", "x")) == "C=CN, O=StrongSwan, CN=x"


def test_every_fault_is_named_not_only_the_first() -> None:
    decoded = read(role="x", endpoint="", subnets=["2.2.2.1/27"], community=5, priority="high")
    assert [f.field for f in decoded.faults] == [
        "role",
        "endpoint",
        "subnets",
        "community",
        "priority",
    ]


def test_a_rejected_record_still_has_its_warnings() -> None:
    decoded = decode("nodes/edge2", b'{"subnet": ["2.2.2.0/27"]}', TEMPLATE)
    assert [(f.field, f.reason) for f in decoded.faults] == [("subnets", "is required")]
    assert decoded.warnings == ("nodes/edge2: unknown field 'subnet' is ignored",)


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b'{"members": null}',
        b'{"members": "edge7"}',
        b'{"members": ["Edge7"]}',
        b'{"members": ["a\\n"]}',
    ],
)
def test_a_bad_community(value: bytes) -> None:
    (rejection,) = decode("communities/app1", value, TEMPLATE).faults
    assert (rejection.key, rejection.field) == ("communities/app1", "members")


def test_a_huge_priority_is_a_number_like_any_other() -> None:
    assert node(role="cloud", priority=10**30).priority == 10**30
    assert node(role="cloud", priority=-5).priority == -5


HOSTILE: dict[str, list[object]] = {
    "endpoint": ["a" * 60 + "!", ":" * 1_000_000 + "x", "a." * 500_000 + "!"],
    "identity": ["A=    b," * 31 + "%", "a" * 1_000_000 + "%"],
    "community": ["a" * 1_000_000 + "!", ";" * 1_000_000],
    "subnets": [["1" * 1_000_000], ["/" * 1_000_000]],
    "priority": ["1" * 1_000_000],
}


def test_a_hostile_value_does_not_cost_time() -> None:
    """In a process of its own: an expression that backtracks can't be interrupted from within."""
    program = (
        "import json, sys\n"
        "from fabricd.core.records import decode\n"
        "for field, values in json.load(sys.stdin).items():\n"
        "    for value in values:\n"
        "        raw = {'subnets': ['2.2.2.0/27'], field: value}\n"
        "        decoded = decode('nodes/a', json.dumps(raw).encode(), 'CN={name}')\n"
        "        print(field, all(len(fault.reason) < 300 for fault in decoded.faults))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        timeout=60,  # it takes a fraction of a second, or years
        check=True,
    )
    assert done.stdout.split() == [
        word for field, values in HOSTILE.items() for _ in values for word in (field, "True")
    ]
