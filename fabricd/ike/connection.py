"""One VICI connection, on trio, for one task at a time.

Requests are pipelined: charon answers them in order. It knows framing and order, but not what
any command means. All that can go wrong is one named error, `Unavailable`; whoever sees it, or
is cancelled while a call is under way, must throw the connection away: half a request may have
been sent, or half an answer been read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from errno import ENOTCONN
from itertools import islice
from math import inf
from typing import Final

import trio

from fabricd.errors import Unavailable
from fabricd.ike.protocol import (
    CommandUnknown,
    Confirmed,
    Decoder,
    Event,
    EventUnknown,
    ProtocolError,
    Received,
    Reply,
    Request,
    Section,
    parse,
    register,
)

CHUNK: Final = 64 * 1024
WINDOW: Final = 64
"""Requests that are sent before their answers are read."""
RETRY: Final = 0.02
"""Seconds."""


class Lost(Unavailable):
    """The connection was there, and is no more: this charon stopped, another may be there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What charon answered to a request."""

    message: Section
    data: tuple[bytes, ...] = ()
    """The messages of the request's stream, as they came."""

    @property
    def items(self) -> list[Section]:
        """The messages of the request's stream. Raises ProtocolError."""
        return [parse(data) for data in self.data]

    @property
    def error(self) -> str | None:
        """Why the command failed; None when it did not, or is not of the failing sort."""
        if self.message.get("success", b"yes") == b"yes":
            return None
        text = self.message.get("errmsg", b"")
        return text.decode(errors="replace") if isinstance(text, bytes) and text else "refused"


class Connection:
    """A connection to charon; `deadline` (seconds) bounds each wait for it."""

    def __init__(self, stream: trio.SocketStream, path: str, deadline: float) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._path = path
        self._deadline = deadline

    @classmethod
    async def open(cls, path: str, deadline: float) -> Connection:
        """Connect to charon's VICI socket. Raises Unavailable."""
        with _unavailable(path, deadline), trio.fail_after(deadline):
            return cls(await _connect(path), path, deadline)

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: str, deadline: float) -> AsyncIterator[Connection]:
        """A connection that is closed at the end of the block. Raises Unavailable."""
        connection = await cls.open(path, deadline)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Close at once, whatever is under way."""
        self._stream.socket.close()

    async def exchange(self, requests: Iterable[Request], patience: float = 0) -> list[Answer]:
        """Send all requests, return charon's answers in their order. Raises Unavailable.

        `patience`: seconds that a command may take by itself, on top of the deadline. Of many, the
        next are taken from `requests` while charon is at work on those before.
        """
        source, sent, answers = iter(requests), deque[Request](), list[Answer]()
        with _unavailable(self._path, self._deadline + patience):
            while True:
                if len(sent) <= WINDOW // 2 and (more := list(islice(source, WINDOW - len(sent)))):
                    await self._send(b"".join(request.encoded for request in more))
                    sent.extend(more)
                if not sent:
                    return answers
                answers.append(await self._answer(sent.popleft(), patience))

    async def subscribe(self, events: Sequence[str]) -> None:
        """Register for events; those that this charon does not know are left out."""
        with _unavailable(self._path, self._deadline):
            await self._send(b"".join(map(register, events)))
            for _ in events:
                while isinstance(packet := await self._receive(), Event):
                    pass  # of one registered a moment ago: the caller has not looked yet
                if not isinstance(packet, Confirmed | EventUnknown):
                    raise ProtocolError("an answer that fits no registration")

    async def event(self) -> tuple[str, Section]:
        """Wait for the next event, for ever: its name and message. Raises Unavailable when the
        connection is lost.
        """
        with _unavailable(self._path, self._deadline):
            packet = await self._receive(within=inf)
            if not isinstance(packet, Event):
                raise ProtocolError("an answer without a request")
            return packet.name, parse(packet.data)

    async def _answer(self, request: Request, patience: float) -> Answer:
        within = self._deadline + patience
        if request.stream is not None:
            await self._confirmed(request.stream)
        items = []
        while isinstance(packet := await self._receive(within), Event):
            if packet.name == request.stream:
                items.append(packet.data)
        if isinstance(packet, CommandUnknown):
            raise ProtocolError(f"no command {request.command}")
        if not isinstance(packet, Reply):
            raise ProtocolError(f"an answer that does not fit {request.command}")
        if request.stream is not None:
            await self._confirmed(request.stream)
        return Answer(packet.message, tuple(items))

    async def _confirmed(self, event: str) -> None:
        while isinstance(packet := await self._receive(), Event):
            pass  # one that was on its way already
        if not isinstance(packet, Confirmed):
            raise ProtocolError(f"no event {event}")

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(self._deadline):
            await self._stream.send_all(data)

    async def _receive(self, within: float | None = None) -> Received:
        # Of a long list most packets are here already: those need no deadline. Other tasks get
        # their turn whenever bytes are read, after `CHUNK` of them at the latest.
        if (packet := self._decoder.next_packet()) is not None:
            return packet
        with trio.fail_after(self._deadline if within is None else within):
            while (packet := self._decoder.next_packet()) is None:
                data = await self._stream.receive_some(CHUNK)
                if not data:
                    raise trio.BrokenResourceError
                self._decoder.receive(data)
        return packet


async def _connect(path: str) -> trio.SocketStream:
    """Connect, and try again while charon's short queue of connections (3) is full.

    The kernel then says EAGAIN (connect(2)), which trio takes for a connection in the making.
    """
    while True:
        stream = await trio.open_unix_socket(path)
        try:
            stream.socket.getpeername()
        except OSError as error:
            stream.socket.close()
            if error.errno != ENOTCONN:
                raise
            await trio.sleep(RETRY)
        else:
            return stream


@contextmanager
def _unavailable(path: str, seconds: float) -> Iterator[None]:
    """Every way in which charon fails to answer, as one line for an operator."""
    try:
        yield
    except FileNotFoundError:
        reason = f"no socket {path}: is charon running, with its vici plugin on that socket?"
    except ConnectionRefusedError:
        reason = f"nobody listens on {path}: charon is not running, start it"
    except PermissionError:
        reason = f"no permission for {path}: run as root, or as the socket's owner"
    except OSError as error:
        reason = f"can't connect to {path}: {error}"
    except trio.TooSlowError:
        reason = f"no answer on {path} within {seconds:g} s: charon hangs or is overloaded"
    except trio.BrokenResourceError as error:
        reason = f"the connection to {path} was lost: charon stopped or was restarted"
        raise Lost("charon", reason) from error
    except ProtocolError as error:
        reason = f"{path} does not speak VICI as this program knows it: {error}"
    else:
        return
    raise Unavailable("charon", reason)
