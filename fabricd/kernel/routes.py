"""Routes as rtnetlink writes them, by `struct`: thousands come and go at once.

Knows bytes and `core.state.Route`, no socket. Formats and numbers: linux/rtnetlink.h
(struct rtmsg, RTA_*, RTN_*); rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.core.state import Route, RouteKind
from fabricd.kernel.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attributes,
)
from fabricd.kernel.reading import address_text
from fabricd.model import Address, Prefix, family

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

_RTMSG: Final = struct.Struct("=8BI")
"""Family, destination length, source length, TOS, table, protocol, scope, type, flags."""
_U32_ATTRIBUTE: Final = struct.Struct("=HHI")
_U32: Final = struct.Struct("=I")

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PRIORITY: Final = 6
_RTA_PREFSRC: Final = 7
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_RTA_VIA: Final = 18

_BIRD: Final = 12
"""RTPROT_BIRD."""
_MAIN: Final = 254
"""RT_TABLE_MAIN."""

_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_NOWHERE: Final = 255

_RTN_UNSPEC: Final = 0
_TYPES: Final = {
    RouteKind.UNICAST: 1,
    RouteKind.BLACKHOLE: 6,
    RouteKind.UNREACHABLE: 7,
    RouteKind.THROW: 9,
}
_KINDS: Final = {number: kind for kind, number in _TYPES.items()}


def dump(address_family: int) -> Request:
    """Ask for our routes of AF_INET or AF_INET6: the kernel leaves out those of others."""
    body = _RTMSG.pack(address_family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    return Request(RTM_GETROUTE, 0, body)


def dump_learned(address_family: int) -> Request:
    """Ask for the unicast routes of AF_INET or AF_INET6 that BIRD has set."""
    number = _TYPES[RouteKind.UNICAST]
    return Request(RTM_GETROUTE, 0, _RTMSG.pack(address_family, 0, 0, 0, 0, _BIRD, 0, number, 0))


def add(route: Route, link: int | None) -> Request:
    """Create a route out of the link of this index; refused when there is one of its key."""
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _encode_whole(route, link))


def replace(route: Route, link: int | None) -> Request:
    """Create a route, or put it in the place of the one with its key, whosever that is."""
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _encode_whole(route, link))


def remove(route: Route) -> Request:
    """Delete the route of this key and kind, if it carries our protocol.

    To IPv4 "no metric" means any: the kind keeps a removal that comes too late from taking the
    dead end behind its unicast route. Of a route that is like none of ours any kind will do.
    """
    bare = Route(route.table, route.prefix, route.kind, metric=route.metric)
    odd = route.kind is RouteKind.UNICAST and route.link is None
    number = _RTN_UNSPEC if odd else _TYPES[route.kind]
    return Request(RTM_DELROUTE, 0, _encode(bare, None, number, _RT_SCOPE_NOWHERE))


def dump_all(address_family: int) -> Request:
    """Ask for all routes of AF_INET or AF_INET6, whosever they are."""
    return Request(RTM_GETROUTE, 0, _RTMSG.pack(address_family, 0, 0, 0, 0, 0, 0, 0, 0))


def add_default(gateway: Address, link: int) -> Request:
    """Create a default route in the main table; refused when there is one."""
    address_family = AF_INET6 if family(gateway) == 6 else AF_INET
    number = _TYPES[RouteKind.UNICAST]
    header = _RTMSG.pack(
        *(address_family, 0, 0, 0, _MAIN, ROUTE_PROTOCOL, _RT_SCOPE_UNIVERSE, number, 0)
    )
    way = _address(_RTA_GATEWAY, gateway, address_family)
    body = header + way + _U32_ATTRIBUTE.pack(8, _RTA_OIF, link)
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def default_gateway(data: bytes, link: int) -> Address | None:
    """Where a message (with netlink header) leads, if it is about a default route of the main table
    out of this link.
    """
    _, length, _, _, table, _, _, number, _ = _RTMSG.unpack_from(data, HEADER.size)
    if length or table != _MAIN or number != _TYPES[RouteKind.UNICAST]:
        return None
    found = dict(attributes(data, HEADER.size + _RTMSG.size))
    if _RTA_GATEWAY not in found or found.get(_RTA_OIF) != _U32.pack(link):
        return None
    return Address(address_text(found[_RTA_GATEWAY]))


def is_ours(data: bytes) -> bool:
    """Whether a route message (with netlink header) carries our protocol number."""
    return data[HEADER.size + 5] == ROUTE_PROTOCOL


def is_learned(data: bytes) -> bool:
    """Whether a route message (with netlink header) is of the main table and by BIRD."""
    return (data[HEADER.size + 4], data[HEADER.size + 5]) == (_MAIN, _BIRD)


def destination(data: bytes) -> Prefix:
    """The prefix that a route message (with netlink header) is about."""
    address_family, length = data[HEADER.size], data[HEADER.size + 1]
    packed = b""
    for kind, value in attributes(data, HEADER.size + _RTMSG.size):
        if kind == _RTA_DST:
            packed = value
    return _prefix(address_family, packed, length)


def decode(data: bytes, links: Mapping[int, str]) -> Route:
    """The route in a message (with netlink header); `links` gives names by index.

    One with a gateway, several next hops or of a kind that we never make shows as a unicast route
    without link: none of ours is like that, so it differs from all that could be asked for.
    """
    (address_family, length, _, _, table, _, _, number, _) = _RTMSG.unpack_from(data, HEADER.size)
    kind = _KINDS.get(number, RouteKind.UNICAST)
    direct = number == _TYPES[RouteKind.UNICAST]
    packed = b""
    link = source = None
    metric = 0
    for attribute, value in attributes(data, HEADER.size + _RTMSG.size):
        if attribute == _RTA_DST:
            packed = value
        elif attribute == _RTA_TABLE:
            (table,) = _U32.unpack(value)
        elif attribute == _RTA_OIF:
            (link,) = _U32.unpack(value)
        elif attribute == _RTA_PRIORITY:
            (metric,) = _U32.unpack(value)
        elif attribute == _RTA_PREFSRC:
            source = Address(address_text(value))
        elif attribute in (_RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH):
            direct = False
    name = None
    if direct and link is not None:  # IPv6 hangs routes that lead nowhere on the loopback link
        name = links.get(link, f"if{link}")
    return Route(table, _prefix(address_family, packed, length), kind, name, source, metric)


def _encode_whole(route: Route, link: int | None) -> bytes:
    on_link = route.kind is RouteKind.UNICAST and family(route.prefix) == 4
    scope = _RT_SCOPE_LINK if on_link else _RT_SCOPE_UNIVERSE
    return _encode(route, link, _TYPES[route.kind], scope)


def _encode(route: Route, link: int | None, number: int, scope: int) -> bytes:
    network, _, length = route.prefix.partition("/")
    address_family = AF_INET6 if family(route.prefix) == 6 else AF_INET
    header = _RTMSG.pack(
        address_family,
        int(length),
        0,
        0,
        0,  # RT_TABLE_UNSPEC: see RTA_TABLE
        ROUTE_PROTOCOL,
        scope,
        number,
        0,
    )
    parts = [
        header,
        _address(_RTA_DST, network, address_family),
        _U32_ATTRIBUTE.pack(8, _RTA_TABLE, route.table),
    ]
    if link is not None:
        parts.append(_U32_ATTRIBUTE.pack(8, _RTA_OIF, link))
    if route.source is not None:
        parts.append(_address(_RTA_PREFSRC, route.source, address_family))
    if route.metric:
        parts.append(_U32_ATTRIBUTE.pack(8, _RTA_PRIORITY, route.metric))
    return b"".join(parts)


def _address(attribute: int, text: str, address_family: int) -> bytes:
    packed = inet_pton(address_family, text)
    return struct.pack("=HH", 4 + len(packed), attribute) + packed


def _prefix(address_family: int, packed: bytes, length: int) -> Prefix:
    if not packed:  # a default route has no RTA_DST
        packed = bytes(16 if address_family == AF_INET6 else 4)
    return Prefix(f"{address_text(packed)}/{length}")
