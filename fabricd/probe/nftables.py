"""Which rules of nftables drop a packet or change its addresses, out of `nft -j list ruleset`.

A packet is followed through the chains as the kernel would (libnftables-json(5)), as far as they
can be read: a condition holds, does not hold, or can't be told (None), because it depends on what
the packet is beside its addresses, or because it is of a kind that is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any, Final

from fabricd.core.facts import Obstacle
from fabricd.model import Address, family

Holds = bool | None

FAMILIES: Final = {"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})}

DROPS: Final = "drops"
CHANGES_SOURCE: Final = "changes the source of"
CHANGES_DESTINATION: Final = "changes the destination of"

ENDS: Final = {
    "accept": "",
    "queue": "",
    "drop": DROPS,
    "reject": DROPS,
    "masquerade": CHANGES_SOURCE,
    "snat": CHANGES_SOURCE,
    "dnat": CHANGES_DESTINATION,
    "redirect": CHANGES_DESTINATION,
}
"""Statements after which the chain is over, and what they do."""

CONDITIONS: Final = frozenset({"limit", "quota", "ct count", "xt"})
"""Statements that let some packets pass on: nobody knows which."""

PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "esp": 50, "ipv6-icmp": 58, "sctp": 132}


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection, or one that answers."""

    name: str
    """For people."""
    source: Address
    destination: Address
    hooks: tuple[str, ...]
    """Those that it passes, `prerouting`, `forward` …"""
    iif: str = ""
    oif: str = ""
    protocol: str = ""
    """Empty: any."""
    ports: tuple[int, int] | None = None
    """Source and destination; None: any."""
    answer: bool = False


def obstacles(ruleset: str, packets: Iterable[Packet]) -> list[Obstacle]:
    """The rules that stand in the way. Raises ValueError for what is no ruleset."""
    try:
        objects = json.loads(ruleset)["nftables"]
        found = [
            obstacle
            for packet in packets
            for hook in packet.hooks
            for chain in _base_chains(objects, hook, packet)
            for obstacle in _Walk(objects, chain, packet).obstacles()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"nft -j list ruleset: not as expected: {error!r}") from error
    return list(dict.fromkeys(found))


def _base_chains(
    objects: Sequence[Mapping[str, Any]], hook: str, packet: Packet
) -> Iterator[Mapping[str, Any]]:
    number = family(packet.source)
    for item in objects:
        chain = item.get("chain", {})
        if chain.get("hook") == hook and number in FAMILIES.get(chain["family"], ()):
            if chain["type"] == "nat" and packet.answer:
                continue  # only the first packet of a connection gets there
            yield chain


