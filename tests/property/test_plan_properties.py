"""A plan leads there, from anywhere, and touches nothing that is not ours on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.action import Disruption, Kind
from fabricd.core.desired import NOTHING, DesiredState
from fabricd.core.state import Child
from fabricd.core.tunnels import installed
from tests.property.strategies import World, handovers, scenes
from tests.property.world import Machine

Scene = tuple[Machine, World]

TAKES_AWAY = {kind for kind in Kind if kind.value.endswith((".remove", ".unload", ".terminate"))}


@given(scenes())
def test_one_plan_reaches_the_desired_state(scene: Scene) -> None:
    machine, world = scene
    want = machine.desire(world.in_force, world.around)
    machine.apply(machine.plan(want))
    machine.follow(want)
    machine.assert_reached(want)


@given(scenes())
def test_a_state_that_is_reached_is_left_alone(scene: Scene) -> None:
    """The plans after the first only tidy up SAs that were replaced, and come to an end."""
    machine, world = scene
    want = machine.desire(world.in_force, world.around)
    machine.apply(machine.plan(want))
    machine.follow(want)
    for _ in ("CHILD_SAs first", "then their IKE_SAs"):
        tidying = machine.plan(want)
        assert {action.kind for action in tidying} <= {Kind.IKE_TERMINATE, Kind.CHILD_TERMINATE}
        assert all(action.disruption is Disruption.REKEY for action in tidying)
        machine.apply(tidying)
        machine.follow(want)
    assert machine.plan(want) == ()
    machine.assert_reached(want)
    again = machine.desire(world.in_force, world.around)
    assert again == want, "what was done does not change what is desired"


@given(scenes())
def test_foreign_things_are_never_touched(scene: Scene) -> None:
    machine, world = scene
    kernel, charon = machine.kernel.foreign(), machine.charon.foreign()
    want = machine.desire(world.in_force, world.around)
    for step in (want, NOTHING):
        machine.settle(step)
        assert kernel <= machine.kernel.foreign()
        assert charon <= machine.charon.foreign()


@given(scenes())
def test_purge_leaves_nothing(scene: Scene) -> None:
    machine, world = scene
    machine.settle(machine.desire(world.in_force, world.around))
    assert machine.settle(NOTHING, passes=1) == ()
    machine.assert_reached(NOTHING)
    assert not any(sa.conn.startswith("fabric-") for sa in machine.charon.sas)


@given(scenes(), st.data())
def test_killed_between_any_two_actions(scene: Scene, data: st.DataObject) -> None:
    machine, world = scene
    want = machine.desire(world.in_force, world.around)
    for _ in range(2):
        actions = machine.plan(want)
        machine.apply(actions[: data.draw(st.integers(0, len(actions)))])
        want = machine.desire(world.in_force, world.around)
    assert machine.settle(want) == ()
    machine.assert_reached(want)


@given(scenes())
def test_nothing_is_taken_away_while_the_source_is_not_in_sync(scene: Scene) -> None:
    machine, world = scene
    before, sas = machine.kernel.observe(), machine.charon.observe()
    want = machine.desire(world.in_force, world.around)
    for _ in range(2):
        actions = machine.plan(want, removals=False)
        assert not TAKES_AWAY & {action.kind for action in actions}
        assert {action.disruption for action in actions} <= {Disruption.NONE}
        machine.apply(actions)
    after, now = machine.kernel.observe(), machine.charon.observe()
    assert before.links.keys() <= after.links.keys()
    assert before.addresses.items() <= after.addresses.items()
    assert before.routes.keys() <= after.routes.keys()
    assert before.rules.keys() <= after.rules.keys()
    assert sas.conns.keys() <= now.conns.keys()
    assert sas.authorities <= now.authorities
    for conn in sas.conns:
        assert installed(sa for sa in sas.sas if sa.conn == conn) <= installed(
            sa for sa in now.sas if sa.conn == conn
        )


def _still_asked_for(want: DesiredState, machine: Machine) -> frozenset[Child]:
    """Pairs that a connection carries now which stays, and which some gateway should carry."""
    asked = frozenset(child for pairs in want.carried.values() for child in pairs)
    up = (
        conn.children & installed(sa for sa in machine.charon.sas if sa.conn == name)
        for name, conn in want.conns.items()
    )
    return asked & frozenset(child for pairs in up for child in pairs)


def _make_before_break(machine: Machine, world: World, data: st.DataObject) -> None:
    """Whichever peers answer, what a tunnel carries that stays is carried at every moment."""
    want = machine.desire(world.in_force, world.around)
    if want.conns:
        machine.charon.deaf = data.draw(st.frozensets(st.sampled_from(sorted(want.conns))))
    carried = _still_asked_for(want, machine)
    for _ in range(3):
        for action in machine.plan(want):
            machine.apply([action])
            assert carried <= _still_asked_for(want, machine), action
        machine.follow(want)
        machine.assert_reached(want)


@given(scenes(), st.data())
def test_the_new_is_made_before_the_old_is_broken(scene: Scene, data: st.DataObject) -> None:
    _make_before_break(*scene, data)


@given(handovers(), st.data())
def test_a_gateway_is_left_when_the_next_one_carries(scene: Scene, data: st.DataObject) -> None:
    _make_before_break(*scene, data)
