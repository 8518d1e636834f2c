"""The kernel's part of the desired state: links, addresses, routes, rules and switches.

Routes to peers lead where no packet leaves in clear text, and behind them stand routes that
refuse what has no tunnel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

from fabricd.core.claims import endpoint_prefix
from fabricd.core.filtering import filtering
from fabricd.core.index import Index
from fabricd.core.mtu import ETHERNET, underlay_mtu
from fabricd.core.ownership import DEAD_END, LINK_ALIAS, ROUTE_PROTOCOL, RULE_PRIORITY, TABLE
from fabricd.core.state import IfAddress, KernelState, Link, Route, RouteKind, Rule, Sysctl
from fabricd.core.surroundings import Surroundings
from fabricd.core.topology import Peering
from fabricd.model import (
    Address,
    Node,
    Prefix,
    Role,
    family,
    first_host,
    holders,
    network,
    within,
)

MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""

TUNNEL_METRIC: Final = 100
FAIL_CLOSED_METRIC: Final = 10_000
"""Behind every other route to the same prefix: it matters when no tunnel's route is there."""
BLACKHOLE_METRIC: Final = 198
"""Lets a blackhole that an operator set by hand (metric 0) stand beside ours, untouched."""

ROUTER: Final = "fe80::1/64"
"""On a bridge with IPv6 pods. From a link-local address the node asks who has a pod's address (RFC
4861, 7.2.2), and the kernel's own can't be used before duplicate address detection is through: for
two seconds after the bridge's first port nobody would reach the pod behind it."""

FORWARDING: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def kernel_state(
    self: Node | None,
    found: tuple[Peering, ...],
    index: Index,
    around: Surroundings,
) -> KernelState:
    """What the kernel should hold. `self` is the node's own record, None if there is none."""
    underlay = underlay_mtu(self, around)  # what leads to the dead end is cut to its MTU, too
    jumbo = underlay if underlay > ETHERNET else 0
    links = [Link(DEAD_END, "bridge", up=True, alias=LINK_ALIAS, mtu=jumbo)]
    addresses: list[IfAddress] = []
    if self is not None and self.role is Role.EDGE:
        links.append(Link(around.bridge, "bridge", up=True, alias=LINK_ALIAS))
        texts = [f"{first_host(s)}/{network(s).prefixlen}" for s in self.subnets]
        if any(family(s) == 6 for s in self.subnets):
            texts.append(ROUTER)
        addresses = [IfAddress(around.bridge, text, protocol=ROUTE_PROTOCOL) for text in texts]
    routes = [*_fail_closed(self, index, around), *_to_peers(self, found, around)]
    routes += _outside(index.nodes.values(), routes, around)
    families = {family(route.prefix) for route in routes if route.table == TABLE}
    forwarded = {family(subnet) for subnet in self.subnets} if self else set()
    return KernelState(
        links={link.name: link for link in links},
        addresses={(item.link, item.address): item for item in addresses},
        routes={route.key: route for route in routes},
        rules={(rule.family, rule.priority): rule for rule in _rules(self, families, around)},
        sysctls={FORWARDING[n]: Sysctl(FORWARDING[n], "1") for n in sorted(forwarded)},
        filter=filtering(self, index, around),
    )


def _rules(self: Node | None, families: set[int], around: Surroundings) -> list[Rule]:
    """Our table before all others; on a gateway, what the main table knows of parts of the
    fabric's networks before that. A route to a whole network is never followed there: with two
    gateways each learns the other's, and packets to what neither carries would go to and fro.
    """
    result = [Rule(number, RULE_PRIORITY, TABLE) for number in sorted(families)]
    if self is not None and self.role is Role.CLOUD:
        result += [
            Rule(family(net), RULE_PRIORITY - 1 - place, MAIN_TABLE, net, network(net).prefixlen)
            for place, net in enumerate(sorted(around.networks))
        ]
    return result


