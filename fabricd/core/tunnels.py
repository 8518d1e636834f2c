"""What SAs say: which pair of subnets a CHILD_SA is for, whether it carries it, which are ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fabricd.core.state import Child, ChildSa, IkeSa, parse_child_name

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


def installed(sas: Iterable[IkeSa]) -> frozenset[Child]:
    """The pairs that some CHILD_SA of these IKE_SAs carries now."""
    return frozenset(pair for pair, _ in carrying(sas))


def carrying(sas: Iterable[IkeSa]) -> Iterator[tuple[Child, ChildSa]]:
    """The CHILD_SAs of these IKE_SAs that carry something now, each with its pair."""
    for child in (child for sa in sas for child in sa.children):
        if carries(child) and (pair := pair_of(child)) is not None:
            yield pair, child
