"""Who claims what: prefixes, endpoints and identities that two nodes can't both have.

A set of accepted claims, built up node by node. The question "does anything here overlap this
prefix?" takes one look-up for each prefix length in use, and one search for what lies within.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from fabricd.model import Node, Prefix, Role, address, network

_MAX: Final = {4: 32, 6: 128}


class _PrefixMap:
    """Prefixes with their owners, asked for overlaps."""

    def __init__(self) -> None:
        self._exact: dict[tuple[int, int, int], list[tuple[Prefix, Node]]] = {}
        """By family, prefix length and the network's leading bits."""
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}
        self._starts: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        """First address and prefix length of each, sorted."""

    def add(self, subnet: Prefix, owner: Node) -> None:
        family, length, start = _numbers(subnet)
        key = (family, length, start >> (_MAX[family] - length))
        if key not in self._exact:
            self._exact[key] = []
            self._lengths[family].add(length)
            insort(self._starts[family], (start, length))
        self._exact[key].append((subnet, owner))

    def overlapping(self, subnet: Prefix) -> Iterator[tuple[Prefix, Node]]:
        """Prefixes that contain `subnet`, equal it or lie within it, with their owners."""
        family, length, start = _numbers(subnet)
        bits = _MAX[family]
        for shorter in sorted(self._lengths[family]):
            if shorter <= length:
                yield from self._exact.get((family, shorter, start >> (bits - shorter)), ())
        starts = self._starts[family]
        end = start + (1 << (bits - length))
        for first, longer in starts[
            bisect_left(starts, (start, 0)) : bisect_left(starts, (end, 0))
        ]:
            if longer > length:
                yield from self._exact[family, longer, first >> (bits - longer)]


def _numbers(subnet: Prefix) -> tuple[int, int, int]:
    """Family, prefix length, first address."""
    net = network(subnet)
    return net.version, net.prefixlen, int(net.network_address)


class Claims:
    """What the nodes accepted so far have claimed."""

    def __init__(self) -> None:
        self._subnets = _PrefixMap()
        self._endpoints = _PrefixMap()
        self._identities: dict[str, Node] = {}

    def conflict(self, node: Node) -> tuple[str, str] | None:
        """The first claim of `node` that is taken: field and reason; None if there is none."""
        for subnet in node.subnets:
            for theirs, owner in self._subnets.overlapping(subnet):
                if not (node.role is Role.CLOUD and owner.role is Role.CLOUD):
                    return "subnets", f"{subnet} overlaps {theirs} of nodes/{owner.name}"
            for _, owner in self._endpoints.overlapping(subnet):
                return "subnets", (
                    f"{subnet} contains {owner.endpoint}, the endpoint of nodes/{owner.name}, "
                    "which has to stay reachable outside the tunnels"
                )
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            own = next((s for s in node.subnets if network(s).overlaps(network(endpoint))), None)
            if own is not None:
                return "subnets", f"{own} contains the node's own endpoint {node.endpoint}"
            for _, owner in self._subnets.overlapping(endpoint):
                return "endpoint", f"{node.endpoint} lies in a subnet of nodes/{owner.name}"
        holder = self._identities.get(_identity_key(node))
        if holder is not None:
            return "identity", f"{node.identity!r} is the identity of nodes/{holder.name}"
        return None

    def add(self, node: Node) -> None:
        """Accept all that `node` claims."""
        for subnet in node.subnets:
            self._subnets.add(subnet, node)
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            self._endpoints.add(endpoint, node)
        self._identities[_identity_key(node)] = node


def endpoint_prefix(node: Node) -> Prefix | None:
    """The endpoint as a prefix of one address; None when it is absent or a DNS name."""
    if node.endpoint is None:
        return None
    try:
        host = address(node.endpoint)
    except ValueError:
        return None
    return Prefix(f"{host}/{_MAX[6 if ':' in host else 4]}")


def _identity_key(node: Node) -> str:
    """Spellings of one name that charon takes for the same are the same claim."""
    return ",".join(
        "=".join(part.strip() for part in rdn.split("=")) for rdn in node.identity.split(",")
    ).casefold()
