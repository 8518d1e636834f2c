"""What other nodes say, and what this one has kept: status documents in the store, probes that come
out of a tunnel, the snapshot of the last good records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fabricd.core.events import Put
from fabricd.core.probe_packet import Packet, decode, encode
from fabricd.daemon import snapshot
from fabricd.probe.records import claims, view_of
from tests.fuzz.harness import Target

STATUS: Final = {
    "node": "edge2",
    "synced": True,
    "source": {"type": "etcd", "reason": ""},
    "peers": [
        {
            "name": "edge3",
            "up": False,
            "state": "silent",
            "reason": "packets go in, none come out",
            "certificate": {"subnets": ["2.2.2.32/27"], "not_after": 1.75e9},
            "children": [],
        }
    ],
}


def _status(data: bytes) -> object:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""  # as `fabricd.probe.records` does with each of them
    return view_of(document)


def _statuses() -> Iterator[bytes]:
    yield msgspec.json.encode(STATUS)
    yield msgspec.json.encode({"node": "n", "synced": False, "peers": []})


def _claims(data: bytes) -> object:
    return claims(data)


def _probe(data: bytes) -> object:
    packet = decode(data)
    assert packet is None or encode(packet)[:6] == data[:6]
    return packet


def _probes() -> Iterator[bytes]:
    for packet in (Packet(1), Packet(2**64 - 1, deaf=True), Packet(77, answer=True)):
        yield encode(packet)


class _Folder:
    """A folder with one file in it, in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __truediv__(self, name: str) -> _Folder:
        return self

    def read_bytes(self) -> bytes:
        return self._data


def _snapshot(data: bytes) -> object:
    folder: Any = _Folder(data)
    return snapshot.load(folder)


def _snapshots() -> Iterator[bytes]:
    puts = (Put("nodes/edge2", b'{"subnets": ["2.2.2.0/27"]}', 7), Put("communities/a", b"{}"))
    lines = [snapshot.Line(put.key, put.value.decode(), put.created) for put in puts]
    yield msgspec.json.encode(lines)


TARGETS: Final = (
    Target("status", _status, _statuses, rejections=(ValueError,)),
    Target("claims", _claims, lambda: [b'{"subnets": ["2.2.2.0/27", "::/0", 7]}']),
    Target("probe", _probe, _probes),
    Target("snapshot", _snapshot, _snapshots, rejections=(ValueError,)),
)
