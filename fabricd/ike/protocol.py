"""VICI without I/O: bytes from charon become packets, requests become bytes.

The format is strongSwan's (src/libcharon/plugins/vici/README.md): segments with a 32 bit
length, in them packets, in some of those a message, a tree of sections, lists and values. The
`vici` package writes packets and messages; this file adds framing and limits, reads what comes
back strictly, and has one name for everything that can be wrong with it.

It knows nothing of sockets, nor of what any command means.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vici.protocol import Message, Packet

HEADER: Final = struct.Struct("!I")
SEGMENT_LIMIT: Final = 512 * 1024
"""Of a segment without its header: VICI_MESSAGE_SIZE_MAX."""
NAME_LIMIT: Final = 0xFF
VALUE_LIMIT: Final = 0xFFFF

Value = str | bytes | int
Tree = Mapping[str, "Value | Sequence[Value] | Tree"]
"""A message to charon. Booleans become `yes` and `no`."""

Section = dict[str, "bytes | list[bytes] | Section"]
"""A message from charon, or a section of one."""


class ProtocolError(Exception):
    """What was received is not VICI, or what is to be sent does not fit into it: one line."""


@dataclass(frozen=True, slots=True)
class Reply:
    """CMD_RESPONSE."""

    message: Section


@dataclass(frozen=True, slots=True)
class CommandUnknown:
    """CMD_UNKNOWN: this charon has no such command."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """EVENT_CONFIRM: registered, or unregistered."""


@dataclass(frozen=True, slots=True)
class EventUnknown:
    """EVENT_UNKNOWN: this charon has no such event."""


@dataclass(frozen=True, slots=True)
class Event:
    """EVENT: one that was registered for, or an item of a streamed command."""

    name: str
    data: bytes
    """Its message, for `parse`: of a long list most is known by its bytes already."""


Received = Reply | CommandUnknown | Confirmed | EventUnknown | Event


@dataclass(frozen=True, slots=True)
class Request:
    """A command to send. Raises ProtocolError when it does not fit into VICI."""

    command: str
    message: Tree = field(default_factory=dict)
    stream: str | None = None
    """The event that carries the command's items: `list-sa` for `list-sas`."""
    encoded: bytes = field(init=False, repr=False)
    """One segment; between (un)registration for the stream when there is one."""

    def __post_init__(self) -> None:
        payload = Packet.request(self.command, Message.serialize(_plain(self.message)))
        encoded = _segment(payload, self.command)
        if self.stream is not None:
            encoded = register(self.stream) + encoded + unregister(self.stream)
        object.__setattr__(self, "encoded", encoded)


def register(event: str) -> bytes:
    """A segment that asks for an event."""
    return _segment(Packet.register_event(event), event)


def unregister(event: str) -> bytes:
    """A segment that declines an event."""
    return _segment(Packet.unregister_event(event), event)


def _segment(packet: bytes, what: str) -> bytes:
    if len(packet) > SEGMENT_LIMIT:
        raise ProtocolError(f"{what}: {len(packet)} bytes, charon takes {SEGMENT_LIMIT}")
    return HEADER.pack(len(packet)) + packet


def _plain(tree: Tree) -> dict[str, object]:
    """Only what the `vici` package serialises right: dicts, lists and blobs within the limits."""
    plain: dict[str, object] = {}
    for name, value in tree.items():
        if len(name.encode()) > NAME_LIMIT:
            raise ProtocolError(f"{name[:40]}…: a name of more than {NAME_LIMIT} bytes")
        if isinstance(value, Mapping):
            plain[name] = _plain(value)
        elif isinstance(value, str | bytes | int):
            plain[name] = _blob(name, value)
        else:
            plain[name] = [_blob(name, item) for item in value]
    return plain


def _blob(name: str, value: Value) -> bytes:
    if isinstance(value, bool):
        return b"yes" if value else b"no"
    blob = value if isinstance(value, bytes) else str(value).encode()
    if len(blob) > VALUE_LIMIT:
        raise ProtocolError(f"{name}: a value of {len(blob)} bytes, charon takes {VALUE_LIMIT}")
    return blob


class Decoder:
    """Bytes in, packets out; where the bytes were split never matters."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0

    def receive(self, data: bytes) -> None:
        """Take bytes as they came."""
        del self._buffer[: self._position]
        self._position = 0
        self._buffer += data

    def next_packet(self) -> Received | None:
        """The next packet, or None until more bytes come.

        Raises ProtocolError for what is not VICI, and again when asked again: there is no way
        to find the next packet, the connection is of no more use.
        """
        start = self._position + HEADER.size
        if len(self._buffer) < start:
            return None
        (length,) = HEADER.unpack_from(self._buffer, self._position)
        if length > SEGMENT_LIMIT:
            raise ProtocolError(f"a segment of {length} bytes, the limit is {SEGMENT_LIMIT}")
        if len(self._buffer) < start + length:
            return None
        packet = _parse(bytes(self._buffer[start : start + length]))
        self._position = start + length
        return packet


def _parse(packet: bytes) -> Received:
    if not packet:
        raise ProtocolError("an empty packet")
    match packet[0]:
        case Packet.CMD_RESPONSE:
            return Reply(parse(packet[1:]))
        case Packet.CMD_UNKNOWN:
            return CommandUnknown()
        case Packet.EVENT_CONFIRM:
            return Confirmed()
        case Packet.EVENT_UNKNOWN:
            return EventUnknown()
        case Packet.EVENT:
            end = 2 + (packet[1] if len(packet) > 1 else 0)
            if len(packet) < end:
                raise ProtocolError("an event ends in the middle of its name")
            try:
                return Event(packet[2:end].decode(), packet[end:])
            except UnicodeDecodeError:
                raise ProtocolError("an event with a name that is no text") from None
        case kind:
            raise ProtocolError(f"a packet of type {kind}, which charon does not send")


def parse(data: bytes) -> Section:
    """The tree in a message, whole or not at all. Raises ProtocolError.

    `Message.deserialize` would let pass a value that is cut short and an element that it does
    not know, and so read something else than was said.
    """
    section: Section = {}
    around: list[Section] = []
    position = 0
    try:
        while position < len(data):
            element = data[position]
            if element == Message.SECTION_END:
                section = around.pop()
                position += 1
                continue
            start = position + 2
            position = start + data[position + 1]
            name = data[start:position].decode()
            if element == Message.KEY_VALUE:
                section[name], position = _value(data, position)
            elif element == Message.LIST_START:
                section[name], position = _list(data, position)
            elif element == Message.SECTION_START:
                around.append(section)
                section[name] = section = {}
            else:
                raise ProtocolError(f"a message with an element of type {element}")
    except IndexError:
        raise ProtocolError("a message that ends too early, or a section too often") from None
    except UnicodeDecodeError:
        raise ProtocolError("a message with a name that is no text") from None
    if around or position > len(data):
        raise ProtocolError("a message that ends too early")
    return section


def _value(data: bytes, position: int) -> tuple[bytes, int]:
    """The value at a position, and the position after it: past the end when it is cut short."""
    start = position + 2
    end = start + (data[position] << 8 | data[position + 1])
    return data[start:end], end


def _list(data: bytes, position: int) -> tuple[list[bytes], int]:
    """The items of the list that was started before this position, and the position after it."""
    items = []
    while (element := data[position]) == Message.LIST_ITEM:
        item, position = _value(data, position + 1)
        items.append(item)
    if element != Message.LIST_END:
        raise ProtocolError(f"a list with an element of type {element}")
    return items, position + 1
