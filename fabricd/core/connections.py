"""charon's part of the desired state: a connection a peer, and what this node has to initiate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple
from zlib import crc32

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

DOUBTS: Final = 256
"""Different occasions on which a peer is asked to authenticate anew: few enough to find out, from
the connection that charon has, on which one it was made."""

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
    return kept.of((side.peering.peer.name, side) for side in _sides(self, found, around)).values()


def doubts(
    self: Node | None,
    found: Iterable[Peering],
    around: Surroundings,
    there: Mapping[str, Conn],
) -> dict[str, str]:
    """Of the peers on whose account charon's connections were made anew, on what occasion
    (`Side.doubt`). So a daemon that has just started leaves those connections as they are.
    """
    sides = [side for side in _sides(self, found, around) if side.peering.initiate]
    asked = {
        side.peering.peer.name: _doubt_in(side, conn.digest)
        for side in sides
        if (conn := there.get(conn_name(side.peering.peer.name))) is not None
    }
    return {name: text for name, text in asked.items() if text}


def _sides(self: Node | None, found: Iterable[Peering], around: Surroundings) -> Iterator[Side]:
    if self is None or around.identity is None:
        return
    doubted = dict(around.doubted)
    for peering in found:
        if not peering.obstacle:
            peer = peering.peer.name
            term = _term(self.name, peer, around.hour) if peering.initiate else 0
            yield Side(self, peering, around.identity, term, doubted.get(peer, ""))


def connection(side: Side) -> Connection:
    """One of them."""
    peering = side.peering
    conn = _conn(side)
    names = sorted(conn.child_name(child) for child in peering.carried) or [""]
    tunnels = tuple(Tunnel(conn.name, name) for name in names) if peering.initiate else ()
    return Connection(conn, peering.carried, tunnels)


def _patience(peering: Peering) -> int:
    if not peering.initiate:
        return RESPONDERS_PATIENCE
    return WITH_ALTERNATIVES if peering.alternatives else PATIENCE


def doubt(text: str) -> str:
    """As `Side.doubt`: another one, most likely, for another text."""
    return str(crc32(text.encode()) % DOUBTS)


def _doubt_in(side: Side, digest: str) -> str:
    """On which occasion a connection with this digest was made; "" if on none, or if it is set up
    otherwise.
    """
    if _digest(side._replace(doubt="")) == digest:
        return ""
    texts = map(str, range(DOUBTS))
    return next((d for d in texts if _digest(side._replace(doubt=d)) == digest), "")


def _occasion(side: Side) -> str:
    """What it is to authenticate anew for."""
    return f"{side.term} {side.doubt}" if side.peering.initiate else ""


def _digest(side: Side) -> str:
    """Stands for everything about a connection but its children."""
    parts = (
        *(side.self.identity, side.peering.peer.identity, *_remote_addrs(side.peering)),
        *(side.identity.digest, _occasion(side), str(_patience(side.peering))),
    )
    return sha256("\0".join(parts).encode()).hexdigest()[:8]


def _remote_addrs(peering: Peering) -> tuple[str, ...]:
    # The responder takes the peer from wherever it comes, its certificate decides: so a peer
    # that moves or sits behind NAT changes nothing here, and needs no record's change.
    endpoint = peering.peer.endpoint if peering.initiate else None
    return (endpoint or ANY,)


def _conn(side: Side) -> Conn:
    peering = side.peering
    return Conn(
        name=conn_name(peering.peer.name),
        digest=_digest(side),
        children=peering.children,
        turn=None if peering.initiate else 0,
        local_id=side.self.identity,
        remote_id=peering.peer.identity,
        remote_addrs=_remote_addrs(peering),
        dpd=_patience(peering),
    )


def _term(name: str, peer: str, hour: int) -> int:
    """Which span of `LIFE` this is: it begins at an hour of the pair's own, not for all at once,
    and at the same hour after every restart.
    """
    offset = int.from_bytes(sha256(f"{name} {peer}".encode()).digest()[:4])
    return (hour + offset) // LIFE
