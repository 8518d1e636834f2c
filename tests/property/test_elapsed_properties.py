"""When SAs were listed does not matter: what follows from them is the same as if it were now."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.desired import desired
from fabricd.core.doors import carried_ages
from fabricd.core.fitness import preferred, starting, unfit
from fabricd.core.plan import plan
from fabricd.core.sas import LINGER, lingering, settled_elsewhere
from fabricd.core.state import Child, ChildSa, Conn, IkeSa, IkeState
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.core.tunnels import installed
from fabricd.model import Node, Prefix, Role

CLOUD, OWN, OTHER = Prefix("10.233.0.0/16"), Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")
NODES = [
    Node("edge1", Role.EDGE, (OWN,), "CN=edge1", "10.0.0.1", frozenset({"app"})),
    Node("edge2", Role.EDGE, (OTHER,), "CN=edge2", "10.0.0.2", frozenset({"app"})),
    *(Node(f"gw{n}", Role.CLOUD, (CLOUD,), f"CN=gw{n}", f"10.0.1.{n}") for n in (1, 2)),
]
AROUND = Surroundings(
    "edge1", (Prefix("2.0.0.0/8"),), "br-edge", identity=Identity(frozenset(), "key", "d")
)
ages = st.integers(0, 2 * LINGER) | st.integers(0, 10_000)


@st.composite
def sas(draw: st.DrawFn, conns: list[Conn]) -> tuple[IkeSa, ...]:
    """IKE_SAs with CHILD_SAs, of the set-up that is in force and of others."""
    found = []
    for number in range(draw(st.integers(0, 5))):
        conn = draw(st.sampled_from(conns))
        children = []
        for place in range(draw(st.integers(0, 3))):
            child: Child = draw(st.sampled_from(sorted(conn.children)))
            made = replace(conn, digest=draw(st.sampled_from([conn.digest, "old"])))
            state = draw(st.sampled_from(["INSTALLED", "REKEYING", "REKEYED", "DELETING"]))
            sides = frozenset({child.local}), frozenset({child.remote})
            name = made.child_name(child)
            children.append(ChildSa(10 * number + place, name, state, *sides, age=draw(ages)))
        state = draw(st.sampled_from(["ESTABLISHED", "REKEYING", "DELETING"]))
        found.append(IkeSa(number, conn.name, state, True, "", draw(ages), tuple(children)))
    return tuple(found)


def listed_before(ike: IkeState, seconds: int) -> IkeState:
    """The same, as it was listed then."""
    return replace(
        ike,
        elapsed=seconds,
        sas=tuple(
            replace(
                sa,
                age=sa.age - seconds,
                children=tuple(replace(child, age=child.age - seconds) for child in sa.children),
            )
            for sa in ike.sas
        ),
    )


@given(st.data(), st.integers(0, 20), st.sampled_from([(), (("gw1", 4),), (("gw2", 4),)]))
def test_it_does_not_matter_when_sas_were_listed(
    data: st.DataObject, seconds: int, found_unfit: tuple[tuple[str, int], ...]
) -> None:
    want = desired({n.name: n for n in NODES}, {}, replace(AROUND, unfit=found_unfit))
    now = IkeState(conns=want.conns, sas=data.draw(sas(list(want.conns.values()))))
    then = listed_before(now, seconds)
    assert carried_ages(then) == carried_ages(now)
    assert settled_elsewhere(want, then) == settled_elsewhere(want, now)
    assert lingering(want, then) == lingering(want, now)
    assert {n: installed(then.of(n)) for n in want.conns} == {
        n: installed(now.of(n)) for n in want.conns
    }
    gateways = NODES[2:]
    for failed in ((), ("fabric-gw1",)):
        fit, fit_then = (unfit("edge1", gateways, ike, failed) for ike in (now, then))
        assert fit_then == fit
        assert preferred("edge1", gateways, then, fit) == preferred("edge1", gateways, now, fit)
    assert starting(gateways, then) == starting(gateways, now)
    planned, planned_then = (plan(want, None, ike) for ike in (now, then))
    assert [action.name for action in planned_then] == [action.name for action in planned]
