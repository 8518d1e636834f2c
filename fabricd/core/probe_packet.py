"""What two fabricds say to each other through a tunnel: a probe, and the answer to it.

     4 bytes   MAGIC
     1 byte    1: request, 2: answer
     1 byte    in a request, 1: nothing comes out of the tunnel at my end; otherwise 0
     2 bytes   in a request, who sends it: `mark`; or 0
     8 bytes   a number that the answer repeats

A kernel that answers for itself, with ICMP "port unreachable", returns the request as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Final

MAGIC: Final = b"fbd1"

_LAYOUT: Final = Struct("!4sBBHQ")
_REQUEST: Final = 1
_ANSWER: Final = 2

SIZE: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class Packet:
    """A request, or an answer."""

    number: int
    """64 bits that nobody can guess."""
    answer: bool = False
    deaf: bool = False
    """Of a request: nothing comes out of the tunnel where it is sent."""
    sender: int = 0
    """Of a request: the sender's `mark`, for gateways may have the same subnets; 0: unknown."""


def encode(packet: Packet) -> bytes:
    """`SIZE` bytes."""
    kind = _ANSWER if packet.answer else _REQUEST
    return _LAYOUT.pack(MAGIC, kind, packet.deaf, packet.sender, packet.number)


def decode(data: bytes) -> Packet | None:
    """None: it is something else."""
    if len(data) != SIZE:
        return None
    magic, kind, deaf, sender, number = _LAYOUT.unpack(data)
    if magic != MAGIC or kind not in {_REQUEST, _ANSWER} or deaf > (kind == _REQUEST):
        return None
    return Packet(number, kind == _ANSWER, bool(deaf), sender)


@lru_cache(maxsize=4096)
def mark(name: str) -> int:
    """16 bits that tell a node from the others of its fabric by its name; never 0."""
    return int.from_bytes(sha256(name.encode()).digest()[:2]) or 1
