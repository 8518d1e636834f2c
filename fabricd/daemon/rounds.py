"""When the reconcile loop goes round again, and why: because something was heard, because a sweep
is due, or because a pause is over.

Waits, and knows nothing of what a pass does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import trio

from fabricd.daemon.pacing import SWEEP, Pacing, PassResult
from fabricd.daemon.wakeup import Wakeup

MANY: Final = 16
QUIET: Final = 0.02
LONG_ENOUGH: Final = 1.0
"""When so many records have changed at once, more are on their way: they are waited for until none
has come for a moment, but not for long (seconds)."""


class Occasion(Enum):
    """What a round is for."""

    HEARD = auto()
    SWEEP = auto()
    """To look at everything, whatever was heard."""
    AGAIN = auto()
    """To see what became of the last pass, or to try again."""
    LATER = auto()
    """To see what was to go, or to be decided, in a while."""


@dataclass(frozen=True, slots=True)
class Round:
    """One."""

    occasion: Occasion
    reasons: tuple[str, ...]
    """In words, for the log."""


class Rounds:
    """Many may poke, one goes round after round."""

    def __init__(
        self, clock: Callable[[], float], rng: random.Random, changed: Callable[[], int]
    ) -> None:
        """`clock` gives seconds that only grow; `changed` how many records have changed since the
        last pass.
        """
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._wakeup = Wakeup()
        self._pacing = Pacing()
        self._sweep_at = 0.0

    def poke(self, why: str) -> None:
        """Ask for a round."""
        self._wakeup.poke(why)

    async def first(self, ready: Callable[[], bool], timeout: float) -> Round:
        """The first one: when something is `ready`, or when time is up (seconds)."""
        with trio.move_on_after(timeout):
            while not ready():
                await self._wakeup.wait(timeout)
        self._sweep_at = self._clock() + SWEEP
        return Round(Occasion.AGAIN, ("start",))

    async def next(self, result: PassResult, beat: Callable[[], None], every: float) -> Round:
        """Wait for something to do after a pass; `beat` is called at least `every` so many seconds
        meanwhile.
        """
        pause, what_for = self._pacing.pause_after(result)
        if self._pacing.patience > 0:
            await self._hold(min(self._pacing.patience, every))
            beat()
        until = self._clock() + pause
        while True:
            wait = min(every, until - self._clock(), self._sweep_at - self._clock())
            reasons = await self._wakeup.wait(max(wait, 0.0))
            await self._gather()
            now = self._clock()
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP * self._rng.uniform(0.9, 1.1)
                return Round(Occasion.SWEEP, reasons or ("sweep",))
            if reasons:
                return Round(Occasion.HEARD, reasons)
            if now >= until:
                return Round(
                    Occasion.LATER if what_for == "linger" else Occasion.AGAIN, (what_for,)
                )
            beat()

    async def _gather(self) -> None:
        """Wait for the rest of many changes: one plan is made for all of them."""
        until, seen = self._clock() + LONG_ENOUGH, 0
        while MANY <= self._changed() > seen and self._clock() < until:
            seen = self._changed()
            await trio.sleep(QUIET)

    async def _hold(self, seconds: float) -> None:
        """Wait, whatever is heard; but a record that changes need not wait."""
        until = self._clock() + seconds
        heard: dict[str, None] = {}  # a set that keeps order
        while not self._changed() and (left := until - self._clock()) > 0:
            heard |= dict.fromkeys(await self._wakeup.wait(left))
        for reason in heard:
            self._wakeup.poke(reason)
