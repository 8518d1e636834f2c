"""Thousands of worlds; and that what is wrong in one is found, again, and made small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from fabricd.core.action import Action, Disruption, Kind
from fabricd.core.state import Conn, IkeSa
from fabricd.daemon.initiator import Initiator
from tests.simulation.run import Result, run
from tests.simulation.scenario import Scenario, Step, draw
from tests.simulation.shrink import only, shrink

SEEDS = 2000
FEW = 400
"""Seeds within which what is badly wrong is found."""


def simulate(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    """`make simulate`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def test_nothing_is_ever_wrong() -> None:
    done = simulate("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} seeds, 0 failures" in done.stdout


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_a_seed_is_the_same_run_every_time(seed: int) -> None:
    first = simulate("--seed", str(seed), hash_seed="1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert len(first.stdout.splitlines()) > 20
    assert simulate("--seed", str(seed), hash_seed="2").stdout == first.stdout


# ---------------------------------------------------------------- what is wrong is found


def _lies(*_: object) -> tuple[bool, str, str]:
    return True, "up", ""


def _refuses_nothing(*_: object) -> list[object]:
    return []


def _ends_what_is_old(conn: Conn, sas: list[IkeSa]) -> Iterator[Action]:
    for sa in sas:
        for child in sa.children:
            if child.age > 5:
                yield Action(Kind.CHILD_TERMINATE, child.name, Disruption.DROP, "it is old", child)


async def _attempts_once(self: Initiator, conn: str, scope: trio.CancelScope) -> None:
    with scope:
        for tunnel in self._wanted.get(conn, ()):
            await self._attempt(tunnel, first=True)


SABOTAGE: dict[str, tuple[dict[str, object], str]] = {
    "the status lies": (
        {"fabricd.daemon.peers._judge": _lies},
        "status says|does not say|is up, though",
    ),
    "nothing refuses what has no tunnel": (
        {"fabricd.core.routing._fail_closed": _refuses_nothing},
        "clear text",
    ),
    "connections are never alike": (
        {"fabricd.core.state.Conn.__eq__": lambda self, other: False},
        "is loaded already|no end",
    ),
    "all that is in charon is taken for ours": (
        dict.fromkeys(
            ("fabricd.core.plan_ike.owns_conn", "tests.simulation.vici.owns_conn"),
            lambda name: True,
        ),
        "not ours",
    ),
    "what is right is ended": (
        {"fabricd.core.sas._unwanted_children": _ends_what_is_old},
        "ends what the records ask for",
    ),
    "one attempt is all": (
        {"fabricd.daemon.initiator.Initiator._bring_up": _attempts_once},
        "not as desired",
    ),
    "nobody looks but when told": (
        {"fabricd.daemon.rounds.SWEEP": 1e6},
        "not as desired|status says|no more",
    ),
    "removals do not wait for the store": (
        {"fabricd.core.plan._without_removals": lambda actions, desired: actions},
        "though the source is not in sync",
    ),
    "a sudden loss is obeyed": (
        {"fabricd.core.rib.Rib._lose": lambda self, keys, before, now: self._forget(keys)},
        "obeys a sudden loss",
    ),
}


@pytest.fixture
def sabotaged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Something is wrong with fabricd; what will be said of it."""
    changes, words = SABOTAGE[request.param]
    for target, replacement in changes.items():
        monkeypatch.setattr(target, replacement)
    return words


def first_failure() -> Result:
    for seed in range(FEW):
        result = run(draw(seed))
        if result.verdict:
            return result
    raise AssertionError(f"nothing was found in {FEW} seeds")


SELDOM = {"removals do not wait for the store"}


@pytest.mark.parametrize("sabotaged", sorted(SABOTAGE.keys() - SELDOM), indirect=True)
def test_what_is_wrong_is_found(sabotaged: str) -> None:
    assert re.search(sabotaged, first_failure().verdict)


@pytest.mark.parametrize("sabotaged", sorted(SELDOM), indirect=True)
def test_what_is_wrong_and_seldom_matters_is_found(sabotaged: str) -> None:
    junk = "route add 9.9.9.0/24 dev eth0 table 198 metric 5 protocol 198"
    steps = Step(5, "store_down", (60,)), Step(30, "by_hand", ("edge1", junk)), Step(30, "nothing")
    assert re.search(sabotaged, run(Scenario(1, ("edge1", "edge2"), False, steps)).verdict)


@pytest.mark.parametrize("sabotaged", ["nobody looks but when told"], indirect=True)
def test_what_is_found_is_made_small_and_found_again(sabotaged: str) -> None:
    found = first_failure()
    kept = shrink(found.scenario)
    assert len(kept) < len(found.scenario.steps)
    small = only(found.scenario, kept)
    first, again = run(small), run(small)
    assert first.verdict
    assert list(map(str, first.trace)) == list(map(str, again.trace))
    for number in kept:
        assert not run(only(found.scenario, tuple(n for n in kept if n != number))).verdict


def test_a_failure_is_made_as_small_as_can_be() -> None:
    """Steps 2 and 5 together are what is wrong."""
    scenario = Scenario(0, ("edge1",), False, tuple(Step(0, f"step{n}") for n in range(8)))

    def play(tried: Scenario) -> Result:
        wrong = {"step2", "step5"} <= {step.name for step in tried.steps}
        return Result(tried, "wrong" if wrong else "", [], 0, 0)

    assert shrink(scenario, play) == (2, 5)
