"""Source NAT in nftables, out of `nft -j list ruleset` (libnftables-json(5)).

What is not understood is kept as a condition that can't be judged. Tables that iptables-nft
keeps are read here too, but most of what is in them is hidden from nft (`xt`): `iptables`
reads those better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Any, Final

from fabricd.calico.snat import (
    UNREADABLE,
    Addresses,
    Always,
    Condition,
    Holds,
    Net,
    OutLink,
    Rule,
    Table,
    Verdict,
)

VERSIONS: Final = {"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})}

VERDICTS: Final = {
    "masquerade": Verdict.SNAT,
    "snat": Verdict.SNAT,
    "accept": Verdict.END,
    "drop": Verdict.END,
    "reject": Verdict.END,
    "queue": Verdict.END,
    "return": Verdict.RETURN,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
}

HARMLESS: Final = frozenset({"counter", "log", "mangle", "quota", "set", "map", "ct helper"})
"""Statements after which a rule goes on."""

Sets = Mapping[str, Any]
"""A table's named sets: their elements by name."""


def read_ruleset(text: str) -> list[Table]:
    """The tables in which source NAT is done. Raises ValueError for what is no ruleset."""
    try:
        objects = json.loads(text)["nftables"]
        return [
            table
            for item in _each(objects, "table")
            if item["family"] in VERSIONS and (table := _table(item, objects)).hooks
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"nft -j list ruleset: not as expected: {error!r}") from error


def is_of_iptables(table: Table) -> bool:
    """Whether iptables-nft keeps this table: it has the name and the chain that iptables' has."""
    return table.name in {"nft table ip nat", "nft table ip6 nat"} and "POSTROUTING" in table.chains


def _each(objects: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    return [item[kind] for item in objects if kind in item]


def _table(table: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Table:
    def mine(kind: str) -> list[Any]:
        return [
            item
            for item in _each(objects, kind)
            if (item["family"], item["table"]) == (table["family"], table["name"])
        ]

    sets = {item["name"]: item.get("elem", []) for item in mine("set")}
    chains: dict[str, list[Rule]] = {chain["name"]: [] for chain in mine("chain")}
    for rule in mine("rule"):
        chains.setdefault(rule["chain"], []).append(_rule(rule, sets))
    hooks = tuple(
        chain["name"]
        for chain in mine("chain")
        if chain.get("type") == "nat" and chain.get("hook") == "postrouting"
    )
    name = f"nft table {table['family']} {table['name']}"
    return Table(name, VERSIONS[table["family"]], chains, hooks)


def _rule(rule: Mapping[str, Any], sets: Sets) -> Rule:
    conditions: list[Condition] = []
    verdict, target = Verdict.NEXT, ""
    for statement in rule["expr"]:
        [(kind, body)] = statement.items()
        if kind in VERDICTS:
            verdict = VERDICTS[kind]
            target = body["target"] if verdict in {Verdict.JUMP, Verdict.GOTO} else ""
        elif kind == "match":
            conditions.append(_condition(body, sets))
        elif kind == "xt" and _is_target(body):
            verdict = Verdict.SNAT
        elif kind not in HARMLESS:
            conditions.append(UNREADABLE)
    text = f"{rule['chain']}: {json.dumps(rule['expr'])}"
    if "handle" in rule:
        text = f"{rule['chain']} handle {rule['handle']}"
    return Rule(text, tuple(conditions), verdict, target)


def _is_target(body: Any) -> bool:
    return isinstance(body, dict) and body.get("name") in {"MASQUERADE", "SNAT", "NETMAP"}


# ---------------------------------------------------------------- conditions


def _condition(match: Mapping[str, Any], sets: Sets) -> Condition:
    """A condition, if all of it is understood."""
    negated = match["op"] == "!="
    if match["op"] not in {"==", "!=", "in"}:
        return UNREADABLE
    left, right = match["left"], match["right"]
    if not isinstance(left, dict):
        return UNREADABLE
    [(kind, body)] = left.items()
    reader = _READERS.get(kind)
    return UNREADABLE if reader is None else reader(body, right, negated, sets)


def _payload(body: Any, right: Any, negated: bool, sets: Sets) -> Condition:
    field = body.get("field")
    if body.get("protocol") in {"tcp", "udp", "sctp", "th"}:
        return Always(Holds.SOME)
    if field in {"protocol", "nexthdr"}:
        return Always(Holds.SOME)
    if field not in {"saddr", "daddr"}:
        return UNREADABLE
    networks = _networks(right, sets)
    if networks is None:
        return UNREADABLE
    return Addresses(field == "daddr", tuple(networks), negated)


def _meta(body: Any, right: Any, negated: bool, sets: Sets) -> Condition:
    key = body.get("key")
    if key == "oifname":
        names = _elements(right, sets)
        if names is not None and all(isinstance(name, str) for name in names):
            return OutLink(tuple(names), negated)
    elif key == "mark" and isinstance(right, int):
        return _mark(0, right, negated)
    elif key == "l4proto":
        return Always(Holds.SOME)
    return UNREADABLE


def _masked(body: Any, right: Any, negated: bool, _: Sets) -> Condition:
    """`meta mark & 0x4000 == 0x4000`: what comes straight from a pod has no mark."""
    if body[0] == {"meta": {"key": "mark"}} and isinstance(right, int):
        return _mark(0, right, negated)
    return UNREADABLE


def _mark(mark: int, wanted: int, negated: bool) -> Always:
    return Always(Holds.ALL if (mark == wanted) is not negated else Holds.NONE)


def _fib(body: Any, right: Any, negated: bool, _: Sets) -> Condition:
    """`fib saddr type local`: a pod's address is never one of the node's own."""
    if body == {"result": "type", "flags": ["saddr"]} and right == "local":
        return Always(Holds.ALL if negated else Holds.NONE)
    return UNREADABLE


_READERS: Final[Mapping[str, Callable[[Any, Any, bool, Sets], Condition]]] = {
    "payload": _payload,
    "meta": _meta,
    "&": _masked,
    "fib": _fib,
}


def _elements(right: Any, sets: Sets) -> list[Any] | None:
    """The values on the right side of a match; None: a set that is not there."""
    if isinstance(right, str) and right.startswith("@"):
        found = sets.get(right[1:])
        return None if found is None else _elements({"set": found}, sets)
    if isinstance(right, dict) and "set" in right:
        inside = right["set"]
        return [_plain(item) for item in (inside if isinstance(inside, list) else [inside])]
    return [right]


def _plain(item: Any) -> Any:
    """An element of a set without its counter, comment or time."""
    return item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item


def _networks(right: Any, sets: Sets) -> list[Net] | None:
    elements = _elements(right, sets)
    if elements is None:
        return None
    found: list[Net] = []
    try:
        for item in elements:
            found += _network(item)
    except (ValueError, TypeError, KeyError):
        return None
    return found


def _network(item: Any) -> list[Net]:
    if isinstance(item, str):
        return [ip_network(item)]
    if "prefix" in item:
        return [ip_network(f"{item['prefix']['addr']}/{item['prefix']['len']}")]
    first, last = (ip_address(end) for end in item["range"])
    return list(summarize_address_range(first, last))
