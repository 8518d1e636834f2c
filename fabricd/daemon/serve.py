"""The two doors: HTTP for Prometheus, probes and people, the control socket for `fabricctl`.

Which routes there are and what they answer; how HTTP is spoken is `daemon.web`'s.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from prometheus_client.exposition import choose_encoder

from fabricd.daemon.page import POLICY
from fabricd.daemon.web import Request, Response, Routes, Server
from fabricd.metrics import Metrics

JSON = "application/json"
PAGE_HEADERS = (
    ("content-security-policy", f"{POLICY}; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
)

HTML = "text/html; charset=utf-8"

log = structlog.get_logger()


def http_routes(
    metrics: Metrics,
    refresh: Callable[[], Awaitable[None]],
    health: Callable[[], str],
    not_ready: Callable[[], tuple[str, ...]],
) -> Routes:
    """`refresh` brings counters up to date; `health` gives why the daemon is stuck, or "";
    `not_ready` why it can't do its work.
    """

    async def get_metrics(request: Request) -> Response:
        await refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body: bytes = encode(metrics.registry)
        return Response(200, body, content_type)

    async def get_healthz(_: Request) -> Response:
        reason = health()
        return Response(503 if reason else 200, f"{reason or 'ok'}\n".encode())

    async def get_readyz(_: Request) -> Response:
        reasons = not_ready()
        return Response(
            503 if reasons else 200, "".join(f"{r}\n" for r in reasons or ["ok"]).encode()
        )

    return {
        ("GET", "/metrics"): get_metrics,
        ("GET", "/healthz"): get_healthz,
        ("GET", "/readyz"): get_readyz,
    }


def page_routes(refresh: Callable[[], Awaitable[None]], page: Callable[[], bytes]) -> Routes:
    """The status page, for people."""

    async def get_page(_: Request) -> Response:
        await refresh()
        return Response(200, page(), HTML, PAGE_HEADERS)

    return {("GET", "/"): get_page}


def control_routes(
    status: Callable[[], Awaitable[Mapping[str, Any]]],
    plan: Callable[[], Awaitable[Mapping[str, Any]]],
    confirm: Callable[[], tuple[str, ...]],
) -> Routes:
    """The control socket's answers, all JSON."""

    async def get_status(_: Request) -> Response:
        return _json(await status())

    async def get_plan(_: Request) -> Response:
        return _json(await plan())

    async def post_confirm(_: Request) -> Response:
        return _json({"confirmed": list(confirm())})

    return {
        ("GET", "/status"): get_status,
        ("GET", "/plan"): get_plan,
        ("POST", "/confirm"): post_confirm,
    }


def encode(value: Mapping[str, Any]) -> bytes:
    """A document as JSON."""
    return msgspec.json.encode(value)


def _json(value: Mapping[str, Any]) -> Response:
    return Response(200, encode(value), JSON)


async def serve_http(routes: Routes, host: str, port: int) -> None:
    """Serve on TCP for ever. An address in use is reported and tried again: no reason to stop."""
    server = Server(routes)
    reported = ""
    while True:
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            if str(error) != reported:
                log.error("cannot listen for HTTP", address=f"{host}:{port}", error=str(error))
                reported = str(error)
            await trio.sleep(5)
            continue
        log.info("listening for HTTP", address=f"{host}:{port}")
        await trio.serve_listeners(server.serve, listeners)


async def serve_control(routes: Routes, path: Path) -> None:
    """Serve on a unix socket for ever, for root and the daemon's own user only."""
    server = Server(routes)
    reported = ""
    while True:
        try:
            listener = _listen_unix(path)
        except OSError as error:
            if str(error) != reported:
                log.error("cannot open the control socket", path=str(path), error=str(error))
                reported = str(error)
            await trio.sleep(5)
            continue
        try:
            await trio.serve_listeners(server.serve, [listener])
        finally:
            _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _listen_unix(path: Path) -> trio.SocketListener:
    path.parent.mkdir(parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_dead_socket(path)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_dead_socket(path: Path) -> None:
    """Remove what a killed daemon left; raises OSError when somebody listens there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something that is not a socket is there", str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: it lives, be it that it hangs
    raise OSError(errno.EADDRINUSE, "another fabricd listens there", str(path))
