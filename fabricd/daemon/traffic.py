"""Byte and rekey counters of peers that never go backwards, whatever happens to the SAs below.

A CHILD_SA counts from 0 after each rekey, and is gone with all it counted when it ends. Here
the increments are added up, one SA at a time, for as long as the peer exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fabricd.core.ownership import owns_conn
from fabricd.core.state import IkeSa, IkeState
from fabricd.core.tunnels import UP


@dataclass(slots=True)
class Totals:
    """What went through the SAs of one connection."""

    bytes_in: int = 0
    bytes_out: int = 0
    rekeys: int = 0
    last: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By CHILD_SA id: bytes in and out as last seen."""
    homes: dict[int, int] = field(default_factory=dict)
    """By CHILD_SA id: in which IKE_SA it was."""
    names: dict[str, int] = field(default_factory=dict)
    """By child: the newest CHILD_SA seen installed."""
    seen: tuple[IkeSa, ...] = ()
    """What was added up last."""


class Traffic:
    """Totals by connection, fed with each observation of charon."""

    def __init__(self) -> None:
        self._totals: dict[str, Totals] = {}

    def update(self, ike: IkeState) -> None:
        """Take in what charon shows now."""
        for conn, sas in ike.by_conn.items():
            if not owns_conn(conn):
                continue
            totals = self._totals.setdefault(conn, Totals())
            if totals.seen == sas:
                continue
            totals.seen = sas
            seen: dict[int, tuple[int, int]] = {}
            newest: dict[str, int] = {}
            homes: dict[int, int] = {}
            for ike_sa, child in ((sa, child) for sa in sas for child in sa.children):
                homes[child.id] = ike_sa.id
                before = totals.last.get(child.id, (0, 0))
                seen[child.id] = now = (child.bytes_in, child.bytes_out)
                if now[0] < before[0] or now[1] < before[1]:
                    before = 0, 0  # charon started anew, and with it its ids: another SA
                    totals.homes.pop(child.id, None)
                totals.bytes_in += now[0] - before[0]
                totals.bytes_out += now[1] - before[1]
                if child.state in UP:
                    newest[child.name] = max(newest.get(child.name, 0), child.id)
            totals.rekeys += _rekeyed(totals, homes, newest)
            totals.names |= newest
            totals.last, totals.homes = seen, homes

    def of(self, conn: str) -> Totals:
        """The totals of one connection."""
        return self._totals.get(conn, Totals())

    def forget(self, gone: set[str]) -> None:
        """Drop connections that exist no more."""
        for conn in gone:
            self._totals.pop(conn, None)

    @property
    def conns(self) -> frozenset[str]:
        """Connections with a history."""
        return frozenset(self._totals)


def _rekeyed(before: Totals, homes: Mapping[int, int], newest: Mapping[str, int]) -> int:
    """How many SAs have taken over from others: an IKE_SA that is rekeyed hands its CHILD_SAs on as
    they are (RFC 7296, 2.18), and one that is made anew has others. A CHILD_SA has taken over when
    a newer one is where it was.
    """
    moved = {now for child, now in homes.items() if before.homes.get(child, now) != now}
    children = 0
    for name, number in newest.items():
        known = before.names.get(name, number)
        # The older one may be gone by now, or have moved meanwhile with its IKE_SA.
        home = homes.get(known, before.homes.get(known))
        children += number > known and home == homes[number]
    return len(moved) + children
