"""SA situations, and what is done about each: a table."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from fabricd.core.action import Disruption
from fabricd.core.desired import DesiredState, desired
from fabricd.core.plan_ike import IkePlanner
from fabricd.core.sas import lingering
from fabricd.core.state import Child, ChildSa, IkeSa, IkeState, parse_child_name
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.core.tunnels import carries, installed, pair_of
from fabricd.model import Node, Prefix, Role

ONE, TWO = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")
CLOUD = Prefix("10.233.0.0/16")

EDGE = Node("edge1", Role.EDGE, (ONE, TWO), "CN=edge1", "10.20.8.4")
GW1 = Node("gw1", Role.CLOUD, (CLOUD,), "CN=gw1", "10.20.8.8", priority=50)
GW2 = Node("gw2", Role.CLOUD, (CLOUD,), "CN=gw2", "10.20.8.9")


def seen_from(name: str, *nodes: Node) -> DesiredState:
    identity = Identity(frozenset({"fabric-ca-1"}), "key1", "d")
    around = Surroundings(name, (Prefix("2.0.0.0/8"),), "br-edge", identity=identity)
    return desired({node.name: node for node in nodes}, {}, around)


WANT = seen_from("edge1", EDGE, GW1)
CONN = WANT.conns["fabric-gw1"]
A, B = (Child(subnet, CLOUD) for subnet in (ONE, TWO))
NAME_A, NAME_B = CONN.child_name(A), CONN.child_name(B)
OLD_A = f"{ONE}-{CLOUD}-0ld"
STRAY = f"{ONE}-7.7.7.0/24-{CONN.digest}"


def child(number: int, name: str, state: str = "INSTALLED", *, narrowed: bool = False) -> ChildSa:
    parsed = parse_child_name(name)
    local, remote = (parsed[0].local, parsed[0].remote) if parsed else ("?", "?")
    remotes = frozenset({"10.233.7.0/24" if narrowed else remote})
    return ChildSa(number, name, state, frozenset({local}), remotes)


def ike(
    number: int, *children: ChildSa, state: str = "ESTABLISHED", conn: str = "fabric-gw1"
) -> IkeSa:
    return IkeSa(number, conn, state, initiator=True, children=children)


def done(want: DesiredState, *sas: IkeSa) -> list[str]:
    there = IkeState(want.authorities, want.keys, conns=want.conns, sas=sas, userspace_esp=True)
    actions = IkePlanner().actions(want, there)
    return [f"{a.kind.value.split('.')[1]} {_short(a.target)} {a.disruption}" for a in actions]


def _short(target: str) -> str:
    for name, letter in ((NAME_A, "A"), (NAME_B, "B"), (OLD_A, "old-A"), (STRAY, "stray")):
        target = target.replace(name, letter)
    return target.removeprefix("fabric-gw1 ")


UP = child(11, NAME_A), child(12, NAME_B)

SITUATIONS = {
    "nothing there": ([], ["initiate A none", "initiate B none"]),
    "all there": ([ike(1, *UP)], []),
    "IKE_SA up is not tunnel up": ([ike(1)], ["initiate A none", "initiate B none"]),
    "one child missing": ([ike(1, child(11, NAME_A))], ["initiate B none"]),
    "rekeying: the old and the new": (
        [ike(1, child(11, NAME_A, "REKEYING"), child(13, NAME_A), child(12, NAME_B))],
        [],
    ),
    "rekeyed: the old one is on its way out": (
        [ike(1, child(11, NAME_A, "REKEYED"), child(13, NAME_A), child(12, NAME_B))],
        [],
    ),
    "only a rekeyed one is left": (
        [ike(1, child(11, NAME_A, "REKEYED"), child(12, NAME_B))],
        ["initiate A none"],
    ),
    "an IKE_SA that rekeys": ([ike(1, *UP, state="REKEYING")], []),
    "an IKE_SA that is not established yet": (
        [ike(1, state="CONNECTING")],
        ["initiate A none", "initiate B none"],
    ),
    "an IKE_SA on its way out": (
        [ike(1, *UP, state="DELETING")],
        ["initiate A none", "initiate B none"],
    ),
    "a child that is being installed": (
        [ike(1, child(11, NAME_A, "INSTALLING"), child(12, NAME_B))],
        ["initiate A none"],
    ),
    "narrowed by the peer": (
        [ike(1, child(11, NAME_A, narrowed=True), child(12, NAME_B))],
        ["initiate A none"],
    ),
    "doubled children: the newest stays": (
        [ike(1, *UP, child(13, NAME_A))],
        ["terminate A #11 rekey"],
    ),
    "doubled children: the one that is not narrowed stays": (
        [ike(1, *UP, child(13, NAME_A, narrowed=True))],
        ["terminate A #13 rekey"],
    ),
    "doubled IKE_SAs: the newest complete one stays": (
        [ike(1, *UP), ike(2, child(21, NAME_A), child(22, NAME_B))],
        ["terminate A #11 rekey", "terminate B #12 rekey"],
    ),
    "doubled IKE_SAs: the older one goes when its children have gone": (
        [ike(1), ike(2, child(21, NAME_A), child(22, NAME_B))],
        ["terminate #1 rekey"],
    ),
    "doubled IKE_SAs: the older one waits for its last child": (
        [ike(1, child(11, NAME_A, "DELETING")), ike(2, child(21, NAME_A), child(22, NAME_B))],
        [],
    ),
    "doubled IKE_SAs: a stray child goes for a reason of its own": (
        [ike(1, child(13, STRAY)), ike(2, child(21, NAME_A), child(22, NAME_B))],
        ["terminate stray #13 drop"],
    ),
    "doubled IKE_SAs: the complete one stays, though older": (
        [ike(1, *UP), ike(2, child(21, NAME_A))],
        ["terminate A #21 rekey"],
    ),
    "children on two IKE_SAs: each is needed": (
        [ike(1, child(11, NAME_A)), ike(2, child(22, NAME_B))],
        [],
    ),
    "an older set-up, and the new one not there": (
        [ike(1, child(11, OLD_A), child(12, NAME_B))],
        ["initiate A none"],
    ),
    "an older set-up, and the new one there": (
        [ike(1, *UP, child(13, OLD_A))],
        ["terminate old-A #13 rekey"],
    ),
    "an older set-up on an IKE_SA of its own": (
        [ike(1, child(13, OLD_A)), ike(2, *UP)],
        ["terminate old-A #13 rekey"],
    ),
    "a pair that no record asks for": (
        [ike(1, *UP, child(13, STRAY))],
        ["terminate stray #13 drop"],
    ),
    "a pair that no record asks for, on its way out": (
        [ike(1, *UP, child(13, STRAY, "DELETING"))],
        [],
    ),
    "a name that is not of our making": (
        [ike(1, *UP, child(13, "net"))],
        ["terminate net #13 drop"],
    ),
    "a connection that no record asks for": (
        [ike(1, *UP), ike(9, child(91, NAME_A), conn="fabric-gone")],
        ["terminate fabric-gone #9 drop"],
    ),
    "somebody else's": ([ike(1, *UP), ike(9, child(91, "net"), conn="office")], []),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_initiator(situation: str) -> None:
    sas, expected = SITUATIONS[situation]
    assert done(WANT, *sas) == expected


@pytest.mark.parametrize(
    ("sas", "expected"),
    [
        ([], []),
        ([ike(1, child(11, f"{CLOUD}-{ONE}-x"), conn="fabric-edge1")], []),
        # Doubled: the initiator's to tidy up.
        ([ike(n, child(n + 10, f"{CLOUD}-{ONE}-x"), conn="fabric-edge1") for n in (1, 2)], []),
        (
            [ike(1, child(11, f"{CLOUD}-9.9.9.0/24-x"), conn="fabric-edge1")],
            [f"terminate fabric-edge1 {CLOUD}-9.9.9.0/24-x #11 drop"],
        ),
        ([ike(1, conn="fabric-gone")], ["terminate fabric-gone #1 drop"]),
    ],
)
def test_the_responder_only_refuses(sas: list[IkeSa], expected: list[str]) -> None:
    assert done(seen_from("gw1", EDGE, GW1), *sas) == expected


# ---------------------------------------------------------------- two gateways


BOTH = seen_from("edge1", EDGE, GW1, GW2)
NEW_A, NEW_B = (BOTH.conns["fabric-gw2"].child_name(pair) for pair in (A, B))


def old(number: int, name: str) -> ChildSa:
    """A CHILD_SA of which the cluster has heard."""
    return replace(child(number, name), age=5)


THROUGH_GW2 = ike(2, old(21, NEW_A), old(22, NEW_B), conn="fabric-gw2")


def test_a_gateway_that_stands_by_needs_an_ike_sa_alone() -> None:
    assert done(BOTH, THROUGH_GW2) == ["initiate fabric-gw1 none"]
    assert done(BOTH, THROUGH_GW2, ike(1)) == []


def test_a_gateway_that_stands_by_authenticates_anew_too() -> None:
    conn = BOTH.conns["fabric-gw1"]
    fresh, stale = (
        replace(ike(number), rekey=conn.rekey + off) for number, off in ((3, 1), (1, 9))
    )
    assert done(BOTH, THROUGH_GW2, stale) == ["initiate fabric-gw1 none"]
    assert done(BOTH, THROUGH_GW2, stale, fresh) == ["terminate #1 rekey"]
    assert done(BOTH, THROUGH_GW2, fresh) == []


def test_pairs_move_to_another_gateway_when_they_are_up_there() -> None:
    before = ike(1, *UP)
    waiting = done(BOTH, before)
    assert [step.split()[0] for step in waiting] == ["initiate", "initiate"]
    half = ike(2, old(21, NEW_A), conn="fabric-gw2")
    assert done(BOTH, before, half) == [
        "terminate A #11 rekey",
        f"initiate fabric-gw2 {NEW_B} none",
    ]
    fresh = ike(2, child(21, NEW_A), child(22, NEW_B), conn="fabric-gw2")
    assert done(BOTH, before, fresh) == [], "the cluster's routes still lead to gw1"
    assert done(BOTH, before, THROUGH_GW2) == ["terminate A #11 rekey", "terminate B #12 rekey"]


def test_the_old_way_lingers_until_it_goes() -> None:
    fresh = ike(2, child(21, NEW_A), child(22, NEW_B), conn="fabric-gw2")
    assert lingering(BOTH, IkeState(sas=(ike(1, *UP), fresh)))
    assert not lingering(BOTH, IkeState(sas=(ike(1), fresh)))
    assert not lingering(WANT, IkeState(sas=(ike(1, *UP),)))


def test_a_pair_that_its_gateway_has_no_more_goes_once() -> None:
    """What the other gateway carries by now is not terminated for two reasons."""
    elsewhere = Node("gw1", Role.CLOUD, (Prefix("10.96.0.0/12"),), "CN=gw1", "10.20.8.8")
    want = seen_from("edge1", EDGE, elsewhere, GW2)
    new = [want.conns["fabric-gw1"].child_name(Child(s, elsewhere.subnets[0])) for s in (ONE, TWO)]
    through_gw1 = ike(1, child(11, NAME_A), child(13, new[0]), child(14, new[1]))
    names = [want.conns["fabric-gw2"].child_name(pair) for pair in (A, B)]
    through_gw2 = ike(2, old(21, names[0]), old(22, names[1]), conn="fabric-gw2")
    assert done(want, through_gw1, through_gw2) == ["terminate A #11 drop"]


def test_an_older_ike_sa_stays_while_it_carries_what_has_not_moved() -> None:
    before, empty = ike(1, *UP), ike(3)
    assert not [step for step in done(BOTH, before, empty) if step.startswith("terminate")]
    assert "terminate A #11 rekey" in done(BOTH, before, empty, THROUGH_GW2)
    assert "terminate #1 rekey" in done(BOTH, ike(1), empty, THROUGH_GW2)


# ---------------------------------------------------------------- readings


def test_carries() -> None:
    assert carries(child(1, NAME_A))
    assert carries(child(1, NAME_A, "REKEYING"))
    assert carries(child(1, NAME_A, "UPDATING"))
    assert not carries(child(1, NAME_A, "INSTALLING"))
    assert not carries(child(1, NAME_A, narrowed=True))
    assert not carries(child(1, "net"))


def test_installed_pairs() -> None:
    sas = [ike(1, child(1, NAME_A), child(2, NAME_B, "DELETING")), ike(2, child(3, "net"))]
    assert installed(sas) == {A}
    assert installed([]) == frozenset()


def test_by_connection_newest_last() -> None:
    numbers = count(5, -1)
    sas = tuple(ike(next(numbers), conn=c) for c in ("fabric-a", "office", "fabric-b", "fabric-a"))
    seen = IkeState(sas=sas)
    assert {name: [sa.id for sa in found] for name, found in seen.by_conn.items()} == {
        "fabric-a": [2, 5],
        "fabric-b": [3],
        "office": [4],
    }
    assert [[sa.id for sa in seen.of(name)] for name in ("fabric-a", "fabric-c")] == [[2, 5], []]


def test_child_names_there_and_back() -> None:
    assert parse_child_name(NAME_A) == (A, CONN.digest, None)
    assert parse_child_name(replace(CONN, turn=12).child_name(A)) == (A, CONN.digest, 12)
    assert pair_of(child(1, NAME_A)) == A
    six = Child(Prefix("fd00:2::/64"), Prefix("fd00:c::/48"))
    assert parse_child_name(CONN.child_name(six)) == (six, CONN.digest, None)
    for name in ("", "net", "a-b", "2.2.2.0/27-10.0.0.0/8", "2.2.2.0/27-10.0.0.0/8-"):
        assert parse_child_name(name) is None


def test_disruption_names_what_it_does_to_traffic() -> None:
    assert [d.value for d in Disruption] == ["none", "rekey", "drop"]
