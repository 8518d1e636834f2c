"""Routes survive the way to rtnetlink's bytes and back."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.state import Route, RouteKind
from fabricd.kernel import routes
from fabricd.kernel.netlink import HEADER, Request
from fabricd.model import Address, Prefix, address, prefix

LINKS = {3: "br-edge", 70000: "fabric0"}
NUMBERS = {name: index for index, name in LINKS.items()}

U32 = st.integers(1, 2**32 - 1)


def prefixes(family: int) -> st.SearchStrategy[Prefix]:
    bits = 32 if family == 4 else 128
    network = IPv4Network if family == 4 else IPv6Network

    def build(number: int, length: int) -> Prefix:
        return prefix(str(network((number >> (bits - length) << (bits - length), length))))

    numbers = st.integers(0, 2**bits - 1)
    if family == 6:  # addresses that embed an IPv4 one are where the ways to write them differ
        numbers |= st.integers(0, 2**32 - 1) | st.integers(0xFFFF << 32, (1 << 48) - 1)
    return st.builds(build, numbers, st.integers(0, bits))


def sources(family: int) -> st.SearchStrategy[Address]:
    if family == 4:
        return st.integers(0, 2**32 - 1).map(lambda number: address(str(IPv4Address(number))))
    return st.integers(0, 2**128 - 1).map(lambda number: address(str(IPv6Address(number))))


@st.composite
def some_routes(draw: st.DrawFn) -> Route:
    family = draw(st.sampled_from([4, 6]))
    kind = draw(st.sampled_from(RouteKind))
    unicast = kind is RouteKind.UNICAST
    return Route(
        table=draw(U32),
        prefix=draw(prefixes(family)),
        kind=kind,
        link=draw(st.sampled_from(sorted(NUMBERS))) if unicast else None,
        source=draw(st.none() | sources(family)) if unicast else None,
        metric=draw(U32 if family == 6 else st.just(0) | U32),
    )


def as_message(request: Request) -> bytes:
    header = HEADER.pack(HEADER.size + len(request.body), request.kind, request.flags, 1, 0)
    return header + request.body


@given(some_routes())
def test_a_route_decodes_to_what_was_encoded(route: Route) -> None:
    link = NUMBERS[route.link] if route.link else None
    for request in (routes.add(route, link), routes.replace(route, link)):
        data = as_message(request)
        assert routes.is_ours(data)
        assert routes.destination(data) == route.prefix
        assert routes.decode(data, LINKS) == route


@given(some_routes())
def test_a_removal_names_the_key_and_our_protocol(route: Route) -> None:
    data = as_message(routes.remove(route))
    removed = routes.decode(data, LINKS)
    assert routes.is_ours(data)
    assert removed == Route(route.table, route.prefix, route.kind, metric=route.metric)


def test_a_late_removal_cannot_take_the_dead_end_behind_it() -> None:
    unicast = routes.remove(Route(198, prefix("2.2.2.32/27"), link="br-edge"))
    assert unicast.body[7] == 1  # RTN_UNICAST
    odd = routes.remove(Route(198, prefix("2.2.2.32/27"), link=None))
    assert odd.body[7] == 0  # RTN_UNSPEC: any


def test_the_bytes_of_a_route_are_those_of_the_kernel_headers() -> None:
    route = Route(198, prefix("2.2.2.32/27"), link="br-edge", source=address("2.2.2.1"), metric=5)
    assert routes.add(route, 3) == Request(
        kind=24,  # RTM_NEWROUTE
        flags=0x600,  # NLM_F_CREATE | NLM_F_EXCL
        body=struct.pack("=8BI", 2, 27, 0, 0, 0, 198, 253, 1, 0)  # AF_INET, RT_SCOPE_LINK, unicast
        + struct.pack("=HH4B", 8, 1, 2, 2, 2, 32)  # RTA_DST
        + struct.pack("=HHI", 8, 15, 198)  # RTA_TABLE
        + struct.pack("=HHI", 8, 4, 3)  # RTA_OIF
        + struct.pack("=HH4B", 8, 7, 2, 2, 2, 1)  # RTA_PREFSRC
        + struct.pack("=HHI", 8, 6, 5),  # RTA_PRIORITY
    )


def test_ipv6_hangs_a_dead_end_on_loopback_and_we_do_not() -> None:
    route = Route(198, prefix("fd00::/16"), RouteKind.UNREACHABLE, metric=1024)
    assert routes.decode(as_message(routes.add(route, 3)), {3: "lo"}) == route


def test_a_route_through_a_gateway_is_like_none_of_ours() -> None:
    route = Route(198, prefix("2.2.2.32/27"), link="br-edge")
    gateway = struct.pack("=HH4B", 8, 5, 10, 0, 0, 1)  # RTA_GATEWAY
    decoded = routes.decode(as_message(routes.add(route, 3)) + gateway, LINKS)
    assert decoded == Route(198, prefix("2.2.2.32/27"), link=None)


def test_a_link_that_nobody_has_seen_goes_by_its_number() -> None:
    route = Route(198, prefix("2.2.2.32/27"), link="br-edge")
    assert routes.decode(as_message(routes.add(route, 12)), LINKS).link == "if12"


def test_a_kind_that_we_never_make_is_like_none_of_ours() -> None:
    data = bytearray(as_message(routes.add(Route(198, prefix("2.2.2.32/27"), link="br-edge"), 3)))
    data[HEADER.size + 7] = 8  # RTN_PROHIBIT
    assert routes.decode(bytes(data), LINKS) == Route(198, prefix("2.2.2.32/27"), link=None)
