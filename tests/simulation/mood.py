"""How notifications reach a daemon: at once, late and out of order, twice, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import trio

LATE = 8.0
"""Seconds by which a late one may be late."""


@dataclass
class Mood:
    """Of one node."""

    nursery: trio.Nursery
    rng: random.Random
    how: str = "prompt"
    """`prompt`, `late`, `twice` or `lost`."""

    def pass_on(self, changed: Callable[[str], None], what: str) -> None:
        match self.how:
            case "lost":
                return
            case "late":
                self.nursery.start_soon(_later, self.rng.uniform(0, LATE), changed, what)
                return
            case "twice":
                self.nursery.start_soon(_later, self.rng.uniform(0, LATE), changed, what)
        changed(what)


async def _later(seconds: float, changed: Callable[[str], None], what: str) -> None:
    await trio.sleep(seconds)
    changed(what)
