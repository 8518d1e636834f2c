"""Where two pods' traffic passes: whose addresses they are, which two nodes peer for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType

from fabricd.core.facts import NodeView, Records
from fabricd.core.index import Index
from fabricd.core.state import Child
from fabricd.core.topology import Peering, peerings
from fabricd.model import Address, Node, Prefix, Role, network


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two nodes and the pair of subnets between them, seen from the source's node."""

    source: Node
    destination: Node
    peering: Peering
    pair: Child

    @property
    def nodes(self) -> tuple[str, str]:
        """Names of the two."""
        return self.source.name, self.destination.name

    @property
    def carried(self) -> bool:
        """Whether the records would have the pair here, not at another gateway."""
        return self.pair in self.peering.carried


def owners(nodes: Mapping[str, Node], pod: Address) -> tuple[Node, ...]:
    """The nodes behind which an address is, by name: one, or gateways that share a subnet."""
    return tuple(node for _, node in sorted(nodes.items()) if subnet_of(node, pod) is not None)


def subnet_of(node: Node, pod: Address) -> Prefix | None:
    """The node's subnet that has this address."""
    return next((subnet for subnet in node.subnets if within(pod, subnet)), None)


def _subnet(node: Node, pod: Address) -> Prefix:
    subnet = subnet_of(node, pod)
    assert subnet is not None, "it is an owner"
    return subnet


def within(pod: Address, subnet: str) -> bool:
    """Whether an address lies in a prefix. Raises ValueError for what is no prefix."""
    return _parsed(pod) in network(subnet)


@lru_cache(maxsize=1024)
def _parsed(text: Address) -> IPv4Address | IPv6Address:
    return ip_address(text)


def meeting(
    records: Records,
    source: Address,
    destination: Address,
    views: Mapping[str, NodeView] = MappingProxyType({}),
) -> Meeting | None:
    """The peering that takes packets from `source` to `destination`; None: there is none.

    Of several gateways it is the one that the edge says it uses now (`views`: what nodes say, by
    node), or else the one where the records would have it.
    """
    found: list[Meeting] = []
    targets = {node.name for node in owners(records.nodes, destination)}
    index = Index.of(records.nodes, records.communities)
    for node in owners(records.nodes, source):
        for peering in peerings(node, index):
            if peering.peer.name in targets:
                pair = Child(_subnet(node, source), _subnet(peering.peer, destination))
                found.append(Meeting(node, peering.peer, peering, pair))
    return min(
        found, key=lambda each: (not _used(each, views), not each.carried, each.nodes), default=None
    )


def _used(each: Meeting, views: Mapping[str, NodeView]) -> bool:
    """Whether the edge of the two says that its packets go this way."""
    ends = (each.source, each.destination)
    edge, gateway = ends if each.source.role is Role.EDGE else ends[::-1]
    view = views[edge.name].peers.get(gateway.name) if edge.name in views else None
    return view is not None and view.up and view.state != "standby"
