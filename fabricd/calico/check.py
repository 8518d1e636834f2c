"""Is all there that pods of the cluster need to reach the edges? One row for each thing.

Pure: from what was read of Calico and of the node to findings, each with what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fabricd.calico import pools, snat
from fabricd.calico.facts import NodeFacts
from fabricd.calico.pools import Document
from fabricd.core.ownership import DEAD_END
from fabricd.core.surroundings import USERSPACE_LINK
from fabricd.model import Address, Prefix, family, network

PAGE: Final = "docs/calico.md"

TUNNEL_LINKS: Final = frozenset({DEAD_END, USERSPACE_LINK})


@dataclass(frozen=True, slots=True)
class Row:
    """One thing looked at."""

    name: str
    ok: bool
    detail: str
    todo: str = ""
    """What the operator can do about it; empty if it is right."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is known of the cluster."""

    wanted: Sequence[Document]
    """The pools that should be there: one for each network of the fabric, in that order."""
    pools: Mapping[str, Document] | None
    """All of Calico's, by name; None: they could not be read."""
    why: str = ""
    """Why they could not."""
    gateways: frozenset[Address] = frozenset()
    """Where the gateways are on the underlay, as far as it is known."""
    edges: frozenset[Address] = frozenset()
    """Where the edges are on the underlay, as far as it is known."""

    @property
    def networks(self) -> tuple[Prefix, ...]:
        """The fabric's."""
        return tuple(cidr for pool in self.wanted if (cidr := pools.cidr_of(pool)) is not None)

    def pods(self, version: int) -> tuple[snat.Net, ...]:
        """The networks of the cluster's own pods; empty when they are not known."""
        names = {pools.name_of(pool) for pool in self.wanted}
        found = (pools.cidr_of(p) for name, p in (self.pools or {}).items() if name not in names)
        return tuple(network(c) for c in found if c is not None and family(c) == version)


def check(cluster: Cluster, node: NodeFacts) -> list[Row]:
    """All rows, in the order in which a fault causes the next."""
    rows = [_pool(wanted, cluster) for wanted in cluster.wanted]
    rows += [
        _blackhole(net, node) if node.is_gateway else _route(net, cluster, node)
        for net in cluster.networks
    ]
    rows += [_forwarding(version, node) for version in sorted(set(map(family, cluster.networks)))]
    rows.append(_snat(cluster, node))
    return rows


def _pool(wanted: Document, cluster: Cluster) -> Row:
    name, cidr = pools.name_of(wanted), pools.cidr_of(wanted)
    title = f"pool {name}"
    if cluster.pools is None:
        return Row(
            title,
            ok=False,
            detail=f"can't be judged: {cluster.why}",
            todo="calicoctl get ippool -o json | fabricctl calico check --pools -",
        )
    if others := pools.overlapping(wanted, cluster.pools.values()):
        return Row(
            title,
            ok=False,
            detail=f"{cidr} overlaps {', '.join(others)}",
            todo="choose another network for the fabric, or remove that pool",
        )
    stored = cluster.pools.get(name)
    if stored is None:
        return Row(title, ok=False, detail="Calico has no such pool", todo="fabricctl calico apply")
    if found := pools.differences(wanted, stored):
        force = pools.cidr_of(stored) != cidr
        todo = "fabricctl calico apply --force" if force else "fabricctl calico apply"
        return Row(title, ok=False, detail="; ".join(found), todo=todo)
    return Row(title, ok=True, detail=f"{cidr}, disabled")


def _blackhole(net: Prefix, node: NodeFacts) -> Row:
    found = [route for route in node.towards(net) if route.kind == "blackhole"]
    if found:
        return Row(f"blackhole {net}", ok=True, detail=str(found[0]))
    return Row(
        f"blackhole {net}",
        ok=False,
        detail="this gateway has none, so its BIRD has nothing to announce",
        todo="systemctl start fabricd; fabricctl plan shows what it is about to do",
    )


