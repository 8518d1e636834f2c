"""One scenario, from its beginning to its end, the same way each time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import trio
import trio._core._run as scheduler
from trio.testing import MockClock

from tests.simulation.scenario import Scenario
from tests.simulation.steps import carry_out
from tests.simulation.world import Line, World

BOUND: Final = 600.0
"""Seconds of simulated time in which everything is as desired, whatever came before."""

LOOK: Final = 2.0
"""Seconds between two looks at whether it is."""

QUIET: Final = 20.0
"""Seconds in which nobody does anything then."""


@dataclass
class Result:
    """What became of it."""

    scenario: Scenario
    verdict: str
    """What was wrong; empty: nothing."""
    trace: list[Line]
    simulated: float
    """Seconds."""
    actions: int


def run(scenario: Scenario) -> Result:
    """Simulate it."""
    # What trio's own tests and hypothesis do for the same end: tasks that could run at the same
    # time are sorted and then shuffled by a generator that can be seeded.
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    state = scheduler._r.getstate()
    scheduler._r.seed(scenario.seed)
    try:
        return trio.run(_simulate, scenario, clock=MockClock(autojump_threshold=0))
    finally:
        scheduler._r.setstate(state)


async def _simulate(scenario: Scenario) -> Result:
    world: World | None = None
    crash = ""
    try:
        async with trio.open_nursery() as nursery:
            world = World(scenario, nursery)
            world.start()
            await _play(world)
            nursery.cancel_scope.cancel()
    except* Exception as group:  # noqa: BLE001 - a bug of whatever sort is the result
        crash = _first_line(group)
    assert world is not None
    return Result(
        scenario,
        crash or world.judge.verdict,
        world.trace,
        trio.current_time(),
        world.judge.actions,
    )


async def _play(world: World) -> None:
    judge, ending = world.judge, world.ending
    for step in world.scenario.steps:
        await trio.sleep(step.wait)
        judge.after_step()
        world.note("world", str(step))
        await carry_out(world, step.name, step.args)
    await trio.sleep(random.Random(world.scenario.seed).uniform(0, 5))
    judge.after_step()
    world.heal()
    deadline = trio.current_time() + BOUND
    while next(ending.unsettled(), None) or await ending.plans():
        if trio.current_time() > deadline:
            left = [*ending.unsettled(), *await ending.plans()]
            judge.wrong(f"not as desired after {BOUND:g} s: {'; '.join(left)}")
        await trio.sleep(LOOK)
        judge.after_step()
        await _confirm(world)
    world.note("world", "is at rest")
    before = judge.actions
    await trio.sleep(QUIET)
    judge.after_step()
    if judge.actions != before:
        judge.wrong("does not rest")
    if unsettled := list(ending.unsettled()) or await ending.plans():
        judge.wrong(f"was at rest, and is no more: {'; '.join(unsettled)}")


async def _confirm(world: World) -> None:
    """`fabricctl confirm`, where a loss is held."""
    for node in world.nodes.values():
        if node.life is not None and node.life.reconciler.rib.held:
            world.note(node.name, "confirm")
            node.life.reconciler.confirm()


def _first_line(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    frame = group.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
    return f"{type(group).__name__}: {group} ({where})"
