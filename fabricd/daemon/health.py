"""Which tunnels are silent: what `core.health` says of each pair of subnets that has a CHILD_SA.

Fed by each look at charon and by the prober. May not know how a probe is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Final

import structlog

from fabricd.core import health
from fabricd.core.action import Action, Kind, Outcome
from fabricd.core.health import Pulse
from fabricd.core.kept import KeptEach
from fabricd.core.ownership import conn_name, peer_of
from fabricd.core.state import Child, ChildSa, IkeSa, IkeState
from fabricd.core.topology import Peering
from fabricd.core.tunnels import carrying

Pair = tuple[str, Child]
"""A connection's name, and one of its pairs of subnets."""

REASON: Final = "nothing comes through it, though it is installed"

log = structlog.get_logger()


class Health:
    """One pulse a pair, for as long as it has a CHILD_SA."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that only grow."""
        self._clock = clock
        self._pulses: dict[Pair, Pulse] = {}
        self._found = KeptEach[str, _Asked, tuple[_Counted, ...]](_counted)
        self._newest: dict[Pair, int] = {}
        """The CHILD_SA that would be made anew, by its id: where this node is the one to do it."""

    def update(self, ike: IkeState, peerings: Iterable[Peering]) -> None:
        """Charon was looked at."""
        now = self._clock()
        names = ((conn_name(peering.peer.name), peering) for peering in peerings)
        found = self._found.of((conn, (conn, peering, ike.of(conn))) for conn, peering in names)
        pulses: dict[Pair, Pulse] = {}
        self._newest = {}
        for pair, counters, newest in chain.from_iterable(found.values()):
            known = self._pulses.get(pair)
            pulses[pair] = known or health.begun(counters, now)
            if known is not None and (known.counters is not counters or known.unsettled):
                self._note(pulses, pair, health.observed(known, counters, now))
            if newest is not None:
                self._newest[pair] = newest
        self._pulses = pulses

    # ------------------------------------------------------------ what probes tell

    @property
    def pairs(self) -> Iterable[Pair]:
        """Those that have a CHILD_SA."""
        return self._pulses.keys()

    def judged(self, pair: Pair) -> bool:
        """Whether a probe that goes unanswered means something."""
        pulse = self._pulses.get(pair)
        return pulse is not None and pulse.judged

    def suspect(self, pair: Pair) -> bool:
        """Whether it should be probed more often, until it is clear what is wrong."""
        pulse = self._pulses.get(pair)
        return pulse is not None and pulse.judged and pulse.silent_since is None

    def deaf(self, pair: Pair) -> bool:
        """Whether nothing comes out here: the peer should know."""
        pulse = self._pulses.get(pair)
        return pulse is not None and pulse.lost

    def answered(self, pair: Pair) -> bool:
        """A probe was answered. True: that is news."""
        return self._change(pair, lambda pulse: health.answered(pulse, self._clock()))

    def missed(self, pair: Pair, sent: float) -> bool:
        """A probe was not answered, and charon was looked at since it was sent."""
        return self._change(pair, lambda pulse: health.missed(pulse, sent, self._clock()))

    def told(self, pair: Pair, lasting: float) -> bool:
        """The peer says for so many seconds that it gets nothing; 0: that it does."""
        now = self._clock()
        until = now + lasting if lasting else 0.0
        return self._change(pair, lambda pulse: health.told(pulse, until, now))

    def unknown(self, pair: Pair) -> None:
        """Somebody else is asked from now on: whether he answers is not known."""
        if pulse := self._pulses.get(pair):
            self._pulses[pair] = replace(pulse, answered=False, misses=0)

    def _change(self, pair: Pair, change: Callable[[Pulse], Pulse]) -> bool:
        before = self._pulses.get(pair)
        return before is not None and self._note(self._pulses, pair, change(before))

    def _note(self, pulses: dict[Pair, Pulse], pair: Pair, after: Pulse) -> bool:
        before = self._pulses[pair]
        pulses[pair] = after
        if (before.silent_since is None) == (after.silent_since is None):
            return False
        conn, child = pair
        words = {"peer": peer_of(conn), "local": child.local, "remote": child.remote}
        if after.silent_since is not None:
            log.warning("tunnel is silent", reason=health.complaint(after), **words)
        elif before.silent_since is not None:
            seconds = round(self._clock() - before.silent_since)
            log.info("tunnel is alive again", seconds=seconds, attempts=before.repairs, **words)
        return True

    # ------------------------------------------------------------ what follows

    @property
    def complaints(self) -> Mapping[str, Mapping[Child, str]]:
        """By connection, why pairs are not up though their CHILD_SAs are: a line each."""
        found: dict[str, dict[Child, str]] = {}
        for (conn, child), pulse in self._pulses.items():
            if text := health.complaint(pulse):
                found.setdefault(conn, {})[child] = text
        return found

    def doubts(self) -> Iterator[str]:
        """What is odd about tunnels that are not called silent, a line each."""
        now = self._clock()
        doubts = ((pair, health.doubt(pulse, now)) for pair, pulse in self._pulses.items())
        for (conn, child), text in sorted(doubt for doubt in doubts if doubt[1]):
            yield f"{peer_of(conn)}, {child.local} - {child.remote}: {text}"

    @property
    def silent(self) -> frozenset[str]:
        """Connections of which no pair is alive."""
        alive = {conn for (conn, _), pulse in self._pulses.items() if pulse.silent_since is None}
        return frozenset(conn for conn, _ in self._pulses if conn not in alive)

    @property
    def due(self) -> Mapping[int, str]:
        """CHILD_SAs to be made anew now, by id, with the reason."""
        now = self._clock()
        return {
            self._newest[pair]: REASON
            for pair, pulse in self._pulses.items()
            if pair in self._newest and health.due(pulse, now)
        }

    def tried(self, outcomes: Iterable[Outcome]) -> None:
        """Take note of those that are being made anew."""
        tried = {_child(o.action).id for o in outcomes if o.action.kind is Kind.CHILD_REKEY}
        for pair, sa in self._newest.items() if tried else ():
            if sa in tried:
                self._pulses[pair] = health.repaired(self._pulses[pair], self._clock())


def _child(action: Action) -> ChildSa:
    assert isinstance(action.item, ChildSa)
    return action.item


_Asked = tuple[str, Peering, tuple[IkeSa, ...]]
"""A connection's name, what it is for, its IKE_SAs."""

_Counted = tuple[Pair, Mapping[int, tuple[int, int]], int | None]
"""A pair, the counters of its CHILD_SAs as in `Pulse`, and which of them would be made anew."""


def _counted(asked: _Asked) -> tuple[_Counted, ...]:
    conn, peering, sas = asked
    counters: dict[Child, dict[int, tuple[int, int]]] = {}
    for pair, sa in carrying(sas):
        if pair in peering.children:
            counters.setdefault(pair, {})[sa.id] = sa.bytes_in, sa.bytes_out
    return tuple(
        ((conn, pair), numbers, max(numbers) if peering.initiate else None)
        for pair, numbers in counters.items()
    )
