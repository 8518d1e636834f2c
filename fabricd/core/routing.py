"""The kernel's part of the desired state: links, addresses, routes, rules and switches.

Routes to peers lead where no packet leaves in clear text, and behind them stand routes that
refuse what has no tunnel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from fabricd.core.claims import endpoint_prefix
from fabricd.core.ownership import DEAD_END, LINK_ALIAS, ROUTE_PROTOCOL, RULE_PRIORITY, TABLE
from fabricd.core.state import IfAddress, KernelState, Link, Route, RouteKind, Rule, Sysctl
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Peering
from fabricd.model import Address, Node, Prefix, Role, family, first_host, network

MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""

TUNNEL_METRIC: Final = 100
FAIL_CLOSED_METRIC: Final = 10_000
"""Behind every other route to the same prefix: it matters when no tunnel's route is there."""
BLACKHOLE_METRIC: Final = 198
"""Lets a blackhole that an operator set by hand (metric 0) stand beside ours, untouched."""

FORWARDING: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def kernel_state(
    self: Node | None,
    found: tuple[Peering, ...],
    nodes: Mapping[str, Node],
    around: Surroundings,
) -> KernelState:
    """What the kernel should hold. `self` is the node's own record, None if there is none."""
    links = [Link(DEAD_END, "bridge", up=True, alias=LINK_ALIAS)]
    addresses: list[IfAddress] = []
    if self is not None and self.role is Role.EDGE:
        links.append(Link(around.bridge, "bridge", up=True, alias=LINK_ALIAS))
        addresses = [
            IfAddress(
                around.bridge, f"{first_host(s)}/{network(s).prefixlen}", protocol=ROUTE_PROTOCOL
            )
            for s in self.subnets
        ]
    routes = [
        *_fail_closed(self, nodes.values(), around.networks),
        *_to_peers(self, found, around),
    ]
    families = {family(route.prefix) for route in routes if route.table == TABLE}
    forwarded = {family(subnet) for subnet in self.subnets} if self else set()
    return KernelState(
        links={link.name: link for link in links},
        addresses={(item.link, item.address): item for item in addresses},
        routes={(r.table, r.prefix, r.metric): r for r in routes},
        rules={
            (number, RULE_PRIORITY): Rule(number, RULE_PRIORITY, TABLE)
            for number in sorted(families)
        },
        sysctls={FORWARDING[n]: Sysctl(FORWARDING[n], "1") for n in sorted(forwarded)},
    )


def _fail_closed(
    self: Node | None, nodes: Collection[Node], networks: tuple[Prefix, ...]
) -> list[Route]:
    """Routes that refuse what would otherwise follow the default route in clear text."""
    result = []
    refused = set(networks)
    if self is not None and self.role is Role.CLOUD:
        result += [
            Route(MAIN_TABLE, net, RouteKind.BLACKHOLE, metric=BLACKHOLE_METRIC) for net in networks
        ]
        refused = set()
    for node in nodes:
        if node is self or (self and Role.CLOUD is self.role is node.role):
            continue
        refused |= {s for s in node.subnets if not _within(s, networks)}
    result += [
        Route(TABLE, net, RouteKind.UNREACHABLE, metric=FAIL_CLOSED_METRIC)
        for net in sorted(refused)
    ]
    # An underlay inside a network of the fabric: what the tunnels themselves use stays reachable.
    result += [
        Route(TABLE, endpoint, RouteKind.THROW, metric=FAIL_CLOSED_METRIC)
        for endpoint in sorted(set(filter(None, map(endpoint_prefix, nodes))))
        if _within(endpoint, refused)
    ]
    if self is not None and self.role is Role.EDGE:
        # The node's own pods are reached as the main table says.
        result += [
            Route(TABLE, s, RouteKind.THROW, metric=FAIL_CLOSED_METRIC) for s in self.subnets
        ]
    return result


def _to_peers(self: Node | None, found: tuple[Peering, ...], around: Surroundings) -> list[Route]:
    if self is None or around.tunnel_link is None:
        return []
    sources = {n: _source(self, n, around) for n in (4, 6)}
    remotes = sorted({child.remote for peering in found for child in peering.carried})
    return [
        Route(
            TABLE,
            remote,
            link=around.tunnel_link,
            source=sources[family(remote)],
            metric=TUNNEL_METRIC,
        )
        for remote in remotes
    ]


def _source(self: Node, number: int, around: Surroundings) -> Address | None:
    """An address of the node inside its own subnets, so that the node itself fits the traffic
    selectors: an edge's gateway address, on a gateway whichever the cluster's CNI has set.
    """
    subnets = [s for s in self.subnets if family(s) == number]
    if self.role is Role.EDGE:
        return first_host(subnets[0]) if subnets else None
    inside = (
        a
        for a in around.local_addresses
        if family(a) == number and _within(Prefix(f"{a}/{32 if number == 4 else 128}"), subnets)
    )
    return min(inside, default=None)


def _within(subnet: Prefix, networks: Iterable[Prefix]) -> bool:
    inner = network(subnet)
    return any(
        family(outer) == family(subnet) and inner.subnet_of(network(outer))  # type: ignore[arg-type]
        for outer in networks
    )
