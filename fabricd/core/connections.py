"""charon's part of the desired state: a connection a peer, and what this node has to initiate."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from fabricd.core.action import Tunnel
from fabricd.core.kept import KeptEach
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


class Side(NamedTuple):
    """One peering, seen from the node that has to set it up."""

    self: Node
    peering: Peering
    identity: Identity
    term: int
    """Of the connection's life (`LIFE`); of interest to who initiates."""
    doubt: str
    """On what occasion its peer has to authenticate anew, if so."""


class Connection(NamedTuple):
    """What charon should hold for one peering."""

    conn: Conn
    carried: frozenset[Child]
    """The pairs that need a CHILD_SA."""
    tunnels: tuple[Tunnel, ...]
    """What this node has to initiate; empty where the peer does."""


def connections(
    self: Node | None,
    found: Iterable[Peering],
    around: Surroundings,
    kept: KeptEach[str, Side, Connection] | None = None,
) -> Iterable[Connection]:
    """What charon should hold for these peerings. `kept`: as for `topology.peerings`."""
    kept = kept or KeptEach(connection)
    if self is None or around.identity is None:
        return ()
    doubted = dict(around.doubted)
    sides = []
    for peering in found:
        if not peering.obstacle:
            peer, term = peering.peer.name, 0
            if peering.initiate:
                term = _term(self.name, peer, around.hour)
            sides.append((peer, Side(self, peering, around.identity, term, doubted.get(peer, ""))))
    return kept.of(sides).values()


def connection(side: Side) -> Connection:
    """One of them."""
    peering = side.peering
    occasion = f"{side.term} {side.doubt}" if peering.initiate else ""
    conn = _conn(side.self, peering, side.identity, occasion, _patience(peering))
    names = sorted(conn.child_name(child) for child in peering.carried) or [""]
    tunnels = tuple(Tunnel(conn.name, name) for name in names) if peering.initiate else ()
    return Connection(conn, peering.carried, tunnels)


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
