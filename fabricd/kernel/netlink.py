"""AF_NETLINK on trio: requests and their acknowledgements, dumps, notifications.

Carries bytes and knows nothing of what they say: links, addresses and rules are `codec`'s,
routes are `routes`'. Formats: linux/netlink.h; netlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import trio

from fabricd.errors import Unavailable
from fabricd.opener.namespaces import LISTEN_ALL_NSID, SOL_NETLINK, hear_others, netlink_socket

HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length (header included), type, flags, sequence number, port."""

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3

_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_SO_RCVBUFFORCE: Final = 33

_INT: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")
_SEQUENCE_MASK: Final = 0xFFFFFFFF

_RECEIVE: Final = 1 << 16
"""Octets: a dump comes in parts of 32 KiB at most (af_netlink.c, netlink_recvmsg)."""
_BATCH: Final = 128
"""Requests a datagram: should each one fail, the answers still fit into a default buffer."""
_DUMP_ATTEMPTS: Final = 10
_DEADLINE: Final = 5.0
"""Seconds that one exchange may take; the kernel answers in microseconds."""

_ANCILLARY: Final = socket.CMSG_SPACE(4)

_COMMAND_BUFFER: Final = 4 << 20


class Request(NamedTuple):
    """One message to the kernel; `body` is what follows the netlink header."""

    kind: int
    flags: int
    body: bytes


class Message(NamedTuple):
    """One message from the kernel; `data` is all of it, netlink header included."""

    kind: int
    flags: int
    sequence: int
    port: int
    """Of a notification: the socket whose request caused it; 0: the kernel by itself."""
    data: bytes
    netns_id: int | None = None
    """Of a notification: our number for the other network namespace that it is from; None: it is
    from the socket's own."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the kernel did not do what it was asked."""

    code: int
    """errno."""
    message: str = ""
    """Its extended acknowledgement, or words of our own; often empty."""


