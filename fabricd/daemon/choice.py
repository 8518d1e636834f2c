"""What an edge remembers of its gateways to find them fit or not: which failed and when, and for
how long another one has been the better one. What follows from that is for `core.topology`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from fabricd.core.fitness import ON_PROBATION, START, preferred, probation, starting, unfit
from fabricd.core.index import Index
from fabricd.core.rib import InForce
from fabricd.core.state import IkeState
from fabricd.core.tunnels import ESTABLISHED, installed
from fabricd.model import Node, Role

REFUSED: Final = 300.0
"""Seconds until a gateway that failed is asked again for more than an IKE_SA."""

SILENT: Final = (300.0, 4800.0)
"""Seconds until a gateway that was silent is given something to carry again: at first, and in the
long run. That it is silent still shows only then, and costs what the edge sends meanwhile."""

NEWS: Final = 3
"""Seconds that an IKE_SA is up when a failure is not one from before it."""


@dataclass(frozen=True, slots=True)
class _Silence:
    until: float
    pause: float


class Choice:
    """Updated with every look at charon, and with every change of records."""

    def __init__(self, edge: str, clock: Callable[[], float], index: Index) -> None:
        """`edge`: this node's name. `clock` gives seconds that only grow. `index`: of all records;
        it is brought up to date.
        """
        self._index = index
        self._edge = edge
        self._clock = clock
        self.unfit: tuple[tuple[str, int], ...] = ()
        """As `Surroundings.unfit`."""
        self.undecided = False
        """Whether the answer will be another one when some time has passed."""
        self._ike: IkeState | None = None
        self._failed: Collection[str] = ()
        self._in_force: InForce | None = None
        self._start: float | None = None
        """Since when no gateway works, if so."""
        self._preferred: dict[str, float] = {}
        """Gateways for which one that works would be left, by name: since when."""
        self._refused: dict[str, float] = {}
        """By connection to a gateway: until when its failure is remembered."""
        self._silences: dict[str, _Silence] = {}
        """By connection, those that were silent."""

    @property
    def refused(self) -> Collection[str]:
        """Connections to gateways that have failed at a CHILD_SA lately, and have had none since:
        whether one is still wanted there or not.
        """
        ike = self._ike or IkeState()
        return {conn for conn in self._refused if not installed(ike.of(conn))}

    @property
    def shunned(self) -> Collection[str]:
        """Connections to which another gateway's is preferred because they were silent."""
        now = self._clock()
        return {conn for conn, silence in self._silences.items() if now < silence.until}

    def saw(self, ike: IkeState, in_force: InForce, failed: Collection[str]) -> None:
        """Charon was looked at; `failed` are the connections whose last attempt failed."""
        self._ike, self._failed = ike, tuple(failed)
        self._judge(in_force)

    def silent(self, conns: Collection[str], in_force: InForce) -> None:
        """Through these connections nothing comes, though charon shows them up."""
        now, before = self._clock(), self._silences
        known = {c: s for c, s in before.items() if c in conns or now < s.until + s.pause}
        for conn in conns:
            if (silence := known.get(conn)) is None:
                known[conn] = _Silence(now + SILENT[0], SILENT[0])
            elif now >= silence.until:
                pause = min(2 * silence.pause, SILENT[1])
                known[conn] = _Silence(now + pause, pause)
        self._silences = known
        if known != before:
            self._judge(in_force)

    def heard(self, in_force: InForce) -> None:
        """Which records are in force."""
        if in_force is not self._in_force:
            self._judge(in_force)

    def _judge(self, in_force: InForce) -> None:
        self._in_force = in_force
        self.unfit, self.undecided = (), False
        node = in_force.nodes.get(self._edge)
        if self._ike is None or node is None or node.role is not Role.EDGE:
            return
        self._index.update(in_force.nodes, in_force.communities)
        gateways = list(self._index.gateways.values())
        if len(gateways) > 1:
            self._compare(gateways, self._ike)

    def _compare(self, gateways: Sequence[Node], ike: IkeState) -> None:
        now, failed = self._clock(), self._failed
        if not starting(gateways, ike):
            self._start = None
        elif self._start is None:
            self._start = now
        if self._start is not None and now - self._start < START:
            self.undecided = bool(failed)
            failed = ()
        remembered = self._remembered(failed, ike, now)
        found = unfit(self._edge, gateways, ike, remembered, self.shunned)
        self._preferred = {
            name: self._preferred.get(name, now)
            for name in preferred(self._edge, gateways, ike, found)
        }
        for name, since in self._preferred.items():
            if now - since < probation(self._edge):
                found.setdefault(name, ON_PROBATION)
            if name in found:
                self.undecided = True
        self.unfit = tuple(sorted(found.items()))

    def _remembered(self, failed: Collection[str], ike: IkeState, now: float) -> Collection[str]:
        """Those that failed, and for a while those that did: where nothing is wanted any more,
        nothing fails. One that has no IKE_SA any more is judged by that alone.
        """
        established = (sa for sa in ike.sas if sa.state in ESTABLISHED)
        standing = {sa.conn for sa in established if ike.age_of(sa) >= NEWS}
        self._refused |= dict.fromkeys(standing.intersection(failed), now + REFUSED)
        self._refused = {
            conn: until for conn, until in self._refused.items() if until > now and conn in standing
        }
        return {*failed, *self._refused}
