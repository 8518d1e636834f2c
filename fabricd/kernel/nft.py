"""Our table of nftables, read and loaded through nft(8) as JSON (libnftables-json(5)).

The rules never change, but for the bridge's name; what they go by stands in sets. A load replaces
the whole table in one transaction, and connections that are tracked keep what was decided.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from contextlib import suppress
from ipaddress import ip_network
from typing import Any, Final

import trio

from fabricd.core.filtering import collapsed
from fabricd.core.ownership import TABLE_NAME
from fabricd.core.state import Filter
from fabricd.kernel.netlink import Refusal
from fabricd.model import Prefix, family

_STDIN: Final = "/proc/self/fd/0"
"""nft would open /dev/stdin, which not every machine has."""

_GIVEN_UP: Final = 300.0
"""Seconds after a refusal until it is tried again: a kernel that lacks what it takes gets it when
a module is loaded, and whatever else there is to do must not wait for that.
"""

_DEADLINE: Final = 10.0
"""Seconds for one run of nft."""

_NAMED: Final = {"family": "inet", "table": TABLE_NAME}
_TABLE: Final = {"table": {"family": "inet", "name": TABLE_NAME}}
_ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}

_POSTROUTING: Final = "postrouting"
_FORWARD: Final = "forward"
_SOURCE_NAT: Final = 100
_MANGLE: Final = -150
"""Priorities `srcnat` and `mangle` of nft(8): before rules that let pass or drop."""

_TYPES: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_PROTOCOLS: Final = {4: "ip", 6: "ip6"}

Json = Any


class _Unusable(Exception):
    """nft does not do its work: no reason for the rest of the kernel to wait."""


class Nftables:
    """nft, in the network namespace of the process."""

    def __init__(self) -> None:
        self._learned: tuple[Json, Filter] | None = None
        """How this nft shows what it was told, if that is not how we write it."""
        self._refused: tuple[float, str] | None = None
        """Until when a refusal is taken as the kernel's last word, and what it was."""

    async def observe(self) -> tuple[Filter | None, str]:
        """What the table holds, None if there is none; and why nftables can't be used, or ""."""
        try:
            shown, reason = await _shown()
        except _Unusable as error:
            return None, str(error)
        lasting = self._refused
        fault = lasting[1] if lasting and trio.current_time() < lasting[0] else ""
        if shown is None:
            return None, fault or ("" if "No such file or directory" in reason else reason)
        if self._learned is not None and self._learned[0] == shown:
            return self._learned[1], fault
        return decode(shown), fault

    async def load(self, wanted: Filter) -> Refusal | None:
        """Put the table in place of what is there."""
        commands = [{"add": _TABLE}, {"delete": _TABLE}, *({"add": o} for o in encode(wanted))]
        refusal = await self._run(commands)
        self._refused = None
        if refusal is not None:
            self._refused = trio.current_time() + _GIVEN_UP, refusal.message
        else:
            shown = None
            with suppress(_Unusable):
                shown, _ = await _shown()
            if shown is not None and decode(shown) != wanted:
                self._learned = shown, wanted
        return refusal

    async def remove(self) -> Refusal | None:
        """Delete the table."""
        return await self._run([{"add": _TABLE}, {"delete": _TABLE}])

    @staticmethod
    async def _run(commands: list[Json]) -> Refusal | None:
        try:
            done = await _nft(["-f", _STDIN], json.dumps({"nftables": commands}).encode())
        except _Unusable as error:
            return Refusal(errno.EIO, str(error))
        return None if done.returncode == 0 else Refusal(errno.EIO, _reason(done))


async def _shown() -> tuple[list[Json] | None, str]:
    """The objects of the table; None if nft shows none, and why. Raises as `_nft`."""
    listed = await _nft(["list", "table", "inet", TABLE_NAME])
    if listed.returncode != 0:
        return None, _reason(listed)
    try:
        return _plain(json.loads(listed.stdout)["nftables"]), ""
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Unusable(f"nft answers what this program can't read: {error}") from error


