"""Why an action became necessary: a record that changed, or somebody who changed what was right.

The pass before tells: what it wanted already and found in place has drifted when it has to be
done again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from fabricd.core.action import Action, Kind, Part, Tunnel
from fabricd.core.desired import DesiredState
from fabricd.core.plan import REMOVALS
from fabricd.core.pods import ports
from fabricd.core.state import (
    ChildSa,
    Conn,
    Filter,
    IfAddress,
    IkeSa,
    Link,
    Pod,
    Route,
    Rule,
    Sysctl,
)

START: Final = "start"
DRIFT: Final = "drift"
SILENCE: Final = "silence"

SHOWN_KEYS: Final = 5
"""Keys of records in one cause; more are counted."""


def news_of(changed: Collection[str]) -> str:
    """`record KEY, …`, of the keys that have changed; `surroundings` if none has."""
    if not changed:
        return "surroundings"
    keys = sorted(changed)
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"record {', '.join(keys[:SHOWN_KEYS])}{more}"


class Causes:
    """Remembers of each part what the last pass that saw it wanted and had to do."""

    def __init__(self) -> None:
        self._wanted: dict[Part, DesiredState] = {}
        self._pending: dict[str, str] = {}
        self._withheld = False

    def of(self, action: Action, news: str) -> str:
        """`start`, `drift`, `silence`, or what is new since the last pass, as `news_of` says it. An
        action that has to be tried again keeps its cause.
        """
        if action.kind is Kind.CHILD_REKEY:
            return SILENCE
        before = self._wanted.get(action.kind.part)
        if action.name in self._pending:
            return self._pending[action.name]
        if before is None:
            return START
        removal = action.kind in REMOVALS
        if _was_wanted(action, before) != removal and not (removal and self._withheld):
            return DRIFT
        return news

    def passed(
        self,
        desired: DesiredState,
        seen: Iterable[Part],
        acted: dict[str, str],
        *,
        removals: bool = True,
    ) -> None:
        """A pass is over: what it wanted, which parts it saw, its actions with their causes.

        Without `removals` it has left in place what nobody asked for.
        """
        # A part that was away has started anew: what it lost meanwhile, nobody has taken away.
        self._wanted = dict.fromkeys(seen, desired)
        self._pending = acted
        self._withheld = not removals


def _was_wanted(action: Action, before: DesiredState) -> bool:
    """Whether the object was part of that state: as it is now for what has to be there, at all
    for what has to go.
    """
    kernel = before.kernel
    match action.item:
        case Route() as route:
            found = kernel.routes.get(route.key)
            return found is not None if action.kind is Kind.ROUTE_REMOVE else found == route
        case Link() as link:
            return link.name in kernel.links or link.name in ports(kernel.pods)
        case IfAddress() as item:
            return (item.link, item.address) in kernel.addresses
        case Rule() as rule:
            return kernel.rules.get((rule.family, rule.priority)) == rule
        case Sysctl() as item:
            return item.name in kernel.sysctls
        case Pod() as pod:
            return kernel.pods.get(pod.name) == pod
        case Filter() as item:
            return kernel.filter == item
        case Conn() as conn:
            had = before.conns.get(conn.name)
            if action.kind is Kind.CONN_UNLOAD:
                return had is not None
            # Which turn it is follows from what is up: that is nobody's doing.
            return (
                had is not None
                and action.kind is not Kind.CONN_TURN
                and replace(conn, turn=had.turn) == had
            )
        case Tunnel() as tunnel:
            return tunnel in before.tunnels.get(tunnel.conn, ())
        case IkeSa() as sa:
            return sa.conn in before.conns
        case ChildSa():
            return True
        case str() as name:
            return name in before.authorities or name in before.keys