def _fail_closed(self: Node | None, index: Index, around: Surroundings) -> list[Route]:
    """Routes that refuse what would otherwise follow the default route in clear text."""
    refused = _refused(self, index, around)
    result = [
        Route(TABLE, net, RouteKind.UNREACHABLE, metric=FAIL_CLOSED_METRIC) for net in refused
    ]
    if self is None:
        return result
    if self.role is Role.CLOUD:
        result += [
            Route(MAIN_TABLE, net, RouteKind.BLACKHOLE, metric=BLACKHOLE_METRIC)
            for net in around.networks
        ]
    else:
        # The node's own pods are reached as the main table says, or not at all.
        for subnet in self.subnets:
            result += [
                Route(TABLE, subnet, RouteKind.THROW, metric=FAIL_CLOSED_METRIC),
                Route(MAIN_TABLE, subnet, RouteKind.UNREACHABLE, metric=FAIL_CLOSED_METRIC),
            ]
    return result


def _refused(self: Node | None, index: Index, around: Surroundings) -> list[Prefix]:
    """What is not to be reached without a tunnel."""
    refused = set(around.networks)
    for name, subnets in index.strays.items():
        node = index.nodes[name]
        if node is self or (self and Role.CLOUD is self.role is node.role):
            continue
        refused.update(subnets)
    if self is None:
        # A machine of the cluster that is no gateway (any more): its pods are the cluster's own.
        own = [_host(a) for a in around.local_addresses]
        refused = {net for net in refused if not any(within(host, [net]) for host in own)}
    return sorted(refused)


def _outside(nodes: Iterable[Node], routes: Collection[Route], around: Surroundings) -> list[Route]:
    """What has to be reached outside the tunnels, where a route of ours would catch it: this
    node's own networks and its store; and where the underlay is itself part of a network of the
    fabric, the endpoints of the others.
    """
    caught = {route.prefix for route in routes if route.table == TABLE}
    shared = [net for net in around.networks if any(_overlap(net, o) for o in around.outside)]
    endpoints: set[Prefix] = set()
    if shared:  # seldom, and there may be many nodes
        endpoints = {e for e in map(endpoint_prefix, nodes) if e is not None and within(e, shared)}
    return [
        Route(TABLE, net, RouteKind.THROW, metric=FAIL_CLOSED_METRIC)
        for net in sorted(endpoints.union(around.outside))
        if not caught.isdisjoint(holders(net))
    ]


def unroutable(remote: Prefix, around: Surroundings) -> Prefix | None:
    """The network of this node, or its store, that a peer's subnet lies in: it can't be routed
    into a tunnel without cutting the node off from that.
    """
    return _holder(remote, around.outside)


@lru_cache(maxsize=65536)
def _holder(prefix: Prefix, nets: tuple[Prefix, ...]) -> Prefix | None:
    return next((net for net in nets if within(prefix, [net])), None)


def _to_peers(self: Node | None, found: tuple[Peering, ...], around: Surroundings) -> list[Route]:
    if self is None or self.role is Role.CLOUD or around.tunnel_link is None:
        return []  # a gateway's are doors
    sources = {n: source(self, n, around) for n in (4, 6)}
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
        if unroutable(remote, around) is None
    ]


def source(self: Node, number: int, around: Surroundings) -> Address | None:
    """An address of the node inside its own subnets, so that the node itself fits the traffic
    selectors: an edge's gateway address, on a gateway whichever the cluster's CNI has set.
    """
    subnets = [s for s in self.subnets if family(s) == number]
    if self.role is Role.EDGE:
        return first_host(subnets[0]) if subnets else None
    inside = (
        a for a in around.local_addresses if family(a) == number and within(_host(a), subnets)
    )
    return min(inside, default=None)


def _overlap(one: Prefix, other: Prefix) -> bool:
    return family(one) == family(other) and network(one).overlaps(network(other))


def _host(text: Address) -> Prefix:
    return Prefix(f"{text}/{32 if family(text) == 4 else 128}")