def _route(net: Prefix, cluster: Cluster, node: NodeFacts) -> Row:
    name, found = f"route {net}", node.towards(net)
    learned = [route for route in found if route.by_bird]
    if not found:
        return Row(
            name,
            ok=False,
            detail="not learned from any gateway",
            todo="fabricctl calico check on the gateway; calicoctl node status here: are BIRD's "
            f"sessions Established? ({PAGE}, No route)",
        )
    if not learned:
        return Row(
            name,
            ok=False,
            detail=f"not from BIRD: {found[0]}",
            todo=f"ip route del {found[0]}, so that BIRD's own can take its place",
        )
    route = learned[0]
    if route.kind != "unicast":
        return Row(
            name,
            ok=False,
            detail=f"{route}: BIRD can't resolve the next hop",
            todo="the interface towards the gateway must not be among the ignored ones "
            "(BGPConfiguration, ignoredInterfaces)",
        )
    strangers = set(route.vias) - cluster.gateways if cluster.gateways else set()
    remark = f" ({', '.join(sorted(strangers))} is no gateway's endpoint)" if strangers else ""
    return Row(name, ok=True, detail=f"{route}{remark}")


def _forwarding(version: int, node: NodeFacts) -> Row:
    switch = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[version]
    if node.forwards[version]:
        return Row(f"forwarding ipv{version}", ok=True, detail=f"{switch} = 1")
    return Row(
        f"forwarding ipv{version}",
        ok=False,
        detail=f"{switch} is not 1: nothing goes from pods to other nodes",
        todo=f"sysctl -w {switch}=1",
    )


# ---------------------------------------------------------------- source NAT


def _snat(cluster: Cluster, node: NodeFacts) -> Row:
    filters = node.filters
    if not filters.read:
        reasons = "; ".join(filters.unread) or "neither nft nor iptables-save is installed"
        return Row(
            "snat",
            ok=False,
            detail=f"can't be judged: {reasons}",
            todo="apt install nftables, run as root",
        )
    found = snat.findings(filters.tables, _flows(cluster, node))
    certain = [item for item in found if item.certain]
    doubts = [f"{item.table}: {item.rule}" for item in found if not item.certain]
    doubts += filters.unread
    if certain:
        return Row(
            "snat",
            ok=False,
            detail="; ".join(f"{item.flow}: {item.table}: {item.rule}" for item in certain),
            todo=f"take the fabric's networks out of that rule ({PAGE}, Source NAT); is it "
            "Calico's own (cali-nat-outgoing), then the pool is missing",
        )
    remark = f"; can't be judged: {_some(doubts)}" if doubts else ""
    return Row("snat", ok=True, detail=f"no rule changes the source{remark}")


def _flows(cluster: Cluster, node: NodeFacts) -> list[snat.Flow]:
    flows = []
    for net in cluster.networks:
        version = family(net)
        pods, edges = cluster.pods(version), (network(net),)
        links = _links_to_edges(net, cluster, node)
        flows.append(snat.Flow(f"pods to {net}", pods, edges, links))
        if pods:
            flows.append(snat.Flow(f"{net} to pods", edges, pods, _links_to_pods(pods, node)))
    return flows


def _links_to_edges(net: Prefix, cluster: Cluster, node: NodeFacts) -> frozenset[str]:
    """Where packets for edges leave this node.

    On a gateway that is the link to the tunnel's other end: the kernel asks for source NAT when
    it knows the way of the packet that IPsec makes, and before it makes it.
    """
    if not node.is_gateway:
        return frozenset(link for route in node.towards(net) for link in route.links)
    outside = (node.links_to(endpoint) for endpoint in cluster.edges)
    return frozenset().union(*outside, node.default_links(family(net)), TUNNEL_LINKS)


def _links_to_pods(pods: Sequence[snat.Net], node: NodeFacts) -> frozenset[str]:
    """Where the node's own pods are; from a gateway, those of other nodes too."""
    return frozenset(
        link
        for route in node.routes[pods[0].version]
        if any(_inside(route.prefix, net) for net in pods)
        if node.is_gateway or not route.vias
        for link in route.links
    )


def _inside(prefix: str, net: Any) -> bool:
    return prefix != "default" and network(prefix).subnet_of(net)


def _some(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return f"{texts[0]}{rest}"
