"""Our table of nftables on its way to JSON and back, and whatever somebody does to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.filtering import collapsed
from fabricd.core.state import Filter
from fabricd.kernel.nft import Nftables, decode, encode
from fabricd.model import Prefix

LISTING = Path(__file__).with_name("listings") / "nft-1.0.6.json"
"""What `nft -j list table inet fabricd` said of Debian 12 after a load of `WANT`."""

WANT = Filter(
    masqueraded=(Prefix("2.2.2.0/27"), Prefix("fd00:2::/64")),
    inside=(Prefix("2.0.0.0/8"), Prefix("10.233.1.9/32"), Prefix("fd00:2::/64")),
    bridge="br-edge",
)

PREFIXES = st.lists(
    st.sampled_from(
        [
            *(f"2.2.{n}.0/24" for n in range(4)),
            *("10.0.0.0/8", "9.9.9.9/32", "2.2.0.128/25"),
            *("fd00::/64", "fd00:0:0:1::/64", "fd00:2::1/128"),
        ]
    ).map(Prefix)
).map(collapsed)


@given(st.builds(Filter, PREFIXES, PREFIXES, st.sampled_from(["", "br-edge", "pods"])))
def test_there_and_back(wanted: Filter) -> None:
    assert decode(encode(wanted)) == wanted


def shown() -> list[dict[str, Any]]:
    """The listing, without what a load does not have."""
    listing: list[dict[str, Any]] = json.loads(LISTING.read_text(encoding="utf-8"))["nftables"]
    for item in listing:
        for body in item.values():
            body.pop("handle", None)
    return [item for item in listing if "metainfo" not in item]


def test_what_nft_shows_of_it() -> None:
    assert decode(shown()) == WANT


def test_chains_and_sets_have_no_order_rules_of_two_chains_none_among_them() -> None:
    listing = shown()
    rules = [item for item in listing if "rule" in item]
    others = [item for item in listing if "rule" not in item]
    assert decode([*reversed(others), *rules[4:], *rules[:4]]) == WANT


# ---------------------------------------------------------------- somebody changes it


def the_rule(listing: list[dict[str, Any]], chain: str) -> dict[str, Any]:
    """The first one of a chain."""
    return next(i for i in listing if "rule" in i and i["rule"]["chain"] == chain)


def without_a_rule(listing: list[dict[str, Any]]) -> None:
    listing.remove(the_rule(listing, "postrouting"))


def with_another_rule(listing: list[dict[str, Any]]) -> None:
    rule = copy.deepcopy(the_rule(listing, "forward"))
    rule["rule"]["expr"] = [{"drop": None}]
    listing.append(rule)


def with_a_rule_twice(listing: list[dict[str, Any]]) -> None:
    listing.append(the_rule(listing, "forward"))


def in_another_order(listing: list[dict[str, Any]]) -> None:
    rule = the_rule(listing, "forward")
    listing.remove(rule)
    listing.append(rule)


def accepted_instead(listing: list[dict[str, Any]]) -> None:
    the_rule(listing, "postrouting")["rule"]["expr"][-1] = {"accept": None}


def without_a_chain(listing: list[dict[str, Any]]) -> None:
    listing[:] = [i for i in listing if i.get("chain", i.get("rule", {})) and not _of(i, "forward")]


def _of(item: dict[str, Any], chain: str) -> bool:
    return chain in (item.get("chain", {}).get("name"), item.get("rule", {}).get("chain"))


def with_a_policy_of_drop(listing: list[dict[str, Any]]) -> None:
    next(i for i in listing if _of(i, "forward"))["chain"]["policy"] = "drop"


def at_another_priority(listing: list[dict[str, Any]]) -> None:
    next(i for i in listing if _of(i, "postrouting"))["chain"]["prio"] = 0


def with_a_chain(listing: list[dict[str, Any]]) -> None:
    chain = copy.deepcopy(next(i for i in listing if _of(i, "forward")))
    chain["chain"] = {"family": "inet", "table": "fabricd", "name": "mine"}
    listing.append(chain)


def flushed(listing: list[dict[str, Any]]) -> None:
    listing[:] = [item for item in listing if "rule" not in item]


def dormant(listing: list[dict[str, Any]]) -> None:
    next(item for item in listing if "table" in item)["table"]["flags"] = "dormant"


def with_a_range(listing: list[dict[str, Any]]) -> None:
    the_set(listing, "fabric4")["elem"].append({"range": ["9.0.0.1", "9.0.0.3"]})


def with_a_timeout(listing: list[dict[str, Any]]) -> None:
    the_set(listing, "pods4")["elem"][0] = {"elem": {"val": "2.2.2.2", "timeout": 60}}


def the_set(listing: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        item["set"] for item in listing if item.get("set", {}).get("name") == name
    )
    return found


@pytest.mark.parametrize(
    "change",
    [
        without_a_rule,
        with_another_rule,
        with_a_rule_twice,
        in_another_order,
        accepted_instead,
        without_a_chain,
        with_a_policy_of_drop,
        at_another_priority,
        with_a_chain,
        flushed,
        dormant,
        with_a_range,
        with_a_timeout,
    ],
)
def test_a_change_is_seen(change: Callable[[list[dict[str, Any]]], None]) -> None:
    listing = shown()
    change(listing)
    found = decode(listing)
    assert not found.intact
    assert found != WANT


@pytest.mark.parametrize(
    "element",
    ["eth0", "52:54:00:12:34:56", {"prefix": {"addr": "2.0.0.1", "len": 8}}, {"concat": ["a", 1]}],
)
def test_a_set_of_something_else_is_a_change_like_others(element: object) -> None:
    listing = shown()
    the_set(listing, "fabric4")["elem"] = [element]
    found = decode(listing)
    assert not found.intact
    assert found.inside == (Prefix("fd00:2::/64"),)


def test_other_elements_are_seen_as_such() -> None:
    listing = shown()
    the_set(listing, "fabric4")["elem"].remove("10.233.1.9")
    found = decode(listing)
    assert found.intact
    assert found.inside == (Prefix("2.0.0.0/8"), Prefix("fd00:2::/64"))


def test_an_empty_table() -> None:
    assert decode([{"table": {"family": "inet", "name": "fabricd"}}]) == Filter(
        (), (), "", intact=False
    )


# ---------------------------------------------------------------- nft itself


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program of this text into the place of nft."""
    from fabricd.kernel import nft as module

    monkeypatch.setattr(module, "_ENVIRONMENT", {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))  # the one that is searched for nft

    def write(text: str) -> None:
        path = tmp_path / "nft"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    return write


