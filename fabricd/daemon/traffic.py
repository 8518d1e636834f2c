"""Byte and rekey counters of peers that never go backwards, whatever happens to the SAs below.

A CHILD_SA counts from 0 after each rekey, and is gone with all it counted when it ends. Here
the increments are added up, one SA at a time, for as long as the peer exists.
"""

from __future__ import annotations

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
            first: set[int] = set()  # those that came with their IKE_SA
            for ike_sa, child in ((sa, child) for sa in sas for child in sa.children):
                if child.age >= ike_sa.age - 1:
                    first.add(child.id)
                before = totals.last.get(child.id, (0, 0))
                seen[child.id] = now = (child.bytes_in, child.bytes_out)
                if now[0] < before[0] or now[1] < before[1]:
                    before = 0, 0  # charon started anew, and with it its ids: another SA
                totals.bytes_in += now[0] - before[0]
                totals.bytes_out += now[1] - before[1]
                if child.state in UP:
                    newest[child.name] = max(newest.get(child.name, 0), child.id)
            for name, number in newest.items():
                known = totals.names.get(name, number)
                totals.rekeys += number > known and known in totals.last and number not in first
            totals.names |= newest
            totals.last = seen

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
