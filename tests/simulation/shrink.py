"""A failure made small: as few steps as still fail."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.run import Result, run
from tests.simulation.scenario import Scenario


def shrink(scenario: Scenario, play: Callable[[Scenario], Result] = run) -> tuple[int, ...]:
    """The numbers of the steps without any of which it does not fail any more.

    In halves first, then in ever smaller pieces, as delta debugging does (Zeller, 1999); what is
    left out is a pause of the same length.
    """
    kept = list(range(len(scenario.steps)))
    size = max(1, len(kept) // 2)
    while kept:
        smaller = _without_a_piece(scenario, kept, size, play)
        if smaller is not None:
            kept = smaller
            size = min(size, max(1, len(kept)))
        elif size == 1:
            break
        else:
            size //= 2
    return tuple(kept)


def only(scenario: Scenario, kept: tuple[int, ...]) -> Scenario:
    """The scenario with these steps alone."""
    return scenario.without(frozenset(range(len(scenario.steps))).difference(kept))


def _without_a_piece(
    scenario: Scenario, kept: list[int], size: int, play: Callable[[Scenario], Result]
) -> list[int] | None:
    for start in range(0, len(kept), size):
        rest = kept[:start] + kept[start + size :]
        if play(only(scenario, tuple(rest))).verdict:
            return rest
    return None
