"""The two doors: HTTP for Prometheus, probes and people, the control socket for `fabricctl`.

Which routes there are and what they answer; how HTTP is spoken is `daemon.web`'s.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fabricd.daemon.aside import Aside, aside
from fabricd.daemon.assets import POLICY
from fabricd.daemon.live import EVENTS, Live, Status
from fabricd.daemon.page import page
from fabricd.daemon.recent import Change
from fabricd.daemon.web import Request, Response, Routes, Server, Stream
from fabricd.metrics import Metrics

JSON = "application/json"
PAGE_HEADERS = (
    ("content-security-policy", f"{POLICY}; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
)

HTML = "text/html; charset=utf-8"
QUEUE = 1024
"""Clients that may wait to be let in: a node that boots attaches hundreds of pods at once, and who
comes to a full queue is turned away (unix(7), EAGAIN)."""
UNANSWERED = 30_000
"""Milliseconds that what was sent may stay unacknowledged."""

Encoder = Callable[[Collector], bytes]

log = structlog.get_logger()


def http_routes(
    metrics: Metrics,
    status: Status,
    health: Callable[[], str],
    not_ready: Callable[[], tuple[str, ...]],
    aside: Aside = aside,
) -> Routes:
    """`status` gives the status document, brought up to date; `health` why the daemon is stuck, or
    ""; `not_ready` why it can't do its work. `aside`: as the function.
    """

    async def get_metrics(request: Request) -> Response:
        encode, content_type = _encoder(request.headers.get("accept", ""))
        body: bytes = await aside(encode, metrics.of(await status()))
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


def page_routes(
    status: Status, recent: Iterable[Change], live: Live, aside: Aside = aside
) -> Routes:
    """The status page, for people, and the events that keep it up to date."""

    async def get_page(_: Request) -> Response:
        body = await aside(page, await status(), tuple(recent))
        return Response(200, body, HTML, PAGE_HEADERS)

    async def get_events(_: Request) -> Stream:
        return Stream(live.write, EVENTS)

    return {("GET", "/"): get_page, ("GET", "/events"): get_events}


def control_routes(
    status: Status,
    plan: Callable[[], Awaitable[Mapping[str, Any]]],
    confirm: Callable[[], tuple[str, ...]],
) -> Routes:
    """The control socket's answers, all JSON."""

    async def get_status(_: Request) -> Response:
        return json_response(await status())

    async def get_plan(_: Request) -> Response:
        return json_response(await plan())

    async def post_confirm(_: Request) -> Response:
        return json_response({"confirmed": list(confirm())})

    return {
        ("GET", "/status"): get_status,
        ("GET", "/plan"): get_plan,
        ("POST", "/confirm"): post_confirm,
    }


def _encoder(accept: str) -> tuple[Encoder, str]:
    """How metrics are encoded for who accepts this, and its content type. The library trips over
    versions that are no numbers.
    """
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")


def encode(value: Mapping[str, Any]) -> bytes:
    """A document as JSON."""
    return msgspec.json.encode(value)


def json_response(value: Mapping[str, Any], status: int = 200) -> Response:
    """A document as an answer."""
    return Response(status, encode(value), JSON)


async def serve_http(routes: Routes, host: str, port: int) -> None:
    """Serve on TCP for ever. An address in use is reported and tried again: no reason to stop."""
    server = Server(routes)

    async def serve(stream: trio.SocketStream) -> None:
        # A stream's client that is gone without a word would keep its place for a quarter of an
        # hour: tcp(7), TCP_USER_TIMEOUT.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED)
        await server.serve(stream)

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
        await trio.serve_listeners(serve, listeners)


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
        sock.listen(QUEUE)
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
