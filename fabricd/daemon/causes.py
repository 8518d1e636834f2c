"""Why an action became necessary: a record that changed, or somebody who changed what was right.

The question is answered by looking at the state that was reached last: what was part of it
already and has to be done again has drifted.
"""

from __future__ import annotations

from collections.abc import Collection

from fabricd.core.action import Action, Kind, Tunnel
from fabricd.core.desired import DesiredState
from fabricd.core.plan import REMOVALS
from fabricd.core.state import ChildSa, Conn, IfAddress, IkeSa, Link, Route, Rule, Sysctl

START = "start"
DRIFT = "drift"


def cause(action: Action, settled: DesiredState | None, changed: Collection[str]) -> str:
    """`start`, `drift`, or `record KEY …`.

    `settled` is the desired state that was last reached in full, None before that; `changed`
    are the keys of the records that have changed since.
    """
    if settled is None:
        return START
    if _was_wanted(action, settled) != (action.kind in REMOVALS):
        return DRIFT
    if not changed:
        return "surroundings"
    keys = sorted(changed)
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"record {', '.join(keys[:5])}{more}"


def _was_wanted(action: Action, settled: DesiredState) -> bool:
    """Whether the object was part of the settled state: as it is now for what has to be there,
    at all for what has to go.
    """
    kernel = settled.kernel
    match action.item:
        case Route() as route:
            if action.kind is Kind.ROUTE_REMOVE:
                return (route.table, route.prefix, route.metric) in kernel.routes
            return route in kernel.routes.values()
        case Link() as link:
            return link.name in kernel.links
        case IfAddress() as item:
            return (item.link, item.address) in kernel.addresses
        case Rule() as rule:
            return rule in kernel.rules.values()
        case Sysctl() as item:
            return item.name in kernel.sysctls
        case Conn() as conn:
            if action.kind is Kind.CONN_UNLOAD:
                return conn.name in settled.conns
            return settled.conns.get(conn.name) == conn
        case Tunnel() as tunnel:
            return tunnel in settled.tunnels.get(tunnel.conn, ())
        case IkeSa() as sa:
            return sa.conn in settled.conns
        case ChildSa():
            return True
        case str() as name:
            return name in settled.authorities or name in settled.keys
