"""How long it takes from a record's change seen to its tunnel installed, once a change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fabricd.core.desired import DesiredState
from fabricd.core.state import Child, Conn, IkeSa, IkeState
from fabricd.core.tunnels import ESTABLISHED, carries


class Convergence:
    """Remembers since when a connection is to be otherwise than it was."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def changed(self, before: DesiredState, now: DesiredState, since: float) -> None:
        """The records ask for another state, and were seen to do so at `since`."""
        for name, conn in now.conns.items():
            if before.conns.get(name) != conn:
                self._since.setdefault(name, since)

    def reached(self, desired: DesiredState, ike: IkeState) -> Iterator[float]:
        """Since when the tunnels were awaited that charon shows now; each is told once."""
        for name, since in list(self._since.items()):
            conn = desired.conns.get(name)
            if conn is None:
                del self._since[name]
            elif _is_up(conn, desired.carried[name], ike.of(name)):
                del self._since[name]
                yield since


def _is_up(conn: Conn, carried: Iterable[Child], sas: Iterable[IkeSa]) -> bool:
    """Whether the connection's tunnel is there, as it is set up now."""
    established = [sa for sa in sas if sa.state in ESTABLISHED]
    names = {child.name for sa in established for child in sa.children if carries(child)}
    return bool(established) and names.issuperset(map(conn.child_name, carried))
