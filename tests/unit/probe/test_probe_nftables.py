"""Which rules stand in a packet's way: rulesets as `nft -j list ruleset` prints them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fabricd.model import Address
from fabricd.probe.nftables import Packet, obstacles
from fabricd.probe.packets import Path, ike_packets, pods_packets

FORWARD = Packet(
    "there",
    Address("2.2.2.2"),
    Address("2.2.2.34"),
    ("prerouting", "forward", "postrouting"),
    iif="br-edge",
    oif="ipsec0",
)

Json = dict[str, Any]


def chain(
    name: str, hook: str = "", policy: str = "accept", kind: str = "filter", **more: Any
) -> Json:
    base = {"type": kind, "hook": hook, "prio": 0, "policy": policy} if hook else {}
    return {"chain": {"family": "inet", "table": "t", "name": name, **base, **more}}


def rule(where: str, *expr: Json, handle: int = 7) -> Json:
    return {
        "rule": {
            "family": "inet", "table": "t", "chain": where, "handle": handle, "expr": list(expr)
        }
    }  # fmt: skip


def match(left: Json, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Json:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


SADDR, DADDR = payload("ip", "saddr"), payload("ip", "daddr")
STATE = {"ct": {"key": "state"}}
DROP: Json = {"drop": None}
ACCEPT: Json = {"accept": None}


def prefix(address: str, length: int) -> Json:
    return {"prefix": {"addr": address, "len": length}}


def found(*objects: Json, packet: Packet = FORWARD) -> list[str]:
    """What the filter does, with a `?` where it may."""
    ruleset = json.dumps({"nftables": [{"metainfo": {}}, *objects]})
    return [
        f"{each.does}{'' if each.certain else '?'}: {each.rule}"
        for each in obstacles(ruleset, [packet])
    ]


def verdict(*conditions: Json, packet: Packet = FORWARD, sets: tuple[Json, ...] = ()) -> str:
    """What becomes of a packet at one rule that drops: `dropped`, `passed`, `maybe`."""
    seen = found(chain("c", "forward"), *sets, rule("c", *conditions, DROP), packet=packet)
    if not seen:
        return "passed"
    return "maybe" if "?" in seen[0] else "dropped"


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("condition", "becomes"),
    [
        (match(SADDR, "2.2.2.2"), "dropped"),
        (match(SADDR, "2.2.2.3"), "passed"),
        (match(DADDR, prefix("2.2.2.32", 27)), "dropped"),
        (match(DADDR, prefix("2.2.2.32", 27), "!="), "passed"),
        (match(DADDR, {"range": ["2.2.2.30", "2.2.2.40"]}), "dropped"),
        (match(DADDR, {"set": ["9.9.9.9", prefix("2.2.2.0", 24)]}), "dropped"),
        (match(DADDR, {"set": ["9.9.9.9"]}), "passed"),
        (match(payload("ip6", "saddr"), "fd00::1"), "passed"),
        (match(meta("iifname"), "br-edge"), "dropped"),
        (match(meta("iifname"), "br-*"), "dropped"),
        (match(meta("oifname"), "eth0"), "passed"),
        (match(meta("oifname"), {"set": [{"range": ["", ""]}]}), "maybe"),
        (match(meta("mark"), 0), "dropped"),
        (match({"&": [meta("mark"), 255]}, 1), "passed"),
        (match(meta("nfproto"), "ipv4"), "dropped"),
        (match(meta("l4proto"), "tcp"), "maybe"),
        (match(payload("tcp", "dport"), 443), "maybe"),
        (match(STATE, ["established", "related"], "in"), "passed"),
        (match(STATE, "new", "in"), "dropped"),
        (match({"fib": {"result": "oif", "flags": ["saddr"]}}, 0), "maybe"),
        (match(SADDR, "2.2.2.2", "<"), "maybe"),
        ({"limit": {"rate": 10, "per": "second"}}, "maybe"),
        ({"xt": None}, "maybe"),
        ({"counter": {"packets": 0, "bytes": 0}}, "dropped"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:70],
)  # fmt: skip
def test_a_condition(condition: Json, becomes: str) -> None:
    assert verdict(condition) == becomes


def test_conditions_all_have_to_hold() -> None:
    assert verdict(match(SADDR, "2.2.2.2"), match(DADDR, "2.2.2.2")) == "passed"
    assert verdict(match(SADDR, "2.2.2.2"), match(payload("tcp", "dport"), 1)) == "maybe"


def test_a_named_set() -> None:
    named = {"set": {"family": "inet", "table": "t", "name": "bad", "elem": [
        {"elem": {"val": "2.2.2.34", "counter": {}}}
    ]}}  # fmt: skip
    assert verdict(match(DADDR, "@bad"), sets=(named,)) == "dropped"
    assert verdict(match(DADDR, "@gone"), sets=(named,)) == "maybe"


def test_ports_of_a_packet_that_has_some() -> None:
    ike = replace(FORWARD, protocol="udp", ports=(4500, 500))
    assert verdict(match(payload("udp", "dport"), {"set": [500, 4500]}), packet=ike) == "dropped"
    assert verdict(match(payload("udp", "sport"), {"range": [1, 100]}), packet=ike) == "passed"
    assert verdict(match(payload("tcp", "dport"), 500), packet=ike) == "passed"
    assert verdict(match(payload("ip", "protocol"), "udp"), packet=ike) == "dropped"


# ---------------------------------------------------------------- chains


def test_a_rule_before_lets_it_pass() -> None:
    assert (
        found(chain("c", "forward", policy="drop"), rule("c", match(SADDR, "2.2.2.2"), ACCEPT))
        == []
    )


def test_the_policy_of_a_chain() -> None:
    assert found(chain("c", "forward", policy="drop")) == [
        "drops: nft table inet t: the policy of chain c"
    ]
    perhaps = rule("c", match(payload("tcp", "dport"), 443), ACCEPT)
    assert found(chain("c", "forward", policy="drop"), perhaps) == [
        "drops?: nft table inet t: the policy of chain c"
    ]
    assert found(chain("c", "input", policy="drop")) == [], "another hook"
    assert found(chain("c", "forward", policy="drop", family="ip6")) == [], "another family"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ([rule("x", DROP, handle=9)], ["drops: nft table inet t: chain x handle 9"]),
        (
            [rule("x", {"return": None}), rule("x", DROP)],
            ["drops: nft table inet t: chain c handle 8"],
        ),
        ([rule("x", ACCEPT)], []),
        ([rule("x", {"jump": {"target": "c"}})], ["drops: nft table inet t: chain c handle 8"]),
    ],
    ids=["drop there", "back again", "accepted there", "a loop"],
)
def test_jumps(inner: list[Json], expected: list[str]) -> None:
    assert (
        found(
            chain("c", "forward"),
            chain("x"),
            rule("c", {"jump": {"target": "x"}}),
            rule("c", DROP, handle=8),
            *inner,
        )
        == expected
    )


def test_goto_does_not_come_back() -> None:
    objects = (chain("c", "forward"), chain("x"), rule("c", {"goto": {"target": "x"}}))
    assert found(*objects, rule("c", DROP, handle=8)) == []


def test_a_verdict_map() -> None:
    vmap = {"vmap": {"key": STATE, "data": {"set": [
        ["established", ACCEPT], ["invalid", DROP], ["new", {"jump": {"target": "x"}}]
    ]}}}  # fmt: skip
    objects = (chain("c", "forward"), chain("x"), rule("c", vmap), rule("x", DROP, handle=9))
    assert found(*objects) == ["drops: nft table inet t: chain x handle 9"]
    assert found(*objects, packet=replace(FORWARD, answer=True)) == []


def test_what_changes_addresses_only_meets_the_first_packet() -> None:
    nat = chain("c", "postrouting", kind="nat")
    objects = (nat, rule("c", match(SADDR, prefix("2.2.2.0", 24)), {"masquerade": None}))
    assert found(*objects) == ["changes the source of: nft table inet t: chain c handle 7"]
    assert found(*objects, packet=replace(FORWARD, answer=True)) == []
    dnat = rule("c", {"dnat": {"addr": "9.9.9.9"}})
    assert found(chain("c", "prerouting", kind="nat"), dnat) == [
        "changes the destination of: nft table inet t: chain c handle 7"
    ]


def test_iptables_own_target() -> None:
    xt = rule("c", {"xt": {"type": "target", "name": "MASQUERADE"}})
    assert found(chain("c", "postrouting", kind="nat"), xt) == [
        "changes the source of: nft table inet t: chain c handle 7"
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": [{"chain": {"hook": "forward"}}]}'])
def test_what_is_no_ruleset(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        obstacles(text, [FORWARD])


# ---------------------------------------------------------------- which packets


def test_pods_packets_pass_through_a_node_that_has_the_pod_on_a_bridge() -> None:
    local, remote = Address("2.2.2.2"), Address("2.2.2.34")
    out, back = pods_packets(Path(local, remote, "br-edge", "ipsec0", answers=False))
    assert (out.iif, out.oif, out.answer) == ("br-edge", "ipsec0", False)
    assert (back.iif, back.oif, back.answer) == ("ipsec0", "br-edge", True)
    assert out.hooks == back.hooks == ("prerouting", "forward", "postrouting")


def test_and_end_on_a_node_whose_own_address_it_is() -> None:
    local, remote = Address("2.2.2.1"), Address("2.2.2.34")
    out, back = pods_packets(Path(local, remote, "lo", "ipsec0", answers=True))
    assert (out.hooks, out.answer) == (("output", "postrouting"), True)
    assert (back.hooks, back.oif) == (("prerouting", "input"), "")


def test_ike_begins_at_the_initiator_and_esp_at_both() -> None:
    own, peer = Address("10.20.8.4"), Address("10.20.8.12")
    ike = ike_packets("eth0", own, peer, initiates=True, esp=True)
    assert [(p.name, p.answer) for p in ike] == [
        ("IKE (UDP 500) to 10.20.8.12", False),
        ("IKE (UDP 500) from 10.20.8.12", True),
        ("IKE (UDP 4500) to 10.20.8.12", False),
        ("IKE (UDP 4500) from 10.20.8.12", True),
        ("ESP to 10.20.8.12", False),
        ("ESP from 10.20.8.12", False),
    ]
    assert [p.answer for p in ike_packets("eth0", own, peer, initiates=False, esp=False)] == [
        True, False, True, False
    ]  # fmt: skip
