"""What the daemon and `fabricd-netns` say to each other: one packet each, over a unix socket of
type SOCK_SEQPACKET.

A request is a word and a path, parted by NUL. The answer is a decimal errno and words for an
operator, parted by NUL; with errno 0 come the descriptors (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MAX_PACKET: Final = 8192
"""Octets: PATH_MAX and some more."""


class Word(StrEnum):
    """What can be asked for."""

    NAMESPACE = "namespace"
    """Of the path: a descriptor of the namespace, and a NETLINK_ROUTE socket in it."""
    EVENTS = "events"
    """A NETLINK_ROUTE socket here, which hears of what happens in other namespaces too."""


def encode_request(word: Word, path: str = "") -> bytes:
    """A request as it is sent."""
    return f"{word}\0{path}".encode("utf-8", "surrogateescape")


def decode_request(packet: bytes) -> tuple[Word, str]:
    """Raises ValueError."""
    word, nul, path = packet.decode("utf-8", "surrogateescape").partition("\0")
    if not nul or "\0" in path:
        raise ValueError("a request is a word and a path, parted by NUL")
    return Word(word), path


def encode_answer(code: int, text: str = "") -> bytes:
    """An answer as it is sent."""
    return f"{code}\0{text}".encode("utf-8", "replace")


def decode_answer(packet: bytes) -> tuple[int, str]:
    """Raises ValueError."""
    code, _, text = packet.decode("utf-8", "replace").partition("\0")
    return int(code), text
