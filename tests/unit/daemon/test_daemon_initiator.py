"""Initiating, again and again, in simulated time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from fabricd.core.action import Tunnel
from fabricd.core.state import Child, Conn
from fabricd.daemon.initiator import (
    EARLY,
    EARLY_DELAY,
    FIRST_DELAY,
    LAST_DELAY,
    PARALLEL,
    SETTLE,
    Initiator,
)
from fabricd.model import Prefix
from tests.unit.daemon.fakes import FakeCharon


def conn(peer: str, children: int = 1) -> Conn:
    pairs = (
        Child(Prefix("2.2.2.0/27"), Prefix(f"10.{number}.0.0/16")) for number in range(children)
    )
    return Conn(f"fabric-{peer}", "d1", frozenset(pairs))


def tunnels(conn: Conn) -> list[Tunnel]:
    return [Tunnel(conn.name, conn.child_name(child)) for child in sorted(conn.children)]


class Bench:
    """An initiator and its charon."""

    def __init__(self, nursery: trio.Nursery, *conns: Conn) -> None:
        self.charon = FakeCharon()
        self.charon.held.conns = {conn.name: conn for conn in conns}
        self.pokes: list[str] = []
        self.initiator = Initiator(self.charon, self.pokes.append, random.Random(1))
        nursery.start_soon(self.initiator.run)

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.charon.initiated]

    @property
    def children(self) -> list[str]:
        return [tunnel.child for _, tunnel in self.charon.initiated]


@pytest.fixture
def edge3() -> Conn:
    return conn("edge3")


async def test_a_missing_tunnel_is_initiated_at_once(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    start = trio.current_time()
    with capture_logs() as logs:
        bench.initiator.want(tunnels(edge3))
        await wait_all_tasks_blocked()
    assert bench.times == [start]
    assert bench.initiator.attempts == {"fabric-edge3": 1}
    assert bench.initiator.errors == {}
    assert bench.pokes == ["initiated fabric-edge3"]
    assert [(line["event"], line["peer"]) for line in logs] == [("initiated", "edge3")]
    assert len(bench.charon.held.sas) == 1


async def test_the_pauses_double_up_to_the_longest_and_stay_short_at_first(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "no answer"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(1000)
    begun, pauses = bench.times[0], [b - a for a, b in pairwise(bench.times)]
    expected = FIRST_DELAY
    for pause, now in zip(pauses, bench.times[1:], strict=True):
        assert expected * 0.5 <= pause <= expected * 1.5 + 1e-6
        expected = min(expected * 2, EARLY_DELAY if now - begun < EARLY else LAST_DELAY)
    assert sum(when - begun < EARLY for when in bench.times) > EARLY / EARLY_DELAY
    assert len(pauses) > 30
    assert len(set(pauses[-5:])) == 5  # jitter: not all nodes at once


async def test_a_failure_is_told_once_and_its_reason_kept(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "peer answered NO_PROPOSAL_CHOSEN"
    with capture_logs() as logs:
        bench.initiator.want(tunnels(edge3))
        await trio.sleep(300)
    assert bench.initiator.errors == {"fabric-edge3": "peer answered NO_PROPOSAL_CHOSEN"}
    assert bench.pokes == ["initiate fabric-edge3"]  # the same failure again is no news
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["initiate failed"]
    bench.charon.fails["fabric-edge3"] = "no answer"
    await trio.sleep(60)
    assert bench.initiator.errors == {"fabric-edge3": "no answer"}
    assert len(bench.pokes) == 2


async def test_a_peer_that_is_a_moment_late_is_no_warning(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "peer answered NO_PROPOSAL_CHOSEN"
    with capture_logs() as logs:
        bench.initiator.want(tunnels(edge3))
        await wait_all_tasks_blocked()
        bench.charon.fails.clear()
        await trio.sleep(FIRST_DELAY * 2)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("not initiated at once", "info"),
        ("initiated", "info"),
    ]
    assert bench.initiator.errors == {}


async def test_charon_away_is_a_failure_like_others(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.away = "no socket"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(10)
    assert bench.initiator.errors == {"fabric-edge3": "no socket"}
    bench.charon.away = ""
    await trio.sleep(LAST_DELAY * 2)
    assert bench.initiator.errors == {}


async def test_a_success_that_does_not_show_is_not_repeated_at_full_speed(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.initiator.want(tunnels(edge3))  # and nobody says that it is there now
    await trio.sleep(300)
    pauses = [b - a for a, b in pairwise(bench.times)]
    assert min(pauses) >= SETTLE * 0.5
    assert max(pauses) > LAST_DELAY * 0.5


async def test_what_is_no_longer_wanted_is_left_alone(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "no answer"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(10)
    bench.initiator.want([])
    before = len(bench.times)
    await trio.sleep(300)
    assert len(bench.times) == before
    assert bench.initiator.errors == {}


async def test_what_is_wanted_anew_begins_anew(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "no answer"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(300)
    bench.initiator.want([])
    bench.initiator.want(tunnels(edge3))
    start = trio.current_time()
    await wait_all_tasks_blocked()
    assert bench.times[-1] == start


async def test_to_want_the_same_again_does_not_disturb_the_backoff(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "no answer"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(100)
    before = len(bench.times)
    for _ in range(100):
        bench.initiator.want(tunnels(edge3))
        await trio.sleep(0.01)
    assert len(bench.times) - before <= 1


async def test_wanted_and_unwanted_before_it_began(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.initiator.want(tunnels(edge3))
    bench.initiator.want([])
    await trio.sleep(10)
    assert bench.times == []


async def test_one_at_a_time_for_a_peer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """FakeCharon refuses two at once for one connection."""
    gateway = conn("cloud1", children=3)
    bench = Bench(nursery, gateway)
    bench.charon.patience = 0.5
    bench.initiator.want(tunnels(gateway)[:1])
    await trio.sleep(0.1)
    bench.initiator.want(tunnels(gateway))  # more of it while the first is under way
    await trio.sleep(10)
    assert [len(sa.children) for sa in bench.charon.held.sas] == [3]


async def test_a_child_that_is_refused_does_not_keep_the_others_waiting(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    gateway = conn("cloud1", children=3)
    first, *others = (tunnel.child for tunnel in tunnels(gateway))
    bench = Bench(nursery, gateway)
    bench.charon.fails[first] = "peer answered TS_UNACCEPTABLE"
    bench.initiator.want(tunnels(gateway))
    await trio.sleep(1)
    assert bench.children[:3] == [first, *others]
    bench.initiator.want([tunnel for tunnel in tunnels(gateway) if tunnel.child == first])
    await trio.sleep(300)
    assert set(bench.children[3:]) == {first}
    assert bench.initiator.errors == {"fabric-cloud1": "peer answered TS_UNACCEPTABLE"}


async def test_a_peer_that_is_silent_gets_one_attempt_a_round(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    gateway = conn("cloud1", children=3)
    bench = Bench(nursery, gateway)
    bench.charon.fails["fabric-cloud1"] = "no answer"
    bench.charon.patience = 10
    bench.initiator.want(tunnels(gateway))
    await trio.sleep(1000)
    names = [tunnel.child for tunnel in tunnels(gateway)]
    assert bench.children[:6] == names * 2
    assert min(b - a for a, b in pairwise(bench.times[-10:])) >= 10 + LAST_DELAY * 0.5


async def test_not_all_peers_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    conns = [conn(f"edge{number}") for number in range(3 * PARALLEL)]
    bench = Bench(nursery, *conns)
    bench.charon.patience = 1.0
    bench.initiator.want(tunnel for conn in conns for tunnel in tunnels(conn))
    await wait_all_tasks_blocked()
    assert len(bench.charon.under_way) == PARALLEL
    await trio.sleep(3.5)
    assert len(bench.charon.held.sas) == 3 * PARALLEL
    assert bench.charon.most_under_way == PARALLEL


async def test_silent_peers_leave_a_place_to_the_others(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    dead = [conn(f"dead{number}") for number in range(10 * PARALLEL)]
    bench = Bench(nursery, edge3, *dead)
    bench.charon.silent = {conn.name for conn in dead}
    missing = [tunnel for conn in dead for tunnel in tunnels(conn)]
    bench.initiator.want(missing)
    await trio.sleep(300)
    assert len(bench.initiator.waiting) > PARALLEL
    before = trio.current_time()
    bench.initiator.want([*missing, *tunnels(edge3)])
    await wait_all_tasks_blocked()
    assert [sa.conn for sa in bench.charon.held.sas] == ["fabric-edge3"]
    assert trio.current_time() == before
    assert "fabric-edge3" not in bench.initiator.waiting


async def test_a_peer_that_is_gone_is_forgotten(
    nursery: trio.Nursery, edge3: Conn, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, edge3)
    bench.charon.fails["fabric-edge3"] = "no answer"
    bench.initiator.want(tunnels(edge3))
    await trio.sleep(1)
    bench.initiator.want([])
    assert bench.initiator.attempts["fabric-edge3"] > 1
    bench.initiator.forget(["fabric-edge3", "fabric-never-known"])
    assert "fabric-edge3" not in bench.initiator.attempts
