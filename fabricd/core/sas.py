"""SAs: which to initiate, which to terminate, and which pair of subnets is up.

An SA is judged by what it is (its connection, its pair of traffic selectors, the digest in
its name), never by what was done before. Only the initiator of a peering initiates, and only
the initiator collapses duplicates: two that both tidy up tear down each other's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from fabricd.core.action import Action, Disruption, Kind, Tunnel
from fabricd.core.desired import DesiredState
from fabricd.core.state import Child, ChildSa, Conn, IkeSa, IkeState, parse_child_name
from fabricd.core.tunnels import ESTABLISHED, GOING, UP, carries, carrying, installed, pair_of

LINGER: Final = 5
"""Seconds that an edge keeps the old way when it moves to another gateway: the cluster's routes
follow the new one meanwhile."""

REKEY_SLACK: Final = 2
"""Seconds by which charon's two figures may be off."""


def sa_actions(
    conn: Conn | None,
    carried: frozenset[Child],
    tunnels: tuple[Tunnel, ...],
    sas: tuple[IkeSa, ...],
    elsewhere: frozenset[Child],
) -> Iterator[Action]:
    """What has to happen to the SAs of one connection, which is None if nobody asks for it.
    `elsewhere`: as `settled_elsewhere` says, as far as it is about this one.
    """
    if conn is None:
        for sa in sas:
            yield terminate(sa, Disruption.DROP, "no record asks for its connection")
        return
    yield from _unwanted_children(conn, sas)
    if tunnels:
        yield from _as_initiator(conn, tunnels, sas, carried & installed(sas) | elsewhere)


def lingering(desired: DesiredState, ike: IkeState) -> bool:
    """Whether an old way is kept for a while, though another gateway carries the edge by now."""
    return any(installed(ike.of(name)) & pairs for name, pairs in _moved(desired).items())


def settled_elsewhere(desired: DesiredState, ike: IkeState) -> Mapping[str, frozenset[Child]]:
    """By connection, the pairs that belong to another one and are carried there, for a while now:
    so that, if that is with another gateway, the cluster has heard of it.
    """
    moved = _moved(desired)
    if not moved:
        return {}
    there = frozenset(
        pair
        for name, pairs in desired.carried.items()
        for pair, child in carrying(ike.of(name))
        if pair in pairs and ike.age_of(child) >= LINGER
    )
    return {name: pairs & there for name, pairs in moved.items()}


def _moved(desired: DesiredState) -> Mapping[str, frozenset[Child]]:
    """By connection that this node initiates: what is to be carried by another one."""
    return {
        name: pairs
        for name, tunnels in desired.tunnels.items()
        if tunnels and (pairs := desired.conns[name].children - desired.carried[name])
    }


def _unwanted_children(conn: Conn, sas: Iterable[IkeSa]) -> Iterator[Action]:
    for sa in sas:
        for child in sa.children:
            if child.state in UP and pair_of(child) not in conn.children:
                yield _terminate_child(
                    sa, child, Disruption.DROP, "no record asks for its pair of subnets"
                )


def _as_initiator(
    conn: Conn, tunnels: tuple[Tunnel, ...], sas: Iterable[IkeSa], settled: frozenset[Child]
) -> Iterator[Action]:
    """`settled`: pairs that a CHILD_SA carries where they belong. A pair that has moved to another
    gateway stays here until it is settled there.
    """
    established = [sa for sa in sas if sa.state in ESTABLISHED]
    names = {tunnel.child for tunnel in tunnels}
    complete = True
    carried = installed(sas)
    for tunnel in tunnels:
        if not any(_serves(conn, sa, {tunnel.child}) for sa in established):
            complete = False
            target = f"{conn.name} {tunnel.child}".rstrip()
            reason = "the records ask for it, no such SA is installed"
            parsed = parse_child_name(tunnel.child)
            item = replace(tunnel, beside=parsed is not None and parsed.pair in carried)
            yield Action(Kind.CHILD_INITIATE, target, Disruption.NONE, reason, item)
    for sa in established:
        yield from _doubled_children(sa, names)
    if not complete:
        return
    # Everything is up: what is doubled or made from an older set-up can go without loss.
    keeper = max(established, key=lambda sa: (_serves(conn, sa, names), sa.id))
    if _serves(conn, keeper, names) < len(names):
        return
    for sa in established:
        if sa is not keeper and installed([sa]) & conn.children <= settled:
            yield from _retire(conn, sa, f"IKE_SA {keeper.id} does all of its work")
    for child in keeper.children:
        if (
            child.state == "INSTALLED"
            and child.name not in names
            and pair_of(child) in settled & conn.children
        ):
            reason = "made from a set-up that is no longer in force"
            yield _terminate_child(keeper, child, Disruption.REKEY, reason)


def _doubled_children(sa: IkeSa, names: set[str]) -> Iterator[Action]:
    """All but the best of several CHILD_SAs with one of these names: the newest that is not
    narrowed. A rekeying pair is not doubled.
    """
    best: dict[str, tuple[bool, int]] = {}
    for child in sa.children:
        if child.state == "INSTALLED" and child.name in names:
            rank = carries(child), child.id
            best[child.name] = max(best.get(child.name, rank), rank)
    for child in sa.children:
        kept = best.get(child.name)
        if child.state == "INSTALLED" and kept is not None and child.id != kept[1]:
            reason = f"CHILD_SA {kept[1]} does its work"
            yield _terminate_child(sa, child, Disruption.REKEY, reason)


def _retire(conn: Conn, sa: IkeSa, reason: str) -> Iterator[Action]:
    """End an IKE_SA whose work another does: its CHILD_SAs first.

    A peer that is asked to delete a CHILD_SA moves to the other one before it answers; with an
    IKE_SA it does so after that, when nobody receives here any more.
    """
    for child in sa.children:
        if child.state in UP and pair_of(child) in conn.children:
            yield _terminate_child(sa, child, Disruption.REKEY, reason)
    if not any(child.state in UP | GOING for child in sa.children):
        yield terminate(sa, Disruption.REKEY, reason)


def _serves(conn: Conn, sa: IkeSa, names: set[str]) -> int:
    """How many of the named children this IKE_SA carries; an IKE_SA alone is asked for by ""."""
    if names == {""}:
        return int(not sa.rekey or abs(sa.rekey - conn.rekey) <= REKEY_SLACK)
    return len(names & {child.name for child in sa.children if carries(child)})


def rekey_actions(
    desired: DesiredState, ike: IkeState, silent: Mapping[int, str]
) -> Iterator[Action]:
    """What has to happen to CHILD_SAs that are up and carry nothing, by id with the reason. Those
    from which their pair has moved on are left to end.
    """
    names = {tunnel.child for tunnels in desired.tunnels.values() for tunnel in tunnels}
    for sa in ike.sas:
        for child in sa.children:
            if child.id in silent and child.state == "INSTALLED" and child.name in names:
                target = f"{sa.conn} {child.name} #{child.id}"
                reason = silent[child.id]
                yield Action(Kind.CHILD_REKEY, target, Disruption.REKEY, reason, child)


def terminate(sa: IkeSa, disruption: Disruption, reason: str) -> Action:
    """The end of an IKE_SA."""
    return Action(Kind.IKE_TERMINATE, f"{sa.conn} #{sa.id}", disruption, reason, sa)


def _terminate_child(sa: IkeSa, child: ChildSa, disruption: Disruption, reason: str) -> Action:
    target = f"{sa.conn} {child.name} #{child.id}"
    return Action(Kind.CHILD_TERMINATE, target, disruption, reason, child)
