"""The whole daemon in simulated time: real sockets and files, the rest in memory."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from fabricd.config import Config, parse
from fabricd.core.events import Changed, Delete, Listed, Lost
from fabricd.core.state import KernelState, Pod
from fabricd.daemon import snapshot
from fabricd.daemon.daemon import STUCK, Daemon
from fabricd.daemon.pacing import SWEEP
from tests.unit.daemon.aside import at_once
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.fakes import (
    BOUND,
    EDGE2,
    RECORDS,
    FakeCharon,
    FakeKernel,
    FakeStore,
    put,
)

EDGE4 = put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")


class House:
    """One daemon and the world around it."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.folder = folder
        self.pki = pki
        self.state_dir = folder / "state"
        self.socket = folder / "fabricd.sock"
        self.store = FakeStore()
        self.kernel = FakeKernel()
        self.charon = FakeCharon()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def config(self) -> Config:
        raw = {
            "node": {"name": "edge2"},
            "store": {"state_dir": str(self.state_dir)},
            "ike": {
                "ca": [str(self.pki.ca)],
                "cert": str(self.pki.cert),
                "key": str(self.pki.key),
            },
            "http": {"listen": f"127.0.0.1:{self.port}"},
            "control": {"socket": str(self.socket)},
        }
        return parse(raw, self.folder / "fabricd.toml")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        daemon, before = self.daemon(), signal.getsignal(signal.SIGTERM)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.run)
            await until(lambda: signal.getsignal(signal.SIGTERM) is not before)
            yield daemon
            nursery.cancel_scope.cancel()

    def daemon(self) -> Daemon:
        return Daemon(
            self.config,
            self.store,
            self.kernel,
            self.charon,
            random.Random(1),
            lambda: self.pki.now,
        )

    async def at_rest(self) -> None:
        """Until all tunnels are up and the store has been told so."""
        await until(lambda: self.published and all(p["up"] for p in self.published["peers"]))

    @property
    def published(self) -> dict[str, Any]:
        return self.store.published[-1][1] if self.store.published else {}

    def saved(self) -> list[str]:
        return sorted({record.key for record in snapshot.load(self.state_dir)})

    async def control(self, request: str) -> Any:
        async with await trio.open_unix_socket(self.socket) as stream:
            status, body = await _ask(stream, request)
        assert status == 200
        return json.loads(body)

    async def http(self, path: str) -> tuple[int, str]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            status, body = await _ask(stream, f"GET {path}")
        return status, body.decode()


async def _ask(stream: trio.abc.Stream, request: str) -> tuple[int, bytes]:
    text = f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await stream.send_all(text.encode())
    answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - the time is simulated
            await trio.sleep(0.25)


@pytest.fixture
def house(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr("fabricd.daemon.machine.aside", at_once)
    yield House(tmp_path, pki)
    gc.unfreeze()


@pytest.fixture
def systemd(
    tmp_path: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """What systemd has heard so far. Its queue is short: ask often."""
    messages: list[str] = []
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "notify"))
    server.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")

    def heard() -> list[str]:
        while True:
            try:
                messages.append(server.recv(4096).decode())
            except BlockingIOError:
                return messages

    yield heard
    server.close()


# ---------------------------------------------------------------- what others see