async def test_a_machine_without_nft(nft: Callable[[str], None]) -> None:
    table = Nftables()
    assert await table.observe() == (None, "there is no nft: install the package nftables")
    for refusal in (await table.load(WANT), await table.remove()):
        assert refusal is not None
        assert refusal.message == "there is no nft: install the package nftables"


async def test_an_nft_that_does_not_run(nft: Callable[[str], None], tmp_path: Path) -> None:
    nft("exit 0")
    (tmp_path / "nft").chmod(0o644)
    table = Nftables()
    assert await table.observe() == (None, "nft can't be started: Permission denied")
    refusal = await table.load(WANT)
    assert refusal is not None
    assert refusal.message == "nft can't be started: Permission denied"


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"nftables": 1}'])
async def test_an_nft_that_speaks_nonsense(nft: Callable[[str], None], answer: str) -> None:
    nft(f"echo '{answer}'")
    found, fault = await Nftables().observe()
    assert found is None
    assert fault.startswith("nft answers what this program can't read: ")


async def test_an_nft_that_takes_too_long_keeps_nothing_else_waiting(
    nft: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabricd.kernel.nft._DEADLINE", 0.1)
    nft("exec /bin/sleep 60")
    table = Nftables()
    assert await table.observe() == (None, "nft did not answer within 0.1 s")
    refusal = await table.remove()
    assert refusal is not None
    assert refusal.message == "nft did not answer within 0.1 s"


async def test_a_table_that_is_not_there_is_no_fault(nft: Callable[[str], None]) -> None:
    nft("echo 'Error: No such file or directory; did you mean table x' >&2; exit 1")
    assert await Nftables().observe() == (None, "")


async def test_why_nft_refuses(nft: Callable[[str], None]) -> None:
    nft("/bin/cat >/dev/null; echo 'Operation not permitted (you must be root)' >&2; exit 1")
    why = "nft: Operation not permitted (you must be root)"
    assert await Nftables().observe() == (None, why)
    refusal = await Nftables().load(WANT)
    assert refusal is not None
    assert refusal.message == why


async def test_an_nft_that_shows_it_in_another_way_is_believed_after_the_load(
    nft: Callable[[str], None], tmp_path: Path
) -> None:
    listing = json.loads(LISTING.read_text(encoding="utf-8"))
    rules = [item for item in listing["nftables"] if "rule" in item]
    rules[0]["rule"]["comment"] = "as a later version might"
    (tmp_path / "shown").write_text(json.dumps(listing))
    nft(f"case $2 in -f) /bin/cat >/dev/null;; list) /bin/cat {tmp_path}/shown;; esac")
    table = Nftables()
    found, _ = await table.observe()
    assert found is not None
    assert not found.intact
    assert await table.load(WANT) is None
    assert await table.observe() == (WANT, "")
    rules[1]["rule"]["comment"] = "by somebody"
    (tmp_path / "shown").write_text(json.dumps(listing))
    changed, _ = await table.observe()
    assert changed is not None
    assert not changed.intact
