"""Reads what the kernel sends, message by message: one that can't be read is left out.

Links, addresses and rules of others are in every dump, of kinds that nobody here has seen. None of
them is worth the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address
from socket import inet_ntoa
from typing import Final, TypeVar

import structlog

from fabricd.kernel.netlink import HEADER

T = TypeVar("T")

UNREADABLE: Final = (ValueError, LookupError, struct.error)
"""What decoders raise for a message that is not as they know it."""

log = structlog.get_logger()


def read_each(decode: Callable[[bytes], T], messages: Iterable[bytes]) -> Iterator[T]:
    """What `decode` makes of each message, with its netlink header, that it can read."""
    for data in messages:
        try:
            found = decode(data)
        except UNREADABLE as error:
            tell(HEADER.unpack_from(data)[1], str(error)[:200])
        else:
            yield found


def address_text(packed: bytes) -> str:
    """An address as `model` writes it. Raises ValueError if it has neither 4 nor 16 octets."""
    return inet_ntoa(packed) if len(packed) == 4 else _ipv6_text(packed)


@lru_cache(maxsize=65536)
def _ipv6_text(packed: bytes) -> str:
    """inet_ntop() has another form for addresses that embed an IPv4 one."""
    return str(IPv6Address(packed))


@lru_cache(maxsize=64)
def tell(kind: int, reason: str) -> None:
    """Log it the first time."""
    log.warning(
        "an object in the kernel can't be read and is left alone",
        rtnetlink_type=kind,
        reason=reason,
    )
