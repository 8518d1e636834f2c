"""What charon sends: segments, packets, messages, and what they list."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import trio
from vici.protocol import Message, Packet

from fabricd.errors import Unavailable
from fabricd.ike.connection import Answer
from fabricd.ike.failure import explain
from fabricd.ike.observer import Observer
from fabricd.ike.protocol import Decoder, Event, ProtocolError, Reply, Request, Section
from tests.fuzz.harness import Target

NAME: Final = "2.2.2.0/27-2.2.2.32/27-d1ge57"

CONN: Final = {
    "fabric-edge3": {
        "local_addrs": ["%any"],
        "remote_addrs": ["10.0.0.3"],
        "local-1": {"class": "public key", "id": "C=CN, O=StrongSwan, CN=edge2"},
        "remote-1": {"class": "public key", "id": "C=CN, O=StrongSwan, CN=edge3"},
        "children": {
            NAME: {"mode": "TUNNEL", "local-ts": ["2.2.2.0/27"], "remote-ts": ["2.2.2.32/27"]}
        },
    }
}

SA: Final = {
    "fabric-edge3": {
        "uniqueid": "7",
        "state": "ESTABLISHED",
        "initiator": "yes",
        "remote-host": "10.0.0.3",
        "established": "12",
        "rekey-time": "14000",
        "child-sas": {
            f"{NAME}-8": {
                "name": NAME,
                "uniqueid": "8",
                "state": "INSTALLED",
                "local-ts": ["2.2.2.0/27"],
                "remote-ts": ["2.2.2.32/27[tcp/80]"],
                "bytes-in": "100",
                "bytes-out": "0",
                "install-time": "12",
            }
        },
    }
}


def _segment(kind: int, message: dict[str, Any], name: str = "") -> bytes:
    named = bytes([len(name)]) + name.encode() if name else b""
    packet: bytes = bytes([kind]) + named + Message.serialize(message)
    return struct.pack("!I", len(packet)) + packet


def _packets(data: bytes) -> object:
    """Bytes in three pieces, as a socket may give them."""
    decoder, found = Decoder(), []
    third = len(data) // 3
    for piece in (data[:third], data[third : 2 * third], data[2 * third :]):
        decoder.receive(piece)
        while (packet := decoder.next_packet()) is not None:
            found.append(packet)
    return len(found)


def _streams() -> Iterator[bytes]:
    yield _segment(Packet.CMD_RESPONSE, {"success": "yes"})
    yield _segment(Packet.EVENT, CONN, "list-conn")
    yield _segment(Packet.EVENT, SA, "list-sa") + _segment(Packet.EVENT_CONFIRM, {})[:5]
    yield _segment(Packet.CMD_RESPONSE, {"plugins": ["random", "kernel-libipsec"]})


class _Charon:
    """Answers everything with what it was made of: events are items, the rest are answers."""

    def __init__(self, replies: list[Section], events: list[bytes]) -> None:
        self._replies, self._events = replies, events

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        await trio.lowlevel.checkpoint()
        replies = iter(self._replies)
        return [
            Answer(next(replies, {}), tuple(self._events if request.stream else ()))
            for request in requests
        ]


def _lists(data: bytes) -> object:
    decoder = Decoder()
    decoder.receive(data)
    replies: list[Section] = []
    events: list[bytes] = []
    while (packet := decoder.next_packet()) is not None:
        if isinstance(packet, Reply):
            replies.append(packet.message)
        elif isinstance(packet, Event):
            events.append(packet.data)
    charon: Any = _Charon(replies, events)
    return trio.run(Observer().observe, charon)


def _listings() -> Iterator[bytes]:
    yield _segment(Packet.EVENT, CONN, "list-conn")
    yield _segment(Packet.EVENT, SA, "list-sa")
    yield (
        _segment(Packet.CMD_RESPONSE, {"authorities": ["fabric-ca-0123456789ab"]})
        + _segment(Packet.CMD_RESPONSE, {"keys": ["0123"]})
        + _segment(Packet.EVENT, {"type": "X509_CRL", "data": b"0\x00"}, "list-cert")
    )


def _log(data: bytes) -> object:
    lines = data.decode("utf-8", "replace").split("\n")
    said = explain(lines, "initiate failed", 5.0)
    assert "\n" not in said
    return said


def _logs() -> Iterator[bytes]:
    yield b"""generating IKE_SA_INIT request 0 [ SA KE No N(NATD_S_IP) ]
sending packet: from 10.0.0.2[500] to 10.0.0.3[500] (240 bytes)
giving up after 4 retransmits"""
    yield b"received NO_PROPOSAL_CHOSEN notify error\nno matching peer config found"


TARGETS: Final = (
    Target("vici", _packets, _streams, rejections=(ProtocolError,)),
    Target("charon-lists", _lists, _listings, rejections=(ProtocolError, Unavailable)),
    Target("charon-log", _log, _logs),
)
