"""How fit this edge finds its gateways: from what charon shows and what became of attempts.

A gateway that fails is left at once for one that stands by. Back at work it is on probation: the
edge returns when it has lasted, each edge after a time of its own. So it is with every move from a
gateway that works to a better one, whatever made it the better one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from hashlib import sha256
from typing import Final

from fabricd.core.ownership import conn_name
from fabricd.core.state import IkeState
from fabricd.core.topology import choose_gateway
from fabricd.core.tunnels import ESTABLISHED, installed
from fabricd.model import Node, Prefix

PROBATION: Final = 30
"""Seconds that an IKE_SA has to last at least before an edge comes back for it, and at most twice
as many; and that a gateway has to be the better one."""

START: Final = 5
"""Seconds in which gateways come up in no particular order, and in which one that refuses may just
not have heard of the edge."""

ON_PROBATION: Final = 1
YOUNGER: Final = 2
"""On probation too, and another one is through more of it."""
UNKNOWN: Final = 3
"""It has no IKE_SA, and nobody knows why."""
FAILED: Final = 4
"""It carries nothing, and the last attempt failed: at an IKE_SA, or at a CHILD_SA in it. Or it is
silent: what it carries does not arrive (`core.health`)."""


def starting(gateways: Iterable[Node], ike: IkeState) -> bool:
    """Whether no gateway carries anything, and none stands by for longer than `START`."""
    sas = [sa for gateway in gateways for sa in ike.of(conn_name(gateway.name))]
    lasting = any(sa.state in ESTABLISHED and ike.age_of(sa) >= START for sa in sas)
    return not lasting and not installed(sas)


def unfit(
    edge: str,
    gateways: Iterable[Node],
    ike: IkeState,
    failed: Container[str],
    silent: Container[str] = (),
) -> dict[str, int]:
    """Those that are not fit, by name. `failed`: connections whose last attempt failed; `silent`:
    those through which nothing comes, or came while they carried something.

    At the start, one that has not been tried is as good as one that has come up: nobody is chosen
    for having been quick.
    """
    gateways = list(gateways)
    start = starting(gateways, ike)
    found: dict[str, int] = {}
    ages: dict[str, int] = {}
    for gateway in gateways:
        conn = conn_name(gateway.name)
        sas = [sa for sa in ike.of(conn) if sa.state in ESTABLISHED]
        carries = bool(installed(sas))
        if conn in silent or (conn in failed and not carries):
            found[gateway.name] = FAILED
        elif start:
            continue
        elif not sas:
            found[gateway.name] = UNKNOWN
        elif not carries:
            age = max(map(ike.age_of, sas))
            if age < probation(edge):
                ages[gateway.name] = age
    eldest = max(ages.values(), default=0)
    for name, age in ages.items():
        found[name] = ON_PROBATION if eldest - age < START else YOUNGER
    return found


def preferred(
    edge: str, gateways: Iterable[Node], ike: IkeState, found: Mapping[str, int]
) -> frozenset[str]:
    """Gateways for which this edge would leave one that works. `found`: what `unfit` says; here
    probation does not count.
    """
    gateways = list(gateways)
    serious = {name: how for name, how in found.items() if how > YOUNGER}
    working: dict[Prefix, set[str]] = {}
    for gateway in gateways:
        for pair in installed(ike.of(conn_name(gateway.name))):
            if not gateway.drained and found.get(gateway.name) != FAILED:
                working.setdefault(pair.remote, set()).add(gateway.name)
    best = {subnet: choose_gateway(edge, subnet, gateways, serious) for subnet in working}
    return frozenset(
        name for subnet, name in best.items() if name is not None and name not in working[subnet]
    )


def probation(edge: str) -> int:
    """Seconds, of this edge."""
    return PROBATION + sha256(edge.encode()).digest()[0] % PROBATION
