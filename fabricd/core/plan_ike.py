"""charon's part of a plan: what differs, one connection at a time, in no order yet.

A connection and its SAs are judged by themselves, but for pairs of subnets that have moved from one
to another (`core.sas`). So what is found for a connection holds until something about it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from fabricd.core.action import UNWANTED, WANTED, Action, Kind, Tunnel, act
from fabricd.core.desired import DesiredState
from fabricd.core.kept import Kept, KeptEach
from fabricd.core.ownership import owns_authority, owns_conn
from fabricd.core.sas import sa_actions, settled_elsewhere
from fabricd.core.state import Child, Conn, IkeSa, IkeState
from fabricd.core.turns import next_turn

Pairs = frozenset[Child]
NO_PAIRS: Pairs = frozenset()


class _Matter(NamedTuple):
    """All that decides about one connection."""

    name: str
    wanted: Conn | None
    found: Conn | None
    carried: Pairs
    """The pairs that need a CHILD_SA."""
    tunnels: tuple[Tunnel, ...]
    """What this node has to initiate."""
    sas: tuple[IkeSa, ...]
    elsewhere: Pairs
    """As `settled_elsewhere` says."""
    turns: bool
    """Whether its CHILD_SAs take turns (`core.turns`)."""


class IkePlanner:
    """Remembers what it found for each connection."""

    def __init__(self) -> None:
        self._found = KeptEach[str, _Matter, tuple[Action, ...]](_of_connection)
        self._all = Kept(self._made)

    def actions(self, desired: DesiredState, ike: IkeState) -> tuple[Action, ...]:
        """What leads from one to the other."""
        return self._all.of(desired, ike)

    def _made(self, desired: DesiredState, ike: IkeState) -> tuple[Action, ...]:
        matters = ((matter.name, matter) for matter in _matters(desired, ike))
        return (
            *_credentials(desired, ike),
            *chain.from_iterable(self._found.of(matters).values()),
        )


def _matters(desired: DesiredState, ike: IkeState) -> Iterator[_Matter]:
    elsewhere, by_conn = settled_elsewhere(desired, ike), ike.by_conn
    for name in {**desired.conns, **ike.conns, **by_conn}:
        if owns_conn(name):
            yield _Matter(
                name,
                desired.conns.get(name),
                ike.conns.get(name),
                desired.carried.get(name, NO_PAIRS),
                desired.tunnels.get(name, ()),
                by_conn.get(name, ()),
                elsewhere.get(name, NO_PAIRS),
                not ike.userspace_esp,
            )


def _of_connection(matter: _Matter) -> tuple[Action, ...]:
    _, wanted, _, carried, tunnels, sas, elsewhere, _ = matter
    return (*_connection(matter), *sa_actions(wanted, carried, tunnels, sas, elsewhere))


def _connection(matter: _Matter) -> Iterator[Action]:
    conn, found = matter.wanted, matter.found
    if conn is None:
        if found is not None:
            yield act(Kind.CONN_UNLOAD, matter.name, found, UNWANTED)
        return
    if matter.turns:
        conn = next_turn(conn, found, matter.sas)
    if found is None:
        yield act(Kind.CONN_LOAD, matter.name, conn, f"{WANTED}, it is missing")
    elif found != conn and replace(found, turn=conn.turn) == conn:
        reason = "a CHILD_SA is up: the next one has to give way to it"
        yield act(Kind.CONN_TURN, matter.name, conn, reason)
    elif found != conn:
        what = "its children differ" if found.digest == conn.digest else "it is set up otherwise"
        yield act(Kind.CONN_LOAD, matter.name, conn, f"{WANTED}, {what}")


def _credentials(desired: DesiredState, ike: IkeState) -> Iterator[Action]:
    for name in sorted(desired.authorities - ike.authorities):
        yield act(Kind.AUTHORITY_LOAD, name, name, f"{WANTED}, charon does not have it")
    for name in sorted(filter(owns_authority, ike.authorities - desired.authorities)):
        yield act(Kind.AUTHORITY_UNLOAD, name, name, "no CA file holds it (any more)")
    for issuer, number in desired.crls.items():
        found = ike.crls.get(issuer)
        if found is None or found < number:
            what = "charon has none" if found is None else f"charon has number {found}"
            yield act(Kind.CRL_LOAD, issuer, issuer, f"revocation list number {number}, {what}")
    for key in sorted(desired.keys - ike.keys):
        yield act(Kind.KEY_LOAD, key, key, f"{WANTED}, charon does not have it")
    for key in sorted(desired.retired_keys & ike.keys):
        yield act(Kind.KEY_UNLOAD, key, key, "it belongs to an earlier certificate")