async def test_from_records_to_tunnels_and_what_everybody_is_told(
    house: House, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        key, status = house.store.published[-1]
        assert key == "status/edge2"
        assert {peer["name"]: peer["state"] for peer in status["peers"]} == {
            "cloud1": "up",
            "edge3": "up",
        }
        assert (await house.control("GET /status"))["node"] == "edge2"
        assert await house.control("GET /plan") == {"actions": [], "unavailable": {}}
        assert await house.http("/readyz") == (200, "ok\n")
        assert await house.http("/healthz") == (200, "ok\n")
        code, text = await house.http("/metrics")
        assert code == 200
        assert 'fabricd_tunnel_up{peer="edge3"} 1.0' in text
        assert "fabricd_source_last_event_timestamp_seconds 1.7672256e+09" in text


async def test_the_status_is_published_on_change_only(
    house: House, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        before = len(house.store.published)
        house.charon.carry(1000, 2000)
        await trio.sleep(10 * SWEEP)
        assert len(house.store.published) == before
        house.store.say(Changed((EDGE4,)))
        await until(lambda: [p["name"] for p in house.published["peers"]][-1] == "edge4")
        await house.at_rest()
        assert len(house.store.published) <= before + 3


async def test_what_a_store_may_have_taken_though_it_did_not_say_so_is_put_right(
    house: House, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        before = len(house.store.published)
        house.store.away = "no answer within 5 s"  # the write is there, the answer got lost
        house.store.say(Lost("no answer within 5 s"))
        await trio.sleep(2)
        house.store.away = ""
        house.store.say(Listed(RECORDS))
        await trio.sleep(20)
        assert len(house.store.published) > before
        assert house.published["synced"]


async def test_a_store_that_takes_no_status_is_asked_again(
    house: House, autojump_clock: MockClock
) -> None:
    house.store.away = "permission denied"
    async with house.running() as daemon:
        house.store.say(Listed(RECORDS))
        with capture_logs() as logs:
            await trio.sleep(60)
        assert [line for line in logs if line["event"] == "status can't be published"] == [
            {
                "event": "status can't be published",
                "reason": "permission denied",
                "log_level": "warning",
            }
        ]
        assert daemon.report.glance()["warnings"] == [
            "this status can't be published: permission denied"
        ]
        house.store.away = ""
        await house.at_rest()
        assert daemon.report.glance()["warnings"] == house.published["warnings"] == []


async def test_when_the_source_spoke_last(house: House, autojump_clock: MockClock) -> None:
    async with house.running() as daemon:
        assert daemon.report.glance()["source"]["last_event"] == 0
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        then = house.pki.now
        house.pki.now += 60
        house.store.say(Lost("connection refused"))  # that is not the source speaking
        await until(lambda: not daemon.report.glance()["synced"])
        assert daemon.report.glance()["source"]["last_event"] == then


async def test_losses_are_held_and_confirmed_through_the_socket(
    house: House, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        house.store.say(Listed((EDGE2,)))
        await until(lambda: house.published["held"])
        assert len(house.charon.held.conns) == 2
        assert await house.control("POST /confirm") == {
            "confirmed": ["/fabric/nodes/cloud1", "/fabric/nodes/edge3"]
        }
        await until(lambda: house.charon.held.conns == {})
        await until(lambda: house.saved() == ["nodes/edge2"])


async def test_a_loop_that_hangs_is_not_healthy(house: House, autojump_clock: MockClock) -> None:
    async def hang(_: Mapping[str, Pod] = MappingProxyType({})) -> KernelState:
        await trio.sleep_forever()
        raise AssertionError

    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        house.kernel.observe = hang  # type: ignore[assignment, method-assign]
        await trio.sleep(SWEEP * 1.1 + STUCK + 1)
        code, text = await house.http("/healthz")
        assert code == 503
        assert "stuck" in text


# ---------------------------------------------------------------- the snapshot


async def test_the_records_are_kept_and_booted_from(
    house: House, pki: Pki, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await until(lambda: len(house.saved()) == 3)
        house.store.say(Changed((EDGE4,)))
        await until(lambda: "nodes/edge4" in house.saved())
        house.store.say(Changed((Delete("nodes/edge3"),)))
        await until(lambda: "nodes/edge3" not in house.saved())
    house.store, house.charon, house.kernel = FakeStore(), FakeCharon(), FakeKernel()
    async with house.running() as daemon:  # the store never answers
        await until(lambda: "fabric-edge4" in house.charon.held.conns)
        assert "fabric-edge3" not in house.charon.held.conns
        assert not daemon.report.glance()["synced"]
        assert (await house.http("/readyz"))[0] == 503


async def test_a_snapshot_that_is_damaged_is_no_obstacle(
    house: House, autojump_clock: MockClock
) -> None:
    house.state_dir.mkdir()
    (house.state_dir / snapshot.FILE).write_text("[{")
    async with house.running() as daemon:
        assert any("is not a snapshot" in line for line in daemon.report.glance()["warnings"])
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        await until(lambda: daemon.report.glance()["warnings"] == [])
        assert len(house.saved()) == 3


async def test_a_disk_that_is_full_is_told_and_tried_again(
    house: House, autojump_clock: MockClock
) -> None:
    house.state_dir.write_text("in the way")
    async with house.running() as daemon:
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        await until(lambda: any("on disk" in line for line in daemon.report.glance()["warnings"]))
        house.state_dir.unlink()
        await until(lambda: daemon.report.glance()["warnings"] == [])  # without a new record
        assert len(house.saved()) == 3


# ---------------------------------------------------------------- from start to end


async def test_systemd_hears_of_it(
    house: House, systemd: Callable[[], list[str]], autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        await until(lambda: {"READY=1", "STATUS=2 of 2 tunnels up"} <= {*systemd()})
        for _ in range(10):
            before = systemd().count("WATCHDOG=1")
            await trio.sleep(5)  # half of the time that it has
            assert systemd().count("WATCHDOG=1") > before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_leaves_everything_as_it_is(
    house: House,
    systemd: Callable[[], list[str]],
    number: signal.Signals,
    autojump_clock: MockClock,
) -> None:
    ended, default = trio.Event(), signal.getsignal(number)

    async def run() -> None:
        await house.daemon().run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: signal.getsignal(number) is not default)
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        before = house.kernel.held.observe(), house.charon.held.observe()
        await until(lambda: "READY=1" in systemd())
        os.kill(os.getpid(), number)
        await until(ended.is_set)
    assert "STOPPING=1" in systemd()
    assert (house.kernel.held.observe(), house.charon.held.observe()) == before
    assert not house.socket.exists()
    assert signal.getsignal(number) is default


async def test_sighup_reads_the_credentials_again(
    house: House, pki: Pki, autojump_clock: MockClock
) -> None:
    async with house.running():
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        old = house.charon.held.conns["fabric-edge3"].digest
        pki.issue()
        os.kill(os.getpid(), signal.SIGHUP)
        start = trio.current_time()
        await until(lambda: house.charon.held.conns["fabric-edge3"].digest != old)
        assert trio.current_time() - start < 1


async def test_a_bug_in_a_part_ends_the_daemon(house: House, autojump_clock: MockClock) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    house.kernel.before_observed = bug
    house.store.say(Listed(RECORDS))
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug"), flatten_subgroups=True):
        await house.daemon().run()
