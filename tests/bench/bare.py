"""VICI and rtnetlink, bare: blocking sockets, the messages on them, and nothing else.

What the floors consist of, and how the bench itself looks at charon and kernel: the cheapest way
there is. Formats: src/libcharon/plugins/vici/README.md of strongSwan; linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vici.protocol import FiniteStream, Message, Packet

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
OURS: Final = 198
"""fabricd's route protocol and table."""

_HEADER: Final = struct.Struct("=IHHII")
_RTMSG: Final = struct.Struct("=8BI")
_REQUEST, _ACK, _DUMP, _REPLACE, _CREATE = 1, 4, 0x300, 0x100, 0x400
_ERROR, _DONE = 2, 3
_BATCH: Final = 128
"""Messages in a datagram."""


class Vici:
    """A connection to charon."""

    def __init__(self, path: Path | str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))  # waits for a place in charon's short queue
        self._sock.settimeout(120)
        self._input = self._sock.makefile("rb", 1 << 16)

    def exchange(self, segments: Sequence[bytes]) -> list[bytes]:
        """Send them all, and read until each has its answer. Events are read, and dropped."""
        self._sock.sendall(b"".join(segments))
        answers: list[bytes] = []
        while len(answers) < len(segments):
            packet = self._packet()
            if packet[0] != Packet.EVENT:
                answers.append(packet)
        return answers

    def ask(self, command: str, message: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One command and what charon answers."""
        (answer,) = self.exchange([request(command, message)])
        found: Mapping[str, Any] = Message.deserialize(FiniteStream(answer[1:]))
        return found

    def conns(self) -> set[str]:
        """The names of all connections."""
        return {name.decode() for name in self.ask("get-conns")["conns"]}

    def load(self, conns: Iterable[Mapping[str, Any]]) -> None:
        """`load-conn`, pipelined; raises ValueError when charon refuses one."""
        for answer in self.exchange([request("load-conn", conn) for conn in conns]):
            if b"\x03yes" not in answer:
                raise ValueError(answer.decode(errors="replace"))

    def close(self) -> None:
        self._input.close()
        self._sock.close()

    def _packet(self) -> bytes:
        (length,) = struct.unpack("!I", self._whole(4))
        return self._whole(length)

    def _whole(self, size: int) -> bytes:
        data: bytes = self._input.read(size)
        if len(data) < size:
            raise ConnectionResetError("charon has closed the connection")
        return data


def request(command: str, message: Mapping[str, Any] | None = None) -> bytes:
    """A command as charon reads it."""
    return _segment(Packet.request(command, Message.serialize(message or {})))


def listing(command: str, event: str, message: Mapping[str, Any] | None = None) -> list[bytes]:
    """A command whose answer is a stream of events."""
    return [
        _segment(Packet.register_event(event)),
        request(command, message),
        _segment(Packet.unregister_event(event)),
    ]


def _segment(packet: bytes) -> bytes:
    return struct.pack("!I", len(packet)) + packet


class Rtnl:
    """A socket to the kernel, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self._sock.setsockopt(270, 12, 1)  # NETLINK_GET_STRICT_CHK
        self._sock.bind((0, 0))
        self._sequence = 0

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects of a kind, each a message with its header."""
        self._sequence += 1
        length = _HEADER.size + len(body)
        head = _HEADER.pack(length, kind, _REQUEST | _DUMP, self._sequence, 0)
        self._sock.send(head + body)
        found: list[bytes] = []
        while True:
            for number, data in _messages(self._sock.recv(1 << 16)):
                if number in (_DONE, _ERROR):
                    return found
                found.append(data)

    def dump_routes(self) -> list[bytes]:
        """fabricd's IPv4 routes, of all tables."""
        family = socket.AF_INET
        return self.dump(RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, OURS, 0, 0, 0))

    def send(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Kind and body each, pipelined; raises OSError for the first that is refused."""
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            last = len(batch) - 1
            packed = []
            for number, (kind, body) in enumerate(batch):
                flags = _REQUEST | (_ACK if number == last else 0)
                flags |= _CREATE | _REPLACE if kind == RTM_NEWROUTE else 0
                self._sequence += 1
                length = _HEADER.size + len(body)
                packed.append(_HEADER.pack(length, kind, flags, self._sequence, 0) + body)
            self._sock.send(b"".join(packed))
            self._acknowledged(self._sequence)

    def _acknowledged(self, sequence: int) -> None:
        while True:
            for kind, data in _messages(self._sock.recv(1 << 16)):
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", data, _HEADER.size)
                    if code:
                        raise OSError(-code, "netlink")
                    if _HEADER.unpack_from(data)[3] == sequence:
                        return

    def close(self) -> None:
        self._sock.close()


def route(prefix: str, link: int, source: str) -> bytes:
    """The body of a message about a route like fabricd's; its length is a multiple of four."""
    address, _, length = prefix.partition("/")
    head = _RTMSG.pack(socket.AF_INET, int(length), 0, 0, OURS, OURS, 253, 1, 0)
    attributes = struct.pack(
        "=HH4sHHIHHIHH4s",
        *(8, 1, socket.inet_aton(address)),  # RTA_DST
        *(8, 4, link),  # RTA_OIF
        *(8, 6, 100),  # RTA_PRIORITY
        *(8, 7, socket.inet_aton(source)),  # RTA_PREFSRC
    )
    return head + attributes


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        yield kind, datagram[offset : offset + length]
        offset += length + (-length % 4)
