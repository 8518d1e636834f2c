"""charon's part of the desired state: a connection a peer, and what this node has to initiate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from fabricd.core.action import Tunnel
from fabricd.core.ownership import conn_name
from fabricd.core.state import Child, Conn
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.core.topology import Peering
from fabricd.model import Node

ANY: Final = "%any"

PATIENCE: Final = 10
WITH_ALTERNATIVES: Final = 3
RESPONDERS_PATIENCE: Final = 30
"""Seconds of silence after which a peer is asked whether it lives: an edge asks a gateway, soon
where another one could take over; who responds would ask a thousand, and has nowhere to go."""

LIFE: Final = 24
"""Hours after which an initiator authenticates anew: so a peer's new certificate is seen, and one
that is revoked or expired refused, whatever else was missed."""


@dataclass(frozen=True, slots=True)
class Connections:
    """All by the connection's name."""

    conns: Mapping[str, Conn] = field(default_factory=dict)
    carried: Mapping[str, frozenset[Child]] = field(default_factory=dict)
    """The pairs that need a CHILD_SA."""
    tunnels: Mapping[str, tuple[Tunnel, ...]] = field(default_factory=dict)
    """What this node has to initiate; empty where the peer does."""


def connections(self: Node | None, found: tuple[Peering, ...], around: Surroundings) -> Connections:
    """What charon should hold for these peerings."""
    conns: dict[str, Conn] = {}
    carried: dict[str, frozenset[Child]] = {}
    tunnels: dict[str, tuple[Tunnel, ...]] = {}
    if self is None or around.identity is None:
        return Connections(conns, carried, tunnels)
    doubted = dict(around.doubted)
    for peering in found:
        if peering.obstacle:
            continue
        occasion = ""
        if peering.initiate:
            peer = peering.peer.name
            occasion = f"{_term(self.name, peer, around.hour)} {doubted.get(peer, '')}"
        conn = _conn(self, peering, around.identity, occasion, _patience(peering))
        conns[conn.name] = conn
        carried[conn.name] = peering.carried
        names = sorted(conn.child_name(child) for child in peering.carried) or [""]
        tunnels[conn.name] = (
            tuple(Tunnel(conn.name, name) for name in names) if peering.initiate else ()
        )
    return Connections(conns, carried, tunnels)


def _patience(peering: Peering) -> int:
    if not peering.initiate:
        return RESPONDERS_PATIENCE
    return WITH_ALTERNATIVES if peering.alternatives else PATIENCE


def _conn(self: Node, peering: Peering, identity: Identity, occasion: str, patience: int) -> Conn:
    """`occasion`: what it is to authenticate anew for."""
    # The responder takes the peer from wherever it comes, its certificate decides: so a peer
    # that moves or sits behind NAT changes nothing here, and needs no record's change.
    endpoint = peering.peer.endpoint if peering.initiate else None
    remote_addrs = (endpoint or ANY,)
    parts = (
        *(self.identity, peering.peer.identity, *remote_addrs),
        *(identity.digest, occasion, str(patience)),
    )
    return Conn(
        name=conn_name(peering.peer.name),
        digest=sha256("\0".join(parts).encode()).hexdigest()[:8],
        children=peering.children,
        turn=None if peering.initiate else 0,
        local_id=self.identity,
        remote_id=peering.peer.identity,
        remote_addrs=remote_addrs,
        dpd=patience,
    )


def _term(name: str, peer: str, hour: int) -> int:
    """Which span of `LIFE` this is: it begins at an hour of the pair's own, not for all at once,
    and at the same hour after every restart.
    """
    offset = int.from_bytes(sha256(f"{name} {peer}".encode()).digest()[:4])
    return (hour + offset) // LIFE
