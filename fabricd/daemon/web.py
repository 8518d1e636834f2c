"""A small HTTP/1.1 server on trio, on h11: routes in, responses and streams out.

Serves the metrics on TCP and the control socket on a unix socket. It knows nothing of what it
serves. Every connection has a deadline and a place among a limited number; a stream lasts as long
as its client takes what it is sent, and has a place among fewer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import h11
import trio

MAX_CONNECTIONS: Final = 64
IDLE_TIMEOUT: Final = 30.0
"""Seconds for a request to arrive and its response to be taken."""
MAX_STREAMS: Final = 16
"""Of the connections: the others stay for those that ask and go."""
TAKE_TIMEOUT: Final = 10.0
"""Seconds for a client to take one piece of a stream."""
FAREWELL: Final = 0.5
"""Seconds for the end of a stream to be sent when the server stops."""
MAX_REQUEST: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_BODY: Final = 1 << 20
"""Bytes."""

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""A client that is no more there, or as good as that."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is told."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    """More of them, by name."""


Send = Callable[[bytes], Awaitable[None]]
"""Sends a piece of a stream; back when the client has taken it, as far as can be seen."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What a handler answers that goes on for as long as the client is there."""

    write: Callable[[Send], Awaitable[None]]
    """Sends the pieces. It is cancelled when the client goes, or takes too long to take one."""
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


Answer = Response | Stream
Handler = Callable[[Request], Awaitable[Answer]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path."""


class Server:
    """Serves `routes` on any number of connections."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._streams = trio.CapacityLimiter(MAX_STREAMS)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, from its first byte to its last. Broken clients are no error."""
        async with self._limit, stream:
            with suppress(*GONE):
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
                answer = await self._answer(request)
                head = request.method == "HEAD"
                if isinstance(answer, Response):
                    await _send(conn, stream, answer, head=head)
            if isinstance(answer, Stream):
                await self._stream(conn, stream, answer, head=head)
                return
            if conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
                return
            conn.start_next_cycle()

    async def _stream(
        self, conn: h11.Connection, stream: trio.abc.Stream, answer: Stream, *, head: bool
    ) -> None:
        """Answer with a stream, if there is room for one more. The connection ends with it."""
        try:
            self._streams.acquire_nowait()
        except trio.WouldBlock:
            full = Response(503, b"too many streams: try again later\n")
            with trio.fail_after(TAKE_TIMEOUT):
                await _send(conn, stream, full, head=head)
            return
        try:
            await _pour(conn, stream, answer, head=head)
        finally:
            self._streams.release()

    async def _answer(self, request: Request) -> Answer:
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
    body = bytearray()
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
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            return replace(request, body=bytes(body))
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return None


async def _send(
    conn: h11.Connection, stream: trio.abc.Stream, response: Response, *, head: bool
) -> None:
    length = ("content-length", str(len(response.body)))
    events: list[h11.Event] = [
        _head(response.status, response.content_type, (length, *response.headers))
    ]
    if not head:
        events.append(h11.Data(data=response.body))
    events.append(h11.EndOfMessage())
    data = b"".join(filter(None, (conn.send(event) for event in events)))
    await stream.send_all(data)


async def _pour(
    conn: h11.Connection, stream: trio.abc.Stream, answer: Stream, *, head: bool
) -> None:
    """Send a stream until it, the client or the server ends."""
    between = True
    """Whether all that was begun has been sent, so that the end can be told."""

    async def send(event: h11.Event) -> None:
        nonlocal between
        between = False
        with trio.fail_after(TAKE_TIMEOUT):
            await stream.send_all(conn.send(event) or b"")
        between = True

    await send(_head(200, answer.content_type, (("connection", "close"), *answer.headers)))
    try:
        if not head:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, stream, nursery.cancel_scope)
                with suppress(*GONE):
                    await answer.write(lambda piece: send(h11.Data(data=piece)))
                nursery.cancel_scope.cancel()
    finally:
        if between:  # a client that sees the end of a stream need not take it for a fault
            with trio.move_on_after(FAREWELL, shield=True), suppress(*GONE):
                await stream.send_all(conn.send(h11.EndOfMessage()) or b"")


async def _until_gone(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """End a stream with its client; there is nothing that the client could say meanwhile."""
    with suppress(*GONE):
        while await stream.receive_some(MAX_REQUEST):
            pass
    scope.cancel()


def _head(status: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> h11.Response:
    return h11.Response(
        status_code=status,
        reason=HTTPStatus(status).phrase,
        headers=[("content-type", content_type), ("cache-control", "no-store"), *headers],
    )
