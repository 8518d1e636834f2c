"""What nftables has to do: the fabric's own part of it.

Pods' traffic that leaves the fabric takes the node's address; traffic inside the fabric keeps its
source; TCP through tunnels is told how much fits. How a table is written is the kernel's side.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import collapse_addresses

from fabricd.core.index import Index
from fabricd.core.state import Filter
from fabricd.core.surroundings import Surroundings
from fabricd.model import Node, Prefix, Role, family, network


def filtering(self: Node | None, index: Index, around: Surroundings) -> Filter | None:
    """The table of this node; None: it is not in the fabric."""
    if self is None:
        return None
    outside = {subnet for subnets in index.strays.values() for subnet in subnets}
    pods = self.subnets if self.role is Role.EDGE and around.masquerade else ()
    return Filter(
        masqueraded=collapsed(pods),
        inside=collapsed({*around.networks, *outside}),
        bridge=around.bridge if self.role is Role.EDGE else "",
    )


def collapsed(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The same addresses in as few prefixes as can be, sorted; IPv4 first."""
    every = set(prefixes)
    result: list[Prefix] = []
    for number in (4, 6):
        nets = [network(text) for text in every if family(text) == number]
        result += [Prefix(str(net)) for net in collapse_addresses(nets)]  # type: ignore[type-var]
    return tuple(result)
