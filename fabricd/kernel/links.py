"""Network interfaces as rtnetlink writes them, by `struct`: a node with pods lists hundreds.

Knows bytes and `core.state.Link`, no socket. Formats and numbers: linux/if_link.h (IFLA_*),
linux/rtnetlink.h (struct ifinfomsg), linux/veth.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from socket import AF_UNSPEC
from typing import Final

from fabricd.core.state import Link
from fabricd.kernel.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    attribute,
    attributes,
)

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19

_IFINFOMSG: Final = struct.Struct("=BxHiII")
"""Family, type, index, flags, which flags are meant."""
_IFF_UP: Final = 0x1
_RTEXT_FILTER_SKIP_STATS: Final = 1 << 3

_ADDRESS: Final = 1
_IFNAME: Final = 3
_MTU: Final = 4
_LINK: Final = 5
_MASTER: Final = 10
_LINKINFO: Final = 18
_IFALIAS: Final = 20
_NET_NS_FD: Final = 28
_EXT_MASK: Final = 29
_LINK_NETNSID: Final = 37

_INFO_KIND: Final = 1
_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1

_U32: Final = struct.Struct("=I")
_S32: Final = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Interface:
    """A link, and what the kernel says of it in its own numbers."""

    index: int
    link: Link
    master: int = 0
    """Index of the bridge whose port it is; 0: none."""
    other_end: int = 0
    """Of a veth pair: the index of the other end, in its own network namespace."""
    netns_id: int | None = None
    """This namespace's number for the one that the other end is in; None: it is this one."""


def dump() -> Request:
    """Ask for all links, without their counters."""
    body = _IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + _u32(_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, 0, body)


def create(link: Link) -> Request:
    """Create a link, down and without alias: the kernel takes an alias only afterwards."""
    body = _head() + _name(link.name) + _info(link.kind)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def create_pair(link: Link, master: int, peer: Link, netns: int, hardware_address: str) -> Request:
    """Create a veth pair: `link` here as a port of the bridge `master`, `peer` in the namespace
    behind the descriptor `netns`. `peer` is down at first: it can't be opened before it has its
    other end (veth_open).
    """
    octets = bytes.fromhex(hardware_address.replace(":", ""))
    inner = _head() + _name(peer.name) + _u32(_MTU, peer.mtu)
    inner += attribute(_ADDRESS, octets) + _u32(_NET_NS_FD, netns)
    body = _head(up=link.up) + _name(link.name) + _u32(_MTU, link.mtu) + _u32(_MASTER, master)
    body += _info("veth", attribute(_VETH_INFO_PEER, inner))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def finish(link: Link) -> Request:
    """Give a link that was just created, found by its name, its alias, state and MTU."""
    body = _head(up=link.up) + _name(link.name) + attribute(_IFALIAS, link.alias.encode())
    return Request(RTM_SETLINK, 0, body + (_u32(_MTU, link.mtu) if link.mtu else b""))


def discard(name: str) -> Request:
    """Delete a link that was just created, found by its name."""
    return Request(RTM_DELLINK, 0, _head() + _name(name))


def change(index: int, link: Link, master: int | None = None) -> Request:
    """Set a link's administrative state; its MTU, unless that is 0; and whose port it is."""
    body = _head(index, up=link.up)
    if link.mtu:
        body += _u32(_MTU, link.mtu)
    if master is not None:
        body += _u32(_MASTER, master)
    return Request(RTM_SETLINK, 0, body)


def remove(index: int) -> Request:
    """Delete a link."""
    return Request(RTM_DELLINK, 0, _head(index))


def decode(data: bytes) -> Interface | None:
    """The interface; None for a bridge's word about one of its ports (family AF_BRIDGE)."""
    family, _, index, flags, _ = _IFINFOMSG.unpack_from(data, HEADER.size)
    if family != AF_UNSPEC:
        return None
    found = dict(attributes(data, HEADER.size + _IFINFOMSG.size))
    info = dict(attributes(found.get(_LINKINFO, b""), 0))
    netns_id = found.get(_LINK_NETNSID)
    return Interface(
        index=index,
        link=Link(
            name=_text(found[_IFNAME]),
            kind=_text(info.get(_INFO_KIND, b"")),
            up=bool(flags & _IFF_UP),
            alias=_text(found.get(_IFALIAS, b"")),
            mtu=_number(found.get(_MTU)),
        ),
        master=_number(found.get(_MASTER)),
        other_end=_number(found.get(_LINK)),
        netns_id=_S32.unpack(netns_id)[0] if netns_id else None,
    )


def _head(index: int = 0, *, up: bool | None = None) -> bytes:
    flags, mask = (_IFF_UP if up else 0), (0 if up is None else _IFF_UP)
    return _IFINFOMSG.pack(AF_UNSPEC, 0, index, flags, mask)


def _name(name: str) -> bytes:
    return attribute(_IFNAME, name.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def _info(kind: str, data: bytes = b"") -> bytes:
    inner = attribute(_INFO_KIND, kind.encode())
    return attribute(_LINKINFO, inner + (attribute(_INFO_DATA, data) if data else b""))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _number(value: bytes | None) -> int:
    return _U32.unpack(value)[0] if value else 0
