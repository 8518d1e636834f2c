"""A responder's next CHILD_SA gives way to the one that is up."""

from __future__ import annotations

from dataclasses import replace

from fabricd.core.action import Kind
from fabricd.core.desired import DesiredState, desired
from fabricd.core.plan import plan
from fabricd.core.state import ChildSa, Conn, IkeSa, IkeState
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.core.turns import next_turn
from fabricd.model import Node, Prefix, Role

EDGE = Node("edge1", Role.EDGE, (Prefix("2.2.2.0/27"),), "CN=edge1", "10.20.8.4")
GATEWAY = Node("gw", Role.CLOUD, (Prefix("10.233.0.0/16"),), "CN=gw", "10.20.8.9")


def seen_from(name: str) -> DesiredState:
    identity = Identity(frozenset(), "key1", "d")
    around = Surroundings(name, (Prefix("2.0.0.0/8"),), "br-edge", identity=identity)
    return desired({"edge1": EDGE, "gw": GATEWAY}, {}, around)


WANT = seen_from("gw")
CONN = WANT.conns["fabric-edge1"]
[PAIR] = CONN.children


def sa(turn: int, state: str = "INSTALLED") -> IkeSa:
    """An IKE_SA with a CHILD_SA of that turn."""
    name = replace(CONN, turn=turn).child_name(PAIR)
    child = ChildSa(turn, name, state, frozenset({PAIR.local}), frozenset({PAIR.remote}))
    return IkeSa(turn, CONN.name, "ESTABLISHED", initiator=False, children=(child,))


def turn(observed: Conn | None, *sas: IkeSa) -> int | None:
    return next_turn(CONN, observed, sas).turn


def test_who_initiates_has_no_turns() -> None:
    conn = seen_from("edge1").conns["fabric-gw"]
    assert conn.turn is None
    assert next_turn(conn, None, ()) == conn
    assert len(conn.child_name(PAIR).split("-")) == 3


def test_the_next_turn_is_behind_all_that_are_up() -> None:
    assert turn(None) == 0
    assert turn(None, sa(0)) == 1
    assert turn(None, sa(3), sa(4)) == 5
    assert turn(None, sa(3, "DELETING")) == 0


def test_a_turn_that_serves_stays() -> None:
    held = replace(CONN, turn=5)
    assert turn(held) == 5
    assert turn(held, sa(4)) == 5
    assert turn(held, sa(5)) == 6


def plans(held: Conn, *sas: IkeSa, userspace: bool = False) -> list[tuple[Kind, str, int | None]]:
    ike = IkeState(keys=WANT.keys, conns={held.name: held}, sas=sas, userspace_esp=userspace)
    return [
        (action.kind, action.reason, action.item.turn)
        for action in plan(WANT, None, ike)
        if isinstance(action.item, Conn)
    ]


def test_a_tunnel_that_came_up_moves_the_turn_and_that_is_all() -> None:
    assert plans(CONN, sa(0)) == [
        (Kind.CONN_TURN, "a CHILD_SA is up: the next one has to give way to it", 1)
    ]
    assert plans(replace(CONN, turn=1), sa(0)) == []


def test_another_set_up_keeps_the_turn() -> None:
    [(kind, _, number)] = plans(replace(CONN, turn=3, digest="old"), sa(2))
    assert (kind, number) == (Kind.CONN_LOAD, 3)


def test_libipsec_has_no_priorities_and_no_turns() -> None:
    assert plans(CONN, sa(0), userspace=True) == []
