"""What is to be known of a node: its routes, whether it forwards, its source NAT.

Values only: `node` reads them, `check` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fabricd.calico.snat import Table
from fabricd.model import Address, Prefix, family, network


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table, as `ip -j route` has it."""

    prefix: str
    """`default` for that one."""
    kind: str
    """`unicast`, `blackhole`, `unreachable` …"""
    protocol: str
    """`kernel`, `static`, `bird`, or a number without a name."""
    vias: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def by_bird(self) -> bool:
        """Whether BIRD put it there; 12 is RTPROT_BIRD where iproute2 has no names."""
        return self.protocol in {"bird", "12"}

    def __str__(self) -> str:
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        via = "".join(f" via {gateway}" for gateway in self.vias)
        dev = "".join(f" dev {link}" for link in self.links)
        return f"{kind}{self.prefix}{via}{dev} proto {self.protocol}"


@dataclass(frozen=True, slots=True)
class Filters:
    """The node's tables for source NAT."""

    tables: tuple[Table, ...] = ()
    unread: tuple[str, ...] = ()
    """What could not be read and why, a line each."""
    read: bool = True
    """Whether anything was."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """All of it."""

    is_gateway: bool
    routes: Mapping[int, Sequence[Route]]
    """The main table, by address family: 4, 6."""
    forwards: Mapping[int, bool]
    filters: Filters

    def towards(self, net: Prefix) -> list[Route]:
        """The routes to exactly this network."""
        return [route for route in self.routes[family(net)] if route.prefix == net]

    def links_to(self, host: Address) -> frozenset[str]:
        """The links of the most specific route to a host, if its address family was read."""
        there = ip_address(host)
        found = [
            (network(route.prefix).prefixlen, route.links)
            for route in self.routes.get(family(host), ())
            if route.prefix != "default" and there in network(route.prefix)
        ]
        return frozenset(max(found)[1]) if found else self.default_links(family(host))

    def default_links(self, version: int) -> frozenset[str]:
        """The links of the default route, of all if there are several."""
        found = (route for route in self.routes.get(version, ()) if route.prefix == "default")
        return frozenset(link for route in found for link in route.links)
