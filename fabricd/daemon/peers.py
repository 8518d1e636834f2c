"""How each peer is doing. A tunnel is up when what charon shows says so, never because something
was asked for once; and it is not up while nothing comes out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import trio

from fabricd.core.kept import KeptEach
from fabricd.core.ownership import conn_name
from fabricd.core.state import Child, ChildSa, IkeSa
from fabricd.core.topology import Peering
from fabricd.core.tunnels import ESTABLISHED, carries, installed, pair_of
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.trust import Seen

STEP: Final = 64
"""Rows that are made in one go."""

TAKEN_DOWN: Final = "no record asks for it any more: it is being taken down"
KEPT: Final = "no record asks for it any more: it stays until the store answers"
"""Nothing is removed on the word of a source that is away."""

CLOCK_SET: Final = 3.0
"""Seconds by which an age may seem to be wrong: it is rounded down, twice at most."""

_name: Final[attrgetter[str]] = attrgetter("peer.name")

NO_COMPLAINTS: Final[Mapping[Child, str]] = MappingProxyType({})


class _Evidence(NamedTuple):
    """All that decides about one peer."""

    peering: Peering
    conn: str
    """The connection's name."""
    leaving: str
    """Why it is listed though no record asks for it any more, if so."""
    sas: tuple[IkeSa, ...]
    charon_seen: bool
    error: str
    """What is known to be wrong with it, or what the last attempt came to."""
    complaints: Mapping[Child, str]
    """Why pairs are not up, though their CHILD_SAs are (`daemon.health`)."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """How a peer is doing."""

    peering: Peering
    conn: str
    sas: tuple[IkeSa, ...]
    up: bool
    state: str
    """In a word."""
    reason: str
    """Why it is not up."""
    error: str
    pairs: tuple[Child, ...]
    """Those that are to have a CHILD_SA, or have one; sorted."""
    silent: Mapping[Child, str]
    """Those of them that are installed and carry nothing, with the reason."""
    best: IkeSa | None
    """The newest IKE_SA that is established."""


class Peers:
    """Remembers what it thought of each."""

    def __init__(self, reconciler: Reconciler, initiator: Initiator) -> None:
        self._reconciler = reconciler
        self._initiator = initiator
        self._judged = KeptEach[str, _Evidence, PeerState](_judged)
        self._born: dict[str, tuple[int, float]] = {}
        """By connection: which IKE_SA was the newest, and when it was established, Unix seconds."""

    def states(self) -> Iterable[PeerState]:
        """Of all peers, sorted by name."""
        return self._judged.of((each.conn, each) for each in self._evidence()).values()

    def _evidence(self) -> Iterator[_Evidence]:
        picture, trust = self._reconciler.picture, self._reconciler.senses.trust
        ike, failures, errors = picture.ike, picture.failures, self._initiator.errors
        complaints = self._reconciler.senses.health.complaints
        general = "" if picture.desired.ike else "this node's certificate or key can't be used"
        wanted = picture.desired.peerings
        leaving = picture.leaving if ike is not None else ()
        why = TAKEN_DOWN if self._reconciler.rib.synced else KEPT
        reasons = {_name(peering): why for peering in leaving}
        peerings = sorted((*wanted, *leaving), key=_name) if leaving else wanted
        for peering in peerings:
            name = peering.peer.name
            conn = conn_name(name)
            error = (
                trust.objection(conn)
                or failures.get(f"conn.load {conn}")
                or errors.get(conn, "")
                or general
            )
            yield _Evidence(
                peering,
                conn,
                reasons.get(name, ""),
                ike.of(conn) if ike is not None else (),
                ike is not None,
                error,
                complaints.get(conn, NO_COMPLAINTS),
            )

    def brief(self) -> Iterator[dict[str, Any]]:
        """Of each row what `core.essence` looks at."""
        for peer in self.states():
            seen = self._seen(peer)
            certificate = {"serial": seen.about.serial} if seen is not None else None
            yield {**_brief(peer), "certificate": certificate}

    async def rows_slowly(self, now: float) -> list[dict[str, Any]]:
        """The same, while others have their turn."""
        found = []
        for number, row in enumerate(self.rows(now)):
            if number % STEP == 0:
                await trio.lowlevel.checkpoint()
            found.append(row)
        return found

    def rows(self, now: float) -> Iterator[dict[str, Any]]:
        """All peers as they are shown; `now` in Unix seconds."""
        ike = self._reconciler.picture.ike
        later = ike.elapsed if ike is not None else 0
        for peer in self.states():
            yield self._row(peer, now, later)

    def _established(self, conn: str, best: IkeSa | None, now: float, later: int) -> float | None:
        """Charon tells ages in whole seconds: when that was is found out once, and stays so unless
        the clock was set.
        """
        if best is None:
            self._born.pop(conn, None)
            return None
        then = now - best.age - later
        number, known = self._born.get(conn, (0, 0.0))
        if number != best.id or abs(then - known) > CLOCK_SET:
            self._born[conn] = best.id, then
        return self._born[conn][1]

    def _seen(self, peer: PeerState) -> Seen | None:
        return self._reconciler.senses.trust.of(peer.peering.peer.identity)

    def _row(self, peer: PeerState, now: float, later: int) -> dict[str, Any]:
        """`later`: seconds by which its SAs are older than they say."""
        peering, best = peer.peering, peer.best
        age = best.age + later if best else None
        totals = self._reconciler.senses.traffic.of(peer.conn)
        last = best or (peer.sas[-1] if peer.sas else None)
        return {
            **_brief(peer),
            "certificate": _certificate(self._seen(peer)),
            "role": peering.peer.role.value,
            "initiator": peering.initiate,
            "endpoint": peering.peer.endpoint,
            "communities": list(peering.because),
            "ike": last.state if last else "",
            "age": age,
            "established": self._established(peer.conn, best, now, later),
            "bytes_in": totals.bytes_in,
            "bytes_out": totals.bytes_out,
            "rekeys": totals.rekeys,
            "initiations": self._initiator.attempts[peer.conn],
            "last_error": peer.error,
            "children": [_child(pair, peer, later) for pair in peer.pairs],
        }


def _brief(peer: PeerState) -> dict[str, Any]:
    return {
        "name": peer.peering.peer.name,
        "up": peer.up,
        "state": peer.state,
        "reason": peer.reason,
        "remote": peer.best.remote_host if peer.best else "",
    }


def _judged(seen: _Evidence) -> PeerState:
    peering, sas = seen.peering, seen.sas
    established = [sa for sa in sas if sa.state in ESTABLISHED]
    have = installed(sas)
    up, state, reason = _judge(seen, have)
    pairs = tuple(sorted(peering.carried | (peering.children & have)))
    silent = {pair: seen.complaints[pair] for pair in pairs if pair in seen.complaints}
    if up and silent:
        up, state = False, "silent"
        reason = "; ".join(f"{pair.local} - {pair.remote}: {why}" for pair, why in silent.items())
    best = max(established, key=lambda sa: sa.id, default=None)
    return PeerState(peering, seen.conn, sas, up, state, reason, seen.error, pairs, silent, best)


def _judge(seen: _Evidence, have: frozenset[Child]) -> tuple[bool, str, str]:
    """Whether the tunnel is up, its state in a word, and why it is not up."""
    peering, error = seen.peering, seen.error
    established = any(sa.state in ESTABLISHED for sa in seen.sas)
    if seen.leaving:
        return established and peering.carried <= have, "leaving", seen.leaving
    if peering.obstacle:
        return False, "impossible", peering.obstacle
    if not seen.charon_seen:
        return False, "unknown", "charon does not answer"
    if peering.alternatives and not peering.initiate:
        # Which gateway carries an edge is the edge's choice.
        if peering.children <= have:
            return True, "up", ""
        if established and not have and not error:
            return True, "standby", ""
        if not have:
            return False, "waiting", error or "no IKE_SA"
    elif peering.standby:
        reason = "" if established else error or "no IKE_SA"
        return established, "standby", reason
    if peering.carried <= have:
        return True, "up", ""
    narrowed = [
        f"{child.name} was narrowed to {', '.join(sorted(child.local))} - "
        f"{', '.join(sorted(child.remote))}"
        for sa in seen.sas
        for child in sa.children
        if not carries(child) and child.state == "INSTALLED"
    ]
    missing = f"{len(peering.carried - have)} of {len(peering.carried)} CHILD_SAs missing"
    if not peering.initiate:
        missing += f": {peering.peer.name} has to initiate"
    state = "partial" if have else "connecting" if peering.initiate else "waiting"
    return False, state, error or "; ".join(narrowed) or missing


def _certificate(seen: Seen | None) -> dict[str, Any] | None:
    """What the peer has shown last, as far as charon tells."""
    if seen is None:
        return None
    blocks = seen.about.blocks
    return {
        "serial": seen.about.serial,
        "issuer": seen.about.issuer,
        "not_after": seen.about.not_after,
        "subnets": list(blocks.texts()) if blocks is not None else None,
    }


def _child(pair: Child, peer: PeerState, later: int) -> dict[str, Any]:
    children = (child for sa in peer.sas for child in sa.children)
    found: list[ChildSa] = [child for child in children if pair_of(child) == pair]
    best = max(found, key=lambda child: (carries(child), child.id), default=None)
    return {
        "local": pair.local,
        "remote": pair.remote,
        "up": best is not None and carries(best) and pair not in peer.silent,
        "state": best.state if best else "",
        "bytes_in": best.bytes_in if best else 0,
        "bytes_out": best.bytes_out if best else 0,
        "age": best.age + later if best else None,
    }
