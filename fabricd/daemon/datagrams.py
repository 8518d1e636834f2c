"""UDP at addresses of this node's own: sent, received, and refused by the kernel at the other end.

Needs no privilege. An ICMP "port unreachable" that comes back for what was sent is an answer too,
by a kernel on which nobody listens (ip(7), IP_RECVERR; RFC 1122, 4.1.3.1). What is in a datagram
is not known here.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import structlog
import trio

from fabricd.model import Address, address

_IPV4: Final = (socket.IPPROTO_IP, 11, 8)
"""Level, IP_RECVERR, IP_PKTINFO (linux/in.h): the last two are not in the socket module."""
_IPV6: Final = (socket.IPPROTO_IPV6, 25, socket.IPV6_RECVPKTINFO)
"""IPV6_RECVERR (linux/in6.h)."""

_ERROR: Final = struct.Struct("=IBBBBII")
"""struct sock_extended_err of linux/errqueue.h: errno, origin, type, code, pad, info, data; the
address of who complains follows."""

_PORT_UNREACHABLE: Final = {(2, 3, 3), (3, 1, 4)}
"""Origin, type and code: SO_EE_ORIGIN_ICMP, RFC 792; SO_EE_ORIGIN_ICMP6, RFC 4443."""

_SIZE: Final = 512
_CONTROL: Final = 512
"""Bytes for what the kernel says about a datagram."""
_AT_ONCE: Final = 256
"""Datagrams that are read before others have their turn."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that came in, or one of ours that the other end had no use for."""

    local: Address
    """Which of this node's."""
    remote: Address
    link: str
    """Where it came in; empty where `returned`."""
    data: bytes
    returned: bool = False
    """It is one of ours: `remote` says that nobody listens there."""


class Datagrams:
    """One socket an address, each on the same port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wanted: frozenset[Address] = frozenset()
        self._sockets: dict[Address, socket.socket] = {}
        self._faults: dict[Address, str] = {}
        self._nursery: trio.Nursery | None = None
        self._arrived: Callable[[Arrival], None] = lambda _: None

    async def run(self, arrived: Callable[[Arrival], None]) -> NoReturn:
        """Hand over what comes in, for ever."""
        self._arrived = arrived
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.listen(())
        raise AssertionError("a nursery that sleeps for ever has no end")

    def listen(self, addresses: Collection[Address]) -> None:
        """Listen at exactly these from now on, as far as the node has them."""
        for gone in self._sockets.keys() - set(addresses):
            sock = self._sockets.pop(gone)
            trio.lowlevel.notify_closing(sock)
            sock.close()
        self._faults = {a: fault for a, fault in self._faults.items() if a in set(addresses)}
        if self._nursery is None:
            return
        for new in set(addresses) - self._sockets.keys():
            try:
                sock = _open(new, self._port)
            except OSError as error:
                self._complain(new, error)
                continue
            self._faults.pop(new, None)
            self._sockets[new] = sock
            self._nursery.start_soon(self._read, new, sock)

    def send(self, source: Address, target: Address, data: bytes) -> bool:
        """Send to the same port of `target`; False: it did not leave the node."""
        sock = self._sockets.get(source)
        if sock is None:
            return False
        # What came back for an earlier one is told to whoever calls next.
        for _ in range(2):
            try:
                sock.sendto(data, (target, self._port))
            except BlockingIOError:
                return True  # the kernel has no SA for it, or no room: lost on the way
            except OSError:
                continue
            return True
        return False

    def _complain(self, local: Address, error: OSError) -> None:
        # One that is not there yet is no fault: it is about to be made.
        fault = "" if error.errno == errno.EADDRNOTAVAIL else str(error)
        if fault and self._faults.get(local) != fault:
            log.warning("no probes", address=local, port=self._port, error=fault)
        self._faults[local] = fault

    async def _read(self, local: Address, sock: socket.socket) -> None:
        with suppress(trio.ClosedResourceError):
            while self._sockets.get(local) is sock:
                await trio.lowlevel.wait_readable(sock)
                for read in (_returned, _received):
                    for arrival in _all(read, local, sock):
                        self._arrived(arrival)


_Read = Callable[[Address, socket.socket], Arrival | None]


def _all(read: _Read, local: Address, sock: socket.socket) -> Iterator[Arrival]:
    for _ in range(_AT_ONCE):
        try:
            arrival = read(local, sock)
        except BlockingIOError:
            return
        except OSError:
            continue  # what became of an earlier one: the queue of errors has more of it
        if arrival is not None:
            yield arrival


def _open(local: Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    level, errors, link = _IPV6 if ":" in local else _IPV4
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(level, errors, 1)
        sock.setsockopt(level, link, 1)
        sock.bind((local, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _received(local: Address, sock: socket.socket) -> Arrival | None:
    data, control, _, sender = sock.recvmsg(_SIZE, _CONTROL)
    link = ""
    for level, kind, value in control:
        # struct in_pktinfo begins with the link's index, struct in6_pktinfo ends with it.
        if level == socket.IPPROTO_IP and kind == _IPV4[2]:
            link = _link(value[:4])
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            link = _link(value[16:20])
    return Arrival(local, _address(sender), link, data)


def _returned(local: Address, sock: socket.socket) -> Arrival | None:
    data, control, _, target = sock.recvmsg(_SIZE, _CONTROL, socket.MSG_ERRQUEUE)
    for level, kind, value in control:
        if (level, kind) not in {_IPV4[:2], _IPV6[:2]} or len(value) < _ERROR.size:
            continue
        _, origin, reason, code, *_ = _ERROR.unpack_from(value)
        remote = _address(target)
        by = _offender(value[_ERROR.size :])
        if (origin, reason, code) in _PORT_UNREACHABLE and by == remote:
            return Arrival(local, remote, "", data, returned=True)
    return None


def _link(index: bytes) -> str:
    try:
        return socket.if_indextoname(int.from_bytes(index, "little" if _LITTLE else "big"))
    except OSError:
        return ""  # it is gone


_LITTLE: Final = struct.pack("=H", 1)[0] == 1


def _address(name: Any) -> Address:
    return address(name[0].partition("%")[0])


def _offender(name: bytes) -> Address | None:
    """From a struct sockaddr_in or sockaddr_in6: the address is behind family, port and, in the
    latter, flow.
    """
    family = int.from_bytes(name[:2], "little" if _LITTLE else "big")
    if family == socket.AF_INET:
        return address(socket.inet_ntop(socket.AF_INET, name[4:8]))
    if family == socket.AF_INET6:
        return address(socket.inet_ntop(socket.AF_INET6, name[8:24]))
    return None
