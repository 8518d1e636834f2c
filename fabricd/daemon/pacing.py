"""When the next pass is due: at once to verify, after a pause to retry, at the latest to sweep.

Numbers only, no clock and no waiting: `daemon.rounds` waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

VERIFY: Final = 0.1
"""Seconds until a pass that sees whether the last one's actions worked, if no event comes first:
a handshake that was just started has more use for the processor."""

LINGER: Final = 2.0
"""Seconds until another look at what is to go, or to be decided, in a while."""

SWEEP: Final = 15.0
"""Seconds between passes that look at everything even if nothing said so."""

RETRY: Final = (0.5, 30.0)
"""Seconds until the next pass after one with failures: at first, and in the long run."""

SETTLE: Final = 0.2
"""Seconds from a change to its being written, to the store or to disk: changes come in company, and
tunnels come first."""

PATIENCE: Final = 5
"""Passes in a row that may repair drift, or do again what they did or tried before, at once;
after that, ever longer pauses lie between them, `PAUSE` seconds at most."""

PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass amounts to, for the timing of the next one."""

    acted: bool
    """Something was changed."""
    struggled: bool
    """Something that was right before had to be put right again, or was done without effect."""
    refused: bool
    """An action failed."""
    failed: bool
    """Something is wrong that time may mend."""
    lingers: bool = False
    """Something is to go, or to be decided, in a while."""


class Pacing:
    """Draws its conclusions from one pass after the other."""

    def __init__(self) -> None:
        self._retry = RETRY[0]
        self._streak = 0
        self._longest = PAUSE

    def pause_after(self, result: PassResult) -> tuple[float, str]:
        """Seconds until the next pass if nothing calls for one before, and what it is for: to
        `verify`, `retry`, or see what was to `linger`. Infinite if nothing is to be done.
        """
        self._streak = self._streak + 1 if result.struggled or result.refused else 0
        # What is refused must not keep the rest waiting for long.
        self._longest = PAUSE if result.struggled else RETRY[0]
        if not result.failed:
            self._retry = RETRY[0]
            if result.acted:
                return VERIFY, "verify"
            return LINGER if result.lingers else math.inf, "linger"
        pause, self._retry = self._retry, min(self._retry * 2, RETRY[1])
        return pause, "retry"

    @property
    def patience(self) -> float:
        """Seconds in which only a record that changes is worth a pass: where somebody else puts
        things back again and again, the struggle is not fought at full speed.
        """
        if self._streak < PATIENCE:
            return 0.0
        return min(0.1 * 2.0 ** min(self._streak - PATIENCE, 10), self._longest)
