"""Who claims what: prefixes, endpoints and identities that two nodes can't both have.

A set of accepted claims, built up node by node. The question "does anything here overlap this
prefix?" takes one look-up for each prefix length in use, however many claims there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fabricd.model import Node, Prefix, Role, address, network

_Bits = tuple[int, int, int]
"""Family, prefix length, and the network's leading bits as a number."""

_MAX: Final = {4: 32, 6: 128}


def _bits(subnet: Prefix) -> _Bits:
    net = network(subnet)
    return (
        net.version,
        net.prefixlen,
        int(net.network_address) >> (net.max_prefixlen - net.prefixlen),
    )


class _PrefixMap:
    """Prefixes with their owners, asked for overlaps."""

    def __init__(self) -> None:
        self._exact: dict[_Bits, list[Node]] = {}
        self._inside: dict[_Bits, list[Node]] = {}  # owners of longer prefixes within
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}

    def add(self, subnet: Prefix, owner: Node) -> None:
        family, length, value = _bits(subnet)
        self._exact.setdefault((family, length, value), []).append(owner)
        self._lengths[family].add(length)
        for shorter in range(length):
            key = (family, shorter, value >> (length - shorter))
            self._inside.setdefault(key, []).append(owner)

    def overlapping(self, subnet: Prefix) -> Iterator[Node]:
        """Owners of prefixes that contain `subnet`, equal it or lie within it."""
        family, length, value = _bits(subnet)
        for shorter in sorted(self._lengths[family]):
            if shorter <= length:
                yield from self._exact.get((family, shorter, value >> (length - shorter)), ())
        yield from self._inside.get((family, length, value), ())


class Claims:
    """What the nodes accepted so far have claimed."""

    def __init__(self) -> None:
        self._subnets = _PrefixMap()
        self._endpoints = _PrefixMap()
        self._identities: dict[str, Node] = {}

    def conflict(self, node: Node) -> tuple[str, str] | None:
        """The first claim of `node` that is taken: field and reason; None if there is none."""
        for subnet in node.subnets:
            for owner in self._subnets.overlapping(subnet):
                if not (node.role is Role.CLOUD and owner.role is Role.CLOUD):
                    theirs = ", ".join(owner.subnets)
                    return "subnets", f"{subnet} overlaps {theirs} of nodes/{owner.name}"
            for owner in self._endpoints.overlapping(subnet):
                return "subnets", (
                    f"{subnet} contains {owner.endpoint}, the endpoint of nodes/{owner.name}, "
                    "which has to stay reachable outside the tunnels"
                )
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            own = next((s for s in node.subnets if network(s).overlaps(network(endpoint))), None)
            if own is not None:
                return "subnets", f"{own} contains the node's own endpoint {node.endpoint}"
            for owner in self._subnets.overlapping(endpoint):
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
