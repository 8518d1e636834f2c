"""Where a node's kernel would send what only a tunnel may carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fabricd.core.ownership import NUMBER
from fabricd.core.rib import InForce
from fabricd.model import Prefix, Role, network
from tests.property.world import Kernel, holds
from tests.simulation.scenario import OWN

SAFE: Final = frozenset({"fabric0", "ipsec0", "br-edge", "unreachable", "blackhole"})

NETWORKS: Final = (Prefix("2.0.0.0/8"),)

Leaks = frozenset[tuple[str, str]]
"""Addresses with the way that they take."""

BETWEEN: Final = ("2.0.0.1", "2.255.255.254", "10.233.255.254", "10.96.0.1")
"""Addresses of no node's own."""


def probes(cast: Iterable[str]) -> tuple[str, ...]:
    """An address of every subnet that there may be, and of what lies between."""
    subnets = (subnet for name in cast for subnet in OWN[name])
    return tuple(sorted({*BETWEEN, *(str(network(subnet)[1]) for subnet in subnets)}))


def leaks(kernel: Kernel, name: str, in_force: InForce, probes: Iterable[str]) -> Leaks:
    """Those of `probes` that would leave in clear text, with the way that they would take.

    `in_force` are the records that the daemon goes by.
    """
    self = in_force.nodes.get(name)
    own = self.subnets if self else ()
    secret = list(NETWORKS)
    if self is None or self.role is Role.EDGE:
        secret += [s for n in in_force.nodes.values() if n.role is Role.CLOUD for s in n.subnets]
    connected = kernel.connected()
    found = set()
    for text in probes:
        if not any(holds(net, text) for net in secret) or any(holds(net, text) for net in own):
            continue
        owner, route = kernel.route_to(text, connected) or (0, None)
        if owner not in {0, NUMBER}:
            continue  # somebody else's route, in a place that is not ours to clear
        way = "no route" if route is None else route.link or route.kind.value
        if way not in SAFE:
            found.add((text, way))
    return frozenset(found)
