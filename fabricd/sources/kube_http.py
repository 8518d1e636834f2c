"""HTTP/1.1 over TLS as a client, on trio and h11: one request after the other on a connection,
and a body that can go on for as long as the server likes.

May not know what is asked, nor of JSON. Peers that vanish are found out by TCP itself.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import h11
import trio

KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # tcp(7): a peer that is gone is found out after 5 + 3 * 2 s of silence …
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    # … and after 10 s while it owes us an acknowledgement (milliseconds).
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)

PIECE: Final = 65_536
"""Bytes that are read at once."""

MAX_ERROR: Final = 65_536
"""Bytes of a body that nobody asked for, an error's; more are not worth the wait."""


class HttpError(Exception):
    """No answer, or half of one; the text says why. The connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, and how it proves that it is the one."""

    host: str
    """DNS name or address, an IPv6 address without brackets."""
    port: int
    tls: ssl.SSLContext | None
    """None: no TLS."""
    server_name: str
    """The name that its certificate has to be for."""


@dataclass(frozen=True, slots=True)
class Head:
    """How a response begins."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""


class Connection:
    """One connection; whoever has it speaks alone. Every method raises HttpError."""

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, target: Target) -> Connection:
        """Connect and shake hands."""
        try:
            tcp = await trio.open_tcp_stream(target.host, target.port)
        except OSError as error:
            raise HttpError(f"no connection: {_words(error.__cause__ or error)}") from error
        for level, option, value in KEEPALIVE:
            tcp.setsockopt(level, option, value)
        host = f"[{target.host}]" if ":" in target.host else target.host
        authority = f"{host}:{target.port}"
        if target.tls is None:
            return cls(tcp, authority)
        stream = trio.SSLStream(
            tcp, target.tls, server_hostname=target.server_name, https_compatible=True
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise HttpError(f"no TLS: {_words(error.__cause__ or error)}") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return cls(stream, authority)

    async def ask(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Head:
        """Send a request, return how the answer begins; its body has to be read to the end."""
        all_headers = [("host", self._host), *headers]
        if body or method not in {"GET", "DELETE"}:
            all_headers.append(("content-length", str(len(body))))
        events: list[h11.Event] = [h11.Request(method=method, target=target, headers=all_headers)]
        if body:
            events.append(h11.Data(data=body))
        events.append(h11.EndOfMessage())
        data = b"".join(self._http.send(event) or b"" for event in events)
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise HttpError(f"broken off: {_words(error.__cause__ or error)}") from error
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                fields = {n.decode("ascii"): v.decode("latin-1") for n, v in event.headers}
                return Head(event.status_code, fields)
            if not isinstance(event, h11.InformationalResponse):
                raise HttpError("closed without an answer")

    async def read(self) -> bytes:
        """The next piece of the body as it comes; empty at its end."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_all(self, limit: int | None = None) -> bytes:
        """The rest of the body, or as much of it as makes `limit` bytes."""
        pieces, size = [], 0
        while (limit is None or size < limit) and (piece := await self.read()):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def reuse(self) -> bool:
        """Whether another request can follow; makes ready for it."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def aclose(self) -> None:
        """Let go of it, whatever it is in the middle of."""
        await trio.aclose_forcefully(self._stream)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some(PIECE)))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise HttpError(f"broken off: {_words(error.__cause__ or error)}") from error
        except h11.RemoteProtocolError as error:
            raise HttpError(f"broken off: {error}") from error
        return event  # type: ignore[return-value]  # NEED_DATA is out


def _words(error: BaseException) -> str:
    """What happened, in one line and without Python's or OpenSSL's decoration."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
