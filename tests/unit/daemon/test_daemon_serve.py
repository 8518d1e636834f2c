"""The two doors, on real sockets: what they answer, who may come in, and what was there before."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from trio.testing import MockClock

from fabricd.daemon import serve
from fabricd.daemon.web import Request, Response, Routes
from fabricd.metrics import Metrics
from tests.unit.test_metrics import peer, status

BOUND = 20
"""Seconds; nothing here takes that long."""


async def ping(_: Request) -> Response:
    return Response(200, b"pong")


PING: Routes = {("GET", "/ping"): ping}


@asynccontextmanager
async def serving(routes: Routes, path: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve.serve_control, routes, path)
        with trio.fail_after(BOUND):
            await listening(path)
            yield
        nursery.cancel_scope.cancel()


def mode(path: Path) -> int:
    """Type and permissions; 0: nothing is there."""
    return path.lstat().st_mode if path.exists() else 0


def place_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")


async def listening(path: Path) -> None:
    """Until somebody listens there."""
    while True:
        try:
            stream = await trio.open_unix_socket(path)
        except OSError:
            await trio.sleep(0.01)
        else:
            await stream.aclose()
            return


async def ask(path: Path, request: str = "GET /ping") -> tuple[int, bytes]:
    with trio.fail_after(BOUND):
        async with await trio.open_unix_socket(path) as stream:
            text = f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await stream.send_all(text.encode())
            answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# ---------------------------------------------------------------- the control socket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "fabricd.sock"


async def test_the_socket_is_for_its_owner_alone(path: Path) -> None:
    async with serving(PING, path):
        assert stat.filemode(mode(path)) == "srw-------"
        assert await ask(path) == (200, b"pong")
    assert mode(path) == 0


async def test_a_socket_that_a_killed_daemon_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with serving(PING, path):
        assert await ask(path) == (200, b"pong")


async def test_a_socket_that_is_alive_is_left_alone(
    path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with capture_logs() as logs:
            nursery.start_soon(serve.serve_control, PING, path)
            await trio.sleep(60)
        assert [(line["event"], line["path"]) for line in logs] == [
            ("cannot open the control socket", str(path))
        ]
        assert "another fabricd listens there" in logs[0]["error"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    await trio.sleep(10)  # it is gone now
    assert await ask(path) == (200, b"pong")


async def test_a_socket_whose_queue_is_full_is_alive(
    path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(str(path))
        hung.listen(0)
        waiting.connect(str(path))
        with capture_logs() as logs:
            nursery.start_soon(serve.serve_control, PING, path)
            await trio.sleep(1)
        assert "another fabricd listens there" in logs[0]["error"]
        assert stat.S_ISSOCK(mode(path))


async def test_something_else_is_never_removed(
    path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    place_file(path)
    with capture_logs() as logs:
        nursery.start_soon(serve.serve_control, PING, path)
        await trio.sleep(60)
    assert stat.S_ISREG(mode(path))
    assert "not a socket" in logs[0]["error"]


# ---------------------------------------------------------------- its answers


async def test_what_fabricctl_asks(path: Path) -> None:
    confirmed: list[str] = []

    async def get_status() -> dict[str, Any]:
        return {"node": "edge2", "peers": []}

    async def get_plan() -> dict[str, Any]:
        return {"actions": [{"kind": "route.set"}]}

    def confirm() -> tuple[str, ...]:
        confirmed.append("yes")
        return ("/fabric/nodes/edge3",)

    async with serving(serve.control_routes(get_status, get_plan, confirm), path):
        answers = [
            await ask(path, request)
            for request in ("GET /status", "GET /plan", "POST /confirm", "GET /confirm")
        ]
    assert [code for code, _ in answers] == [200, 200, 200, 405]
    assert [json.loads(body) for _, body in answers[:3]] == [
        {"node": "edge2", "peers": []},
        {"actions": [{"kind": "route.set"}]},
        {"confirmed": ["/fabric/nodes/edge3"]},
    ]
    assert confirmed == ["yes"]


# ---------------------------------------------------------------- HTTP


class Node:
    """What the HTTP door is told."""

    def __init__(self) -> None:
        self.stuck = ""
        self.reasons: tuple[str, ...] = ()
        self.refreshed = 0
        self.metrics = Metrics()

    async def status(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.refreshed += 1
        return status(peer("edge3", rekeys=self.refreshed))

    def routes(self) -> Routes:
        return serve.http_routes(
            self.metrics, self.status, lambda: self.stuck, lambda: self.reasons
        )

    async def get(self, path: str, **headers: str) -> Response:
        answer = await self.routes()["GET", path](Request("GET", path, headers))
        assert isinstance(answer, Response)
        return answer


async def test_metrics_are_fresh() -> None:
    node = Node()
    answer = await node.get("/metrics")
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=")
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert samples["fabricd_tunnel_rekeys_total"] == 1


async def test_metrics_in_the_form_that_is_asked_for() -> None:
    answer = await Node().get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.content_type.startswith("application/openmetrics-text")
    families = parse_open_metrics(answer.body.decode())  # type: ignore[no-untyped-call]  # theirs
    assert {"fabricd_tunnel_up", "fabricd_build"} <= {family.name for family in families}


@pytest.mark.parametrize(
    "accept", ["text/plain; version=x", "application/openmetrics-text; version=1.x", ";=,", "\xff"]
)
async def test_metrics_for_who_asks_for_nonsense(accept: str) -> None:
    answer = await Node().get("/metrics", accept=accept)
    assert answer.status == 200
    assert b"fabricd_tunnel_up" in answer.body


async def test_healthy_and_stuck() -> None:
    node = Node()
    assert await node.get("/healthz") == Response(200, b"ok\n")
    node.stuck = "the reconcile loop has been stuck for 61 s"
    answer = await node.get("/healthz")
    assert (answer.status, answer.body.decode()) == (503, f"{node.stuck}\n")


async def test_ready_and_not() -> None:
    node = Node()
    assert await node.get("/readyz") == Response(200, b"ok\n")
    node.reasons = ("store: no answer yet", "charon: no socket")
    assert await node.get("/readyz") == Response(503, b"store: no answer yet\ncharon: no socket\n")


@pytest.fixture
def taken() -> Callable[[], tuple[socket.socket, int]]:
    def take() -> tuple[socket.socket, int]:
        holder = socket.socket()
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        return holder, holder.getsockname()[1]

    return take


async def test_an_address_in_use_is_told_once_and_tried_again(
    taken: Callable[[], tuple[socket.socket, int]],
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    holder, port = taken()
    with capture_logs() as logs, holder:
        nursery.start_soon(serve.serve_http, PING, "127.0.0.1", port)
        await trio.sleep(60)
    assert [(line["event"], line["address"]) for line in logs] == [
        ("cannot listen for HTTP", f"127.0.0.1:{port}")
    ]
    await trio.sleep(10)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"".join([chunk async for chunk in stream]).endswith(b"pong")
