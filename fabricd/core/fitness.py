"""How fit this edge finds its gateways: from what charon shows and what became of attempts.

A gateway that fails is left at once for one that stands by. Back at work it is on probation: the
edge returns when it has lasted, each edge after a time of its own.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from hashlib import sha256
from typing import Final

from fabricd.core.ownership import conn_name
from fabricd.core.state import IkeState
from fabricd.core.tunnels import ESTABLISHED, installed, sas_by_conn
from fabricd.model import Node

PROBATION: Final = 30
"""Seconds that an IKE_SA has to last at least before an edge comes back for it, and at most twice
as many."""

START: Final = 5
"""Seconds in which gateways come up in no particular order."""

ON_PROBATION: Final = 1
UNKNOWN: Final = 2
"""It has no IKE_SA, and nobody knows why."""
FAILED: Final = 3
"""It carries nothing, and the last attempt failed: at an IKE_SA, or at a CHILD_SA in it."""


def unfit(
    edge: str, gateways: Iterable[Node], ike: IkeState, failed: Container[str]
) -> tuple[tuple[str, int], ...]:
    """Those that are not fit, sorted by name. `failed`: connections whose last attempt failed.

    At the start, one that has not been tried is as good as one that has come up: nobody is chosen
    for having been quick.
    """
    by_conn = sas_by_conn(ike)
    found: dict[str, int] = {}
    start = True
    for gateway in gateways:
        conn = conn_name(gateway.name)
        sas = [sa for sa in by_conn.get(conn, []) if sa.state in ESTABLISHED]
        age = max((sa.age for sa in sas), default=0)
        carries = bool(installed(sas))
        start = start and not carries and age < START
        if conn in failed and not carries:
            found[gateway.name] = FAILED
        elif not sas:
            found[gateway.name] = UNKNOWN
        elif not carries and age < probation(edge):
            found[gateway.name] = ON_PROBATION
    if start:
        found = {name: how for name, how in found.items() if how == FAILED}
    return tuple(sorted(found.items()))


def probation(edge: str) -> int:
    """Seconds, of this edge."""
    return PROBATION + sha256(edge.encode()).digest()[0] % PROBATION
