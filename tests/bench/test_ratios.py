"""Ratios of the bench that no busy machine disturbs, so that nobody makes it slow unseen.

The daemon's own loop on a node in memory. What it does is counted: instructions of Python, which
are as many in each run, and messages. What C code does these don't show, so there is processor time
too, the least of many turns, with much slack. Nothing is held against a number of seconds, only
against what the same run does with less.

Others see that a restart changes nothing (tests/lab/test_restart.py), and that nothing heavy is
imported (tests/unit/cli/test_main.py, tests/unit/cni/test_plugin.py).
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import vici
from trio.testing import MockClock
from vici.protocol import FiniteStream, Message

import fabricd
from tests.bench.bytecodes import counted
from tests.bench.crowded import Crowded
from tests.unit.daemon.conftest import Pki

PEERS = 20
FEW, MANY = 100, 5_000
"""Records."""

GLANCE = 1
"""Instructions: not even a loop over all that does nothing. To derive from one takes hundreds."""

TURNS = 4
"""Of what is counted: something else that the loop does at times may fall into one."""

PEER, STRANGER = range(3, 4), range(60, 61)
"""Numbers of records."""


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    folder = tmp_path / "pki"
    folder.mkdir()
    return Pki(folder)


async def least(work: Callable[[int], Awaitable[None]], turns: int = TURNS) -> int:
    """Instructions of ours that it takes, in the best of its turns."""
    numbers = []
    for turn in range(turns):
        with counted(fabricd) as count:
            await work(turn)
        numbers.append(count.number)
    return min(numbers)


@asynccontextmanager
async def up(pki: Pki, records: int, peers: int) -> AsyncIterator[Crowded]:
    """A node with all its tunnels."""
    async with trio.open_nursery() as nursery:
        node = Crowded(pki, records, peers)
        await node.come_up(nursery)
        yield node
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- one change


@pytest.mark.parametrize("whose", [PEER, STRANGER], ids=["peer", "stranger"])
async def test_a_change_costs_a_glance_at_most_at_each_record_that_is_the_same(
    pki: Pki, whose: range, autojump_clock: MockClock
) -> None:
    costs = {}
    for records in (FEW, MANY):
        async with up(pki, records, PEERS) as node:
            costs[records] = await least(partial(node.changed, whose))
    assert costs[MANY] - costs[FEW] <= GLANCE * (MANY - FEW), costs


async def test_a_change_takes_about_the_same_processor_time_among_few_records_and_many(
    pki: Pki, autojump_clock: MockClock
) -> None:
    async with up(pki, FEW, PEERS) as few, up(pki, MANY, PEERS) as many:
        times: dict[int, list[float]] = {FEW: [], MANY: []}
        for turn in range(20):
            for node in (few, many):
                began = time.thread_time()
                await node.changed(PEER, turn)
                times[node.record_count].append(time.thread_time() - began)
    assert min(times[MANY]) <= 3 * min(times[FEW]), times


async def test_a_change_costs_no_more_than_the_peers_are_more(
    pki: Pki, autojump_clock: MockClock
) -> None:
    costs = {}
    for peers in (30, 300):
        async with up(pki, peers + 1, peers) as node:
            costs[peers] = await least(partial(node.changed, PEER))
    assert costs[300] <= 11 * costs[30], costs


async def test_a_change_is_asked_after_alone(pki: Pki, autojump_clock: MockClock) -> None:
    """However many peers there are, charon is asked after the one, and the kernel as often."""
    seen = []
    for peers in (10, 500):
        async with up(pki, peers + 1, peers) as node:
            charon, kernel = node.listing, node.kernel
            before = charon.asked, charon.told, kernel.observed
            await node.changed(PEER, 0)
            after = charon.asked, charon.told, kernel.observed
            seen.append([now - then for now, then in zip(after, before, strict=True)])
    assert seen[0] == seen[1]


# ---------------------------------------------------------------- many at once


@pytest.mark.parametrize(
    "sizes", [((300, PEERS), (3_000, PEERS)), ((31, 30), (301, 300))], ids=["records", "peers"]
)
async def test_a_start_costs_no_more_than_there_is_more(
    pki: Pki, sizes: Sequence[tuple[int, int]], autojump_clock: MockClock
) -> None:
    costs = []
    for records, peers in sizes:
        with counted(fabricd) as count:
            async with up(pki, records, peers):
                pass
        costs.append(count.number)
    assert costs[1] <= 11 * costs[0], costs


async def test_a_thousand_changes_at_once_are_one_plan(pki: Pki, autojump_clock: MockClock) -> None:
    async with up(pki, 1_001, 1_000) as node:
        parts = {"conn.load": node.listing, "route.set": node.kernel, "route.remove": node.kernel}
        done: list[tuple[int, ...]] = []
        """After each pass."""

        def look() -> None:
            done.append(
                tuple(
                    sum(name.startswith(kind) for name in part.names)
                    for kind, part in parts.items()
                )
            )

        node.listing.applied.clear()
        node.kernel.applied.clear()
        node.after_pass = look
        await node.changed(range(1_000), 0)
        assert set(done) == {(1_000, 1_000, 1_000)}


# ---------------------------------------------------------------- nothing to do


async def test_a_sweep_costs_less_than_to_read_the_dump_plainly(
    pki: Pki, autojump_clock: MockClock
) -> None:
    """Plainly: as the package `vici` reads what charon lists, and throws it away."""
    async with up(pki, 501, 500) as node:
        dump = [
            message
            for command in ("list-conns", "list-sas")
            for message in node.listing.listed(command, {})
        ]
        ours = await least(lambda _turn: node.swept(), 2)
        with counted(vici) as floor:
            for message in dump:
                Message.deserialize(FiniteStream(message))
    assert len(dump) == 2 * 500
    assert ours <= floor.number


# ---------------------------------------------------------------- footprint


async def test_a_record_takes_some_kilobytes(pki: Pki, autojump_clock: MockClock) -> None:
    held = {}
    tracemalloc.start()
    try:
        for records in (2_000, 4_000):
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            async with up(pki, records, PEERS):
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
                held[records] = after - before
    finally:
        tracemalloc.stop()
    assert held[4_000] - held[2_000] <= 4_000 * 2_000, held


def test_help_loads_little_more_than_click_does() -> None:
    loaded = {}
    for code in ("import click", "import fabricd.cli.main as m; m.fabricctl(['--help'])"):
        script = f"import atexit, sys; atexit.register(lambda: print(len(sys.modules))); {code}"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        loaded[code] = int(done.stdout.split()[-1])
    least, ours = loaded.values()
    assert ours <= 1.3 * least, loaded
