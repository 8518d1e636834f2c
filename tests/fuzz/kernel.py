"""What netlink carries. An object that can't be read raises one of these errors and is left out
(kernel/reading.py). Beyond that matters that reading comes to an end, and that what is shown of it
stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from fabricd.core.state import IfAddress, Link, Route, RouteKind, Rule
from fabricd.kernel import codec, links, routes
from fabricd.kernel.netlink import HEADER, Request, parse
from fabricd.kernel.reading import UNREADABLE
from fabricd.model import Address, Prefix
from tests.fuzz.harness import Target

LINKS: Final = {1: "lo", 2: "eth0", 7: "fabric0"}

_READERS: Final[dict[int, Callable[[bytes], object]]] = {
    links.RTM_NEWLINK: links.decode,
    codec.RTM_NEWADDR: codec.decode_address,
    codec.RTM_NEWRULE: codec.decode_rule,
    routes.RTM_NEWROUTE: lambda data: (
        routes.is_ours(data),
        routes.is_learned(data),
        routes.destination(data),
        routes.decode(data, LINKS),
    ),
}


def _datagram(data: bytes) -> object:
    return [
        _READERS[message.kind](message.data) for message in parse(data) if message.kind in _READERS
    ]


def _message(request: Request, sequence: int = 1) -> bytes:
    kind, flags, body = request
    header = HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0)
    return header + body + bytes(-len(body) % 4)


def _messages() -> Iterator[bytes]:
    edge = Route(198, Prefix("2.2.2.32/27"), RouteKind.UNICAST, "fabric0", Address("2.2.2.1"), 100)
    yield _message(routes.add(edge, 7)) + _message(
        routes.add(Route(254, Prefix("2.0.0.0/8"), RouteKind.BLACKHOLE, metric=198), None)
    )
    yield _message(routes.add(Route(198, Prefix("fd00:2::/64"), RouteKind.UNREACHABLE), None))
    yield _message(codec.add_rule(Rule(4, 198, 198)))
    yield _message(codec.add_rule(Rule(6, 197, 254, Prefix("fd00::/8"), 8)))
    yield _message(codec.add_address(IfAddress("br-edge", "2.2.2.1/27", 198), 7))
    yield _message(codec.add_address(IfAddress("br-edge", "fd00:2::1/64", 198), 7))
    yield _message(links.finish(Link("br-edge", "bridge", up=True, alias="fabricd")))
    yield _message(links.create(Link("br-edge", "bridge", up=True, alias="fabricd")))


def _reads(name: str, kind: int) -> Target:
    """One sort of message by itself: a header that is right, and then anything."""

    def feed(data: bytes) -> object:
        return _READERS[kind](HEADER.pack(HEADER.size + len(data), kind, 0, 1, 0) + data)

    def seeds() -> Iterator[bytes]:
        for datagram in _messages():
            for message in parse(datagram):
                if message.kind in {kind, kind + 3}:  # RTM_SETLINK is laid out as RTM_NEWLINK
                    yield message.data[HEADER.size :]

    return Target(name, feed, seeds, rejections=REJECTIONS)


REJECTIONS: Final[tuple[Any, ...]] = UNREADABLE

TARGETS: Final = (
    Target("netlink", _datagram, _messages, rejections=REJECTIONS),
    _reads("netlink-link", links.RTM_NEWLINK),
    _reads("netlink-address", codec.RTM_NEWADDR),
    _reads("netlink-rule", codec.RTM_NEWRULE),
    _reads("netlink-route", routes.RTM_NEWROUTE),
)
