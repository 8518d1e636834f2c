"""A small HTTP/1.1 server on trio, on h11: routes in, responses out.

Serves the metrics on TCP and the control socket on a unix socket. It knows nothing of what it
serves. Every connection has a deadline and a place among a limited number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11
import trio

MAX_CONNECTIONS: Final = 64
IDLE_TIMEOUT: Final = 30.0
"""Seconds for a request to arrive and its response to be taken."""
MAX_REQUEST: Final = 16 * 1024
"""Bytes of request line and headers."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is told."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    """More of them, by name."""


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path."""


class Server:
    """Serves `routes` on any number of streams."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, from its first byte to its last. Broken clients are no error."""
        gone = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
        async with self._limit, stream:
            with suppress(*gone):
                await self._converse(h11.Connection(h11.SERVER, MAX_REQUEST), stream)

    async def _converse(self, conn: h11.Connection, stream: trio.abc.Stream) -> None:
        while True:
            with trio.fail_after(IDLE_TIMEOUT):
                try:
                    request = await _receive(conn, stream)
                except h11.RemoteProtocolError as error:
                    if conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                        response = Response(error.error_status_hint, b"bad request\n")
                        await _send(conn, stream, response, head=False)
                    return
                if request is None:
                    return
                response = await self._answer(request)
                await _send(conn, stream, response, head=request.method == "HEAD")
            if conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
                return
            conn.start_next_cycle()

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, request.path))
        if handler is not None:
            return await handler(request)
        there = {method for method, path in self._routes if path == request.path}
        if there:
            # RFC 9110, 15.5.6
            allow = ", ".join(sorted(there | ({"HEAD"} if "GET" in there else set())))
            return Response(405, b"method not allowed\n", headers=(("allow", allow),))
        return Response(404, b"not found\n")


async def _receive(conn: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    request: Request | None = None
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            conn.receive_data(bytes(await stream.receive_some(MAX_REQUEST)))
        elif isinstance(event, h11.Request):
            request = Request(
                event.method.decode("ascii"),
                event.target.decode("ascii").partition("?")[0],
                {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers},
            )
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return None


async def _send(
    conn: h11.Connection, stream: trio.abc.Stream, response: Response, *, head: bool
) -> None:
    headers = [
        ("content-type", response.content_type),
        ("content-length", str(len(response.body))),
        ("cache-control", "no-store"),
        *response.headers,
    ]
    events: list[h11.Event] = [
        h11.Response(
            status_code=response.status, headers=headers, reason=HTTPStatus(response.status).phrase
        )
    ]
    if not head:
        events.append(h11.Data(data=response.body))
    events.append(h11.EndOfMessage())
    data = b"".join(filter(None, (conn.send(event) for event in events)))
    await stream.send_all(data)
