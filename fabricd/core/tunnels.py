"""What SAs say: which pair of subnets a CHILD_SA is for, whether it carries it, which are ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fabricd.core.ownership import owns_conn
from fabricd.core.state import Child, ChildSa, IkeSa, IkeState, parse_child_name

UP: Final = frozenset({"INSTALLED", "UPDATING", "REKEYING"})
"""States of a CHILD_SA that carries traffic (child_sa_state_t of strongSwan). REKEYED is the
old one of two while it lasts."""

GOING: Final = frozenset({"DELETING", "DELETED", "REKEYED"})
"""States of a CHILD_SA that the peer has been told to delete, or will be."""

ESTABLISHED: Final = frozenset({"ESTABLISHED", "REKEYING"})
"""States of an IKE_SA that can carry CHILD_SAs (ike_sa_state_t of strongSwan)."""


def pair_of(sa: ChildSa) -> Child | None:
    """The pair of subnets that a CHILD_SA was made for, by its name; None if not by us."""
    parsed = parse_child_name(sa.name)
    return parsed.pair if parsed else None


def carries(sa: ChildSa) -> bool:
    """Whether a CHILD_SA carries all of its pair now: it is up, and the peer has not narrowed
    its traffic selectors (RFC 7296, 2.9).
    """
    pair = pair_of(sa)
    return (
        pair is not None
        and sa.state in UP
        and sa.local == {pair.local}
        and sa.remote == {pair.remote}
    )


def installed(sas: Iterable[IkeSa], age: int = 0) -> frozenset[Child]:
    """The pairs that some CHILD_SA of these IKE_SAs carries now, and has for `age` seconds."""
    return frozenset(
        pair
        for sa in sas
        for child in sa.children
        if child.age >= age and carries(child) and (pair := pair_of(child)) is not None
    )


def sas_by_conn(ike: IkeState) -> dict[str, list[IkeSa]]:
    """Our IKE_SAs by connection, newest last."""
    result: dict[str, list[IkeSa]] = {}
    for sa in sorted(ike.sas, key=lambda sa: sa.id):
        if owns_conn(sa.conn):
            result.setdefault(sa.conn, []).append(sa)
    return result