class _Walk:
    """One packet through one base chain."""

    def __init__(
        self, objects: Sequence[Mapping[str, Any]], base: Mapping[str, Any], packet: Packet
    ) -> None:
        self._base = base
        self._packet = packet
        self._found: list[Obstacle] = []
        mine = [
            (kind, body)
            for item in objects
            for kind, body in item.items()
            if kind in {"rule", "set", "map"}
            and (body["family"], body["table"]) == (base["family"], base["table"])
        ]
        self._rules = [body for kind, body in mine if kind == "rule"]
        self._sets = {body["name"]: body.get("elem", []) for kind, body in mine if kind != "rule"}

    def obstacles(self) -> list[Obstacle]:
        through = self._chain(self._base["name"], True, ())
        if self._base.get("policy") == "drop" and through is not False:
            self._report(DROPS, through, f"the policy of chain {self._base['name']}")
        return self._found

    def _chain(self, name: str, here: Holds, path: tuple[str, ...]) -> Holds:
        """Follow a chain; whether the packet comes out behind it."""
        if name in path:  # a loop, which the kernel does not take
            return here
        returned: Holds = False
        for rule in self._rules:
            if rule["chain"] != name or here is False:
                continue
            for holds, verdict, target in self._outcomes(rule["expr"]):
                inside = _both(here, holds)
                if inside is False:
                    continue
                rest = False if holds is True else None
                match verdict:
                    case "jump":
                        through = self._chain(target, inside, (*path, name))
                        here = through if rest is False else None
                    case "goto":
                        through = self._chain(target, inside, (*path, name))
                        returned, here = _either(returned, through), rest
                    case "return":
                        returned, here = _either(returned, inside), rest
                    case _:
                        if ENDS[verdict]:
                            self._report(ENDS[verdict], inside, _words(rule))
                        here = rest
                if here is False:
                    break
        return _either(here, returned)

    def _outcomes(self, expr: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Holds, str, str]]:
        """The verdicts of a rule, each with whether it is reached, and the chain to go to."""
        holds: Holds = True
        for statement in expr:
            [(kind, body)] = statement.items()
            if kind == "match":
                holds = _both(holds, self._match(body))
            elif kind == "xt" and isinstance(body, dict) and body.get("type") == "target":
                if body.get("name") in {"MASQUERADE", "SNAT", "NETMAP"}:
                    yield holds, "masquerade", ""
            elif kind in CONDITIONS:
                holds = _both(holds, None)
            elif kind == "vmap":
                for value, verdict in self._elements(body["data"]) or ():
                    [(name, inner)] = verdict.items()
                    here = _both(holds, self._compare(body["key"], [value]))
                    yield here, name, (inner or {}).get("target", "")
            elif kind in ENDS or kind in {"jump", "goto", "return"}:
                yield holds, kind, (body or {}).get("target", "")
            if holds is False:
                return

    def _report(self, does: str, inside: Holds, where: str) -> None:
        table = f"nft table {self._base['family']} {self._base['table']}"
        rule = f"{table}: {where}"
        self._found.append(Obstacle(self._packet.name, rule, does, certain=inside is True))

    # ------------------------------------------------------------ conditions

    def _match(self, body: Mapping[str, Any]) -> Holds:
        if body["op"] not in {"==", "!=", "in"}:
            return None
        values = self._elements(body["right"])
        found = None if values is None else self._compare(body["left"], values)
        return found if body["op"] != "!=" or found is None else not found

    def _elements(self, right: Any) -> list[Any] | None:
        """The values on the right side; None: a set that is not there."""
        if isinstance(right, str) and right.startswith("@"):
            found = self._sets.get(right[1:])
            return None if found is None else [_plain(item) for item in found]
        if isinstance(right, dict) and "set" in right:
            inside = right["set"]
            if not isinstance(inside, list):
                return self._elements(inside)
            return [_plain(item) for item in inside]
        return right if isinstance(right, list) else [right]

    def _compare(self, left: Any, values: Sequence[Any]) -> Holds:
        if not isinstance(left, dict) or len(left) != 1:
            return None
        [(kind, body)] = left.items()
        match kind:
            case "payload":
                return self._payload(body, values)
            case "meta":
                return self._meta(body.get("key"), values)
            case "&" if body[0] == {"meta": {"key": "mark"}}:
                return 0 in values
            case "ct" if body.get("key") == "state":
                return ("established" if self._packet.answer else "new") in values
        return None

    def _payload(self, body: Mapping[str, Any], values: Sequence[Any]) -> Holds:
        packet = self._packet
        protocol, name = body.get("protocol"), body.get("field")
        if protocol in {"ip", "ip6"}:
            if family(packet.source) != (4 if protocol == "ip" else 6):
                return False
            if name in {"saddr", "daddr"}:
                pod = packet.source if name == "saddr" else packet.destination
                return _any(_has(value, pod) for value in values)
            return self._protocol(values) if name in {"protocol", "nexthdr"} else None
        if protocol not in PROTOCOLS and protocol != "th":
            return None
        if packet.protocol and protocol not in {packet.protocol, "th"}:
            return False
        if not packet.protocol or packet.ports is None or name not in {"sport", "dport"}:
            return None
        port = packet.ports[0 if name == "sport" else 1]
        return _any(_is_port(value, port) for value in values)

    def _meta(self, key: str | None, values: Sequence[Any]) -> Holds:
        packet = self._packet
        match key:
            case "iifname" | "iif" | "oifname" | "oif":
                link = packet.iif if key.startswith("iif") else packet.oif
                return _any(_is_link(value, link) for value in values)
            case "l4proto":
                return self._protocol(values)
            case "nfproto":
                return f"ipv{family(packet.source)}" in values
            case "protocol":
                return ("ip" if family(packet.source) == 4 else "ip6") in values
            case "mark":
                return 0 in values
        return None

    def _protocol(self, values: Sequence[Any]) -> Holds:
        if not self._packet.protocol:
            return None
        return not {self._packet.protocol, PROTOCOLS[self._packet.protocol]}.isdisjoint(values)


def _both(one: Holds, other: Holds) -> Holds:
    if one is False or other is False:
        return False
    return True if one and other else None


def _either(one: Holds, other: Holds) -> Holds:
    if one or other:
        return True
    return False if one is other is False else None


def _any(found: Iterable[Holds]) -> Holds:
    result: Holds = False
    for each in found:
        result = _either(result, each)
    return result


def _plain(item: Any) -> Any:
    """An element of a set without its counter, comment or time."""
    return item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item


def _has(value: Any, pod: Address) -> Holds:
    """Whether an address is, or lies in, an element."""
    try:
        if isinstance(value, str):
            return ip_address(pod) in ip_network(value)
        if "prefix" in value:
            prefix = value["prefix"]
            return ip_address(pod) in ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
        first, last = (ip_address(end) for end in value["range"])
    except (ValueError, TypeError, KeyError):
        return None
    return bool(first <= ip_address(pod) <= last)  # type: ignore[operator]  # of one family


def _is_port(value: Any, port: int) -> Holds:
    if isinstance(value, dict) and "range" in value:
        first, last = value["range"]
        return bool(first <= port <= last)
    return value == port if isinstance(value, int) else None


def _is_link(value: Any, link: str) -> Holds:
    if not isinstance(value, str):
        return None  # how nft prints a pattern inside a set says nothing
    return fnmatchcase(link, value) if link else False


def _words(rule: Mapping[str, Any]) -> str:
    where = f"chain {rule['chain']}"
    return f"{where} handle {rule['handle']}" if "handle" in rule else where