async def _nft(arguments: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run nft; raises _Unusable."""
    try:
        with trio.move_on_after(_DEADLINE):
            return await trio.run_process(
                ["nft", "-j", *arguments],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**os.environ, **_ENVIRONMENT},
            )
    except FileNotFoundError:
        raise _Unusable("there is no nft: install the package nftables") from None
    except OSError as error:
        raise _Unusable(f"nft can't be started: {error.strerror}") from error
    raise _Unusable(f"nft did not answer within {_DEADLINE:g} s")


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return f"nft: {lines[0]}" if lines else f"nft ended with status {done.returncode}"


# ---------------------------------------------------------------- the table


def encode(wanted: Filter) -> list[Json]:
    """The objects of the table, in the order in which they are made."""
    sets = {"pods": wanted.masqueraded, "fabric": wanted.inside}
    return [
        _TABLE,
        *(_set(f"{name}{n}", n, sets[name]) for n in (4, 6) for name in sets),
        _chain(_FORWARD, "filter", _MANGLE),
        _chain(_POSTROUTING, "nat", _SOURCE_NAT),
        *_rules(wanted.bridge),
    ]


def decode(shown: list[Json]) -> Filter:
    """What a table says whose objects, without handles, are these."""
    elements: dict[str, list[Prefix]] = {}
    bridge = ""
    frame: list[Json] = []
    intact = True
    for item in shown:
        if "set" in item:
            bare = {key: value for key, value in item["set"].items() if key != "elem"}
            frame.append({"set": bare})
            found = list(map(_prefix, item["set"].get("elem", [])))
            intact = intact and None not in found
            elements[bare["name"]] = [text for text in found if text is not None]
            continue
        frame.append(item)
        bridge = _bridge(item) or bridge
    found_sets = {
        name: collapsed([p for n in (4, 6) for p in elements.get(f"{name}{n}", ())])
        for name in ("pods", "fabric")
    }
    empty = encode(Filter((), (), bridge))
    return Filter(
        masqueraded=found_sets["pods"],
        inside=found_sets["fabric"],
        bridge=bridge,
        intact=intact and _sorted(frame) == _sorted(empty),
    )


def _rules(bridge: str) -> list[Json]:
    for_pods = [_match("!=", {"meta": {"key": "oifname"}}, bridge)] if bridge else []
    rules = []
    for n in (4, 6):
        syn = _match("==", {"&": [_field("tcp", "flags"), ["syn", "rst"]]}, "syn")
        clamp = {
            "mangle": {
                "key": {"tcp option": {"name": "maxseg", "field": "size"}},
                "value": {"rt": {"key": "mtu"}},
            }
        }
        rules += [
            _rule(_FORWARD, [_match("==", _field(_PROTOCOLS[n], end), f"@fabric{n}"), syn, clamp])
            for end in ("saddr", "daddr")
        ]
        leaving = [
            _match("==", _field(_PROTOCOLS[n], "saddr"), f"@pods{n}"),
            _match("!=", _field(_PROTOCOLS[n], "daddr"), f"@fabric{n}"),
        ]
        rules.append(_rule(_POSTROUTING, [*leaving, *for_pods, {"masquerade": None}]))
    return rules


def _set(name: str, number: int, prefixes: tuple[Prefix, ...]) -> Json:
    elements = [_element(text) for text in prefixes if family(text) == number]
    body = {**_NAMED, "name": name, "type": _TYPES[number], "flags": ["interval"]}
    return {"set": {**body, "elem": elements} if elements else body}


def _element(text: Prefix) -> Json:
    address, _, length = text.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _prefix(element: Json) -> Prefix | None:
    """None: it is none, in a set that somebody else has made."""
    match element:
        case str(address):  # a single one
            text = f"{address}/{128 if ':' in address else 32}"
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            text = f"{address}/{length}"
        case _:
            return None
    try:
        return Prefix(str(ip_network(text)))
    except ValueError:
        return None


def _chain(name: str, kind: str, priority: int) -> Json:
    body = {"type": kind, "hook": name, "prio": priority, "policy": "accept"}
    return {"chain": {**_NAMED, "name": name, **body}}


def _rule(chain: str, expressions: list[Json]) -> Json:
    return {"rule": {**_NAMED, "chain": chain, "expr": expressions}}


def _match(operator: str, left: Json, right: Json) -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _field(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def _bridge(item: Json) -> str:
    for expression in item.get("rule", {}).get("expr", []):
        match expression:
            case {"match": {"left": {"meta": {"key": "oifname"}}, "right": str(name)}}:
                return name
    return ""


def _plain(listing: list[Json]) -> list[Json]:
    """A listing without what differs from load to load, or from version to version of nft."""
    return [_without_handles(item) for item in listing if "metainfo" not in item]


def _without_handles(value: Json) -> Json:
    match value:
        case {"|": list(words)}:
            return words
        case dict():
            return {k: _without_handles(v) for k, v in value.items() if k != "handle"}
        case list():
            return list(map(_without_handles, value))
    return value


def _sorted(objects: list[Json]) -> list[str]:
    """Rules keep their order within a chain; sets and chains have none."""
    rules = [json.dumps(item, sort_keys=True) for item in objects if "rule" in item]
    others = sorted(json.dumps(item, sort_keys=True) for item in objects if "rule" not in item)
    forward = [text for text in rules if f'"chain": "{_FORWARD}"' in text]
    return others + forward + [text for text in rules if text not in forward]
