"""ICMP echo from an address of this node's own: does anything come back?

RFC 792 and RFC 4443; raw(7), icmp(7). Needs CAP_NET_RAW.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from typing import Final

import trio

from fabricd.core.facts import Echo
from fabricd.model import Address

TRIES: Final = 3
PAUSE: Final = 0.7
"""Seconds to wait for an answer, each time."""

_HEADER: Final = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
_REQUEST: Final = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY: Final = {socket.AF_INET: 0, socket.AF_INET6: 129}
_IP_HEADER: Final = {socket.AF_INET: 20, socket.AF_INET6: 40}

_IP_MTU_DISCOVER, _IP_MTU, _IP_PMTUDISC_DO = 10, 14, 2
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
"""linux/in.h, linux/in6.h: not in the socket module."""

_sequence = itertools.count(1)


async def echo(target: Address, source: str = "", *, big: bool = False) -> Echo:
    """Ask `target` a few times, from `source`. `big`: by the largest packet that leaves this node
    in one piece, not to be fragmented.
    """
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    protocol = socket.getprotobyname("ipv6-icmp" if family == socket.AF_INET6 else "icmp")
    size = 0
    try:
        with trio.socket.socket(family, socket.SOCK_RAW, protocol) as sock:
            if source:
                await sock.bind((source, 0))
            await sock.connect((target, 0))
            bound = source or sock.getsockname()[0]
            if big:
                size = _forbid_fragments(sock, family)
            for _ in range(TRIES):
                size, answered = await _ask(sock, family, size)
                if answered:
                    return Echo(target, answered=True, size=size, source=bound)
            return Echo(target, answered=False, size=size, source=bound)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        fault = f"no ICMP echo to {target} can be sent: {error.strerror} ({name})"
        return Echo(target, answered=False, size=size, source=source, fault=fault)


async def _ask(
    sock: trio.socket.SocketType, family: socket.AddressFamily, size: int
) -> tuple[int, bool]:
    """One request. Its size, which shrinks to what the kernel says is the most, and whether it was
    answered.
    """
    number = next(_sequence) & 0xFFFF
    while True:
        try:
            await sock.send(_request(family, number, size))
            break
        except OSError as error:
            most = _mtu(sock, family) if error.errno == errno.EMSGSIZE else size
            if most >= size:
                raise
            size = most
    reply = struct.pack("!BB", _REPLY[family], 0)
    mark = struct.pack("!HH", _identifier(), number)
    with trio.move_on_after(PAUSE):
        while True:
            data = await sock.recv(1 << 16)
            if family == socket.AF_INET:
                data = data[(data[0] & 0xF) * 4 :]  # the IP header comes with it
            if data[:2] == reply and data[4:8] == mark:
                return size, True
    return size, False


def _request(family: socket.AddressFamily, number: int, size: int) -> bytes:
    """The ICMP message of an IP packet of `size` octets; the kernel sums up ICMPv6 itself."""
    body = bytes(max(size - _IP_HEADER[family] - _HEADER.size, 16))
    head = _HEADER.pack(_REQUEST[family], 0, 0, _identifier(), number)
    if family == socket.AF_INET6:
        return head + body
    return _HEADER.pack(_REQUEST[family], 0, _checksum(head + body), _identifier(), number) + body


def _identifier() -> int:
    return os.getpid() & 0xFFFF


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _forbid_fragments(sock: trio.socket.SocketType, family: socket.AddressFamily) -> int:
    """Have packets leave whole or not at all; the MTU of the path as the kernel knows it."""
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
    return _mtu(sock, family)


def _mtu(sock: trio.socket.SocketType, family: socket.AddressFamily) -> int:
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_MTU)
        if family == socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_MTU)
    )
    return int(sock.getsockopt(level, option))