class Netlink:
    """A socket that leads to the kernel; each call is one exchange, or several in a row.

    Every call raises Unavailable when the kernel does not answer in time or its answers are lost.
    """

    def __init__(self, sock: socket.socket, port: int) -> None:
        self._raw = sock
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._lock = trio.Lock()
        self._sequence = 0
        self.port = port
        """Names this socket in notifications of what it caused."""

    @classmethod
    def open(
        cls,
        groups: Sequence[int] = (),
        receive_buffer: int = _COMMAND_BUFFER,
        protocol: int = socket.NETLINK_ROUTE,
    ) -> Self:
        """A socket in the network namespace of the calling thread.

        It receives the notifications of `groups` (RTNLGRP_* of linux/rtnetlink.h, NFNLGRP_* of
        linux/netfilter/nfnetlink.h) into a buffer of so many octets. Raises Unavailable.
        """
        try:
            sock = _prepared(netlink_socket(protocol), groups, receive_buffer, protocol)
        except OSError as error:
            raise Unavailable(
                "kernel",
                f"cannot open a netlink socket: {_text(error)}; fabricd needs AF_NETLINK "
                "(systemd: RestrictAddressFamilies) and Linux 4.20 or later",
            ) from error
        return cls(sock, sock.getsockname()[0])

    @classmethod
    def of(
        cls,
        sock: socket.socket,
        groups: Sequence[int] = (),
        receive_buffer: int = _COMMAND_BUFFER,
    ) -> Self:
        """A NETLINK_ROUTE socket that was opened elsewhere, and belongs to this from now on. Raises
        OSError.
        """
        _prepared(sock, groups, receive_buffer, socket.NETLINK_ROUTE)
        return cls(sock, sock.getsockname()[0])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def send(self, requests: Sequence[Request]) -> list[Refusal | None]:
        """Have the requests carried out in order; a refusal stops none of those after it."""
        refusals: list[Refusal | None] = []
        for start in range(0, len(requests), _BATCH):
            refusals += await self._send_datagram(requests[start : start + _BATCH])
        return refusals

    async def _send_datagram(self, requests: Sequence[Request]) -> list[Refusal | None]:
        refusals: list[Refusal | None] = [None] * len(requests)
        async with self._exchange():
            first = self._sequence + 1
            last = len(requests) - 1
            await self._socket.send(
                # Failures always answer; the last one's acknowledgement says that all are done.
                b"".join(
                    self._pack(request, NLM_F_ACK if i == last else 0)
                    for i, request in enumerate(requests)
                )
            )
            while True:
                for message in parse(await self._socket.recv(_RECEIVE)):
                    index = (message.sequence - first) & _SEQUENCE_MASK
                    if message.kind == _NLMSG_ERROR and index <= last:
                        refusals[index] = _refusal(message)
                        if index == last:
                            return refusals

    async def dump(self, request: Request) -> list[bytes]:
        """All objects of a kind, one consistent look, each a message with its netlink header.

        A family or kind of object that this kernel was built without has none.
        """
        for _ in range(_DUMP_ATTEMPTS):
            messages = await self._dump_once(request)
            if messages is not None:
                return messages
        raise Unavailable(
            "kernel",
            f"a dump (rtnetlink type {request.kind}) was interrupted by changes "
            f"{_DUMP_ATTEMPTS} times in a row: some program keeps rewriting links or routes",
        )

    async def _dump_once(self, request: Request) -> list[bytes] | None:
        """One attempt; None when the objects changed meanwhile."""
        found: list[bytes] = []
        interrupted = False
        async with self._exchange():
            await self._socket.send(self._pack(request, NLM_F_DUMP))
            while True:
                for message in parse(await self._socket.recv(_RECEIVE)):
                    if message.sequence != self._sequence:
                        continue
                    interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
                    if message.kind not in (_NLMSG_DONE, _NLMSG_ERROR):
                        found.append(message.data)
                        continue
                    refusal = _refusal(message)
                    if refusal is None:
                        return None if interrupted else found
                    if refusal.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                        return []
                    raise OSError(refusal.code, refusal.message or os.strerror(refusal.code))

    def hear_others(self) -> bool:
        """Receive the notifications of other network namespaces too, of those that ours has a
        number for. False: CAP_NET_BROADCAST is missing.
        """
        try:
            hear_others(self._raw)
        except OSError:
            return False
        return True

    async def receive(self) -> list[Message] | None:
        """Wait for notifications; None: some were lost because the buffer was full."""
        try:
            datagram, extra, _, _ = await self._socket.recvmsg(_RECEIVE, _ANCILLARY)
            return list(parse(datagram, _netns_id(extra)))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                reason = f"cannot receive netlink notifications: {_text(error)}"
                raise Unavailable("kernel", reason) from error
        # Until the buffer is empty the kernel drops what comes and does not say so again
        # (NETLINK_S_CONGESTED), and a look at the objects before that could come too early.
        self._drain()
        return None

    def _pack(self, request: Request, flags: int) -> bytes:
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        kind, own_flags, body = request
        length = HEADER.size + len(body)
        header = HEADER.pack(length, kind, own_flags | flags | NLM_F_REQUEST, self._sequence, 0)
        return header + body + bytes(-length % 4)

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        """One request and its answers: alone on the socket, within the deadline."""
        async with self._lock:
            try:
                self._drain()
                with trio.fail_after(_DEADLINE):
                    yield
            except trio.TooSlowError as error:
                raise Unavailable(
                    "kernel", f"netlink did not answer within {_DEADLINE:g} s"
                ) from error
            except OSError as error:
                raise Unavailable("kernel", f"netlink failed: {_text(error)}") from error

    def _drain(self) -> None:
        """Read away what a cancelled exchange left: a dump under way would refuse the next one."""
        while True:
            try:
                self._raw.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def parse(datagram: bytes, netns_id: int | None = None) -> Iterator[Message]:
    """The messages in what one recv() gave."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, port = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size:
            raise ValueError(f"a netlink message of {length} octets")
        data = datagram[offset : offset + length]
        yield Message(kind, flags, sequence, port, data, netns_id)
        offset += length + (-length % 4)


def attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of the attributes from `offset` on (struct nlattr, linux/netlink.h)."""
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            raise ValueError(f"a netlink attribute of {length} octets")
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]  # NLA_TYPE_MASK
        offset += length + (-length % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four octets."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def errno_name(code: int) -> str:
    """`EPERM` for 1; the number itself when it has no name."""
    if code == errno.EOPNOTSUPP:  # errorcode has only its synonym ENOTSUP, which Linux never says
        return "EOPNOTSUPP"
    return errno.errorcode.get(code, str(code))


def _prepared(
    sock: socket.socket, groups: Sequence[int], receive_buffer: int, protocol: int
) -> socket.socket:
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:  # without CAP_NET_ADMIN: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        if protocol == socket.NETLINK_ROUTE:
            sock.setsockopt(SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        sock.connect((0, 0))  # to the kernel alone
    except BaseException:
        sock.close()
        raise
    return sock


def _netns_id(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_NETLINK, LISTEN_ALL_NSID):
            found: int = _INT.unpack_from(data)[0]
            return found
    return None


def _refusal(message: Message) -> Refusal | None:
    """What NLMSG_ERROR or NLMSG_DONE says: an errno, then perhaps attributes; None is success."""
    (code,) = _INT.unpack_from(message.data, HEADER.size)
    if code >= 0:
        return None
    text = ""
    if message.flags & _NLM_F_ACK_TLVS:
        offset = HEADER.size + _INT.size
        if message.kind == _NLMSG_ERROR:  # the header of the request, and its body unless capped
            length = HEADER.unpack_from(message.data, offset)[0]
            capped = message.flags & _NLM_F_CAPPED
            offset += HEADER.size if capped else length + (-length % 4)
        for kind, value in attributes(message.data, offset):
            if kind == _NLMSGERR_ATTR_MSG:
                text = value.rstrip(b"\0").decode("ascii", "replace").rstrip(".")
    return Refusal(-code, text)


def _text(error: OSError) -> str:
    return f"{errno_name(error.errno or 0)} ({error.strerror})"
