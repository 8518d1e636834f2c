"""Who peers with whom, who initiates, and which gateway carries an edge.

One function of the records in force, seen from one node; both ends of a peering compute the
same answer from the same records, so nothing needs to be negotiated or elected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from fabricd.core.index import Index
from fabricd.core.kept import KeptEach
from fabricd.core.state import Child
from fabricd.model import Node, Prefix, Role, family

MAX_PAIRS: Final = 1024
"""Pairs of subnets between two nodes: each is a child of one connection, and charon takes no
message over 512 KB (VICI_MESSAGE_SIZE_MAX)."""

DRAINED: Final = 2.5
"""How unfit a drained gateway is: more than one on probation, less than one that is away
(`core.fitness`)."""


@dataclass(frozen=True, slots=True)
class Peering:
    """What joins this node to one peer."""

    peer: Node
    because: tuple[str, ...]
    """The communities that two edges share, sorted; empty between an edge and a gateway."""
    initiate: bool
    """Whether this node initiates; the other side only responds."""
    children: frozenset[Child]
    """Every pair of subnets that may pass, seen from this node."""
    carried: frozenset[Child]
    """Those that need a CHILD_SA now. The rest pass through another gateway: here an IKE_SA
    stands by."""
    obstacle: str = ""
    """Why no tunnel is possible, if so."""
    alternatives: bool = False
    """Other gateways could carry some of it too."""

    @property
    def standby(self) -> bool:
        """Another gateway carries everything that this peering could."""
        return bool(self.children) and not self.carried


class Pair(NamedTuple):
    """All that decides about one peering."""

    self: Node
    peer: Node
    shared: frozenset[str]
    """Communities."""
    gateways: tuple[Node, ...]
    unfit: Mapping[str, int]


def peerings(
    self: Node,
    index: Index,
    unfit: Mapping[str, int] = MappingProxyType({}),
    kept: KeptEach[str, Pair, Peering] | None = None,
) -> tuple[Peering, ...]:
    """All peerings of `self`, sorted by the peer's name. `unfit`: as for `choose_gateway`; `kept`:
    what was found the last time, by the peer's name, which is brought up to date.
    """
    kept = kept or KeptEach(peering)
    tokens, gateways = index.tokens(self), tuple(index.gateways.values())
    pairs = (
        (peer.name, Pair(self, peer, tokens & index.tokens(peer), gateways, unfit))
        for peer in sorted(index.peers(self), key=attrgetter("name"))
    )
    return tuple(kept.of(pairs).values())


def peering(pair: Pair) -> Peering:
    """What joins the two."""
    self, peer, shared, gateways, unfit = pair
    children = frozenset(
        Child(local, remote)
        for local in self.subnets
        for remote in peer.subnets
        if family(local) == family(remote)
    )
    carried = children
    if peer.role is Role.CLOUD:
        carried = frozenset(
            c for c in children if choose_gateway(self.name, c.remote, gateways, unfit) == peer.name
        )
    elif self.role is Role.CLOUD:
        carried = frozenset(
            c for c in children if choose_gateway(peer.name, c.local, gateways) == self.name
        )
    initiate = initiates(self, peer)
    target = peer if initiate else self
    obstacle = ""
    first, second = sorted((self.name, peer.name))  # the same words at both ends
    if len(children) > MAX_PAIRS:
        obstacle = f"{len(children)} pairs of subnets: charon takes at most {MAX_PAIRS} a peer"
    elif not children:
        obstacle = f"{first} and {second} have no address family in common"
    elif target.endpoint is None:
        obstacle = (
            f"neither {first} nor {second} has an endpoint"
            if self.endpoint is peer.endpoint is None
            else f"{target.name} has no endpoint to be reached at"
        )
    because = tuple(sorted(shared)) if self.role is peer.role else ()
    gateway = peer if peer.role is Role.CLOUD else self
    alternatives = self.role is not peer.role and any(
        other.name != gateway.name and not set(other.subnets).isdisjoint(gateway.subnets)
        for other in gateways
    )
    return Peering(peer, because, initiate, children, carried, obstacle, alternatives)


def initiates(self: Node, peer: Node) -> bool:
    """Whether `self` initiates: exactly one of two peers does.

    The edge, towards a gateway; between edges the lower name, unless only one of the two has
    an endpoint, then the one without.
    """
    if self.role is not peer.role:
        return self.role is Role.EDGE
    if (self.endpoint is None) != (peer.endpoint is None):
        return self.endpoint is None
    return self.name < peer.name


def choose_gateway(
    edge: str,
    subnet: Prefix,
    gateways: Iterable[Node],
    unfit: Mapping[str, int] = MappingProxyType({}),
) -> str | None:
    """The gateway through which `edge` reaches `subnet`, or None if no gateway has it.

    `unfit`: gateways that the edge finds less fit than others at the moment, and how much (0: not
    at all). Only the edge knows; for everybody else the answer is where the edge belongs. One that
    is drained comes after those that work, and before those that don't.
    """
    having = list(gateways)
    drained = {gateway.name for gateway in having if gateway.drained}
    return min(
        rank_gateways(edge, subnet, having),
        key=lambda name: unfit.get(name, 0) + (DRAINED if name in drained else 0),
        default=None,
    )


def rank_gateways(edge: str, subnet: Prefix, gateways: Iterable[Node]) -> list[str]:
    """The gateways that have `subnet`, from the one where `edge` belongs to its last resort.

    Those that can be reached before those without an endpoint, then by priority; among equal ones
    by rendezvous hash (Thaler and Ravishankar, 1998), so that edges divide among them and a gateway
    more or less moves only its own share.
    """
    having = [gateway for gateway in gateways if subnet in gateway.subnets]
    having.sort(
        key=lambda g: (g.endpoint is not None, g.priority, _weight(edge, g.name)), reverse=True
    )
    return [gateway.name for gateway in having]


def _weight(edge: str, gateway: str) -> bytes:
    return sha256(f"{edge} {gateway}".encode()).digest()
