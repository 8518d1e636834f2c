"""An event only says "look again": a set of reasons and one slot.

However many events come while a pass runs, one more pass follows; the full slot is the
coalescing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

MAX_REASONS: Final = 8
"""How many reasons are kept for the log line; more are counted, not kept."""


class Wakeup:
    """Many callers of `poke`, one of `wait`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)
        self._reasons: dict[str, None] = {}  # a set that keeps order

    def poke(self, reason: str) -> None:
        """Ask for a pass; never blocks."""
        if len(self._reasons) < MAX_REASONS:
            self._reasons[reason] = None
        with suppress(trio.WouldBlock):  # a pass is due already, it will see this too
            self._send.send_nowait(None)

    async def wait(self, timeout: float) -> tuple[str, ...]:
        """The reasons since the last call; empty when `timeout` seconds passed without one."""
        with trio.move_on_after(timeout):
            await self._receive.receive()
        with suppress(trio.WouldBlock):  # a poke just when time was up is part of the answer
            self._receive.receive_nowait()
        reasons = tuple(self._reasons)
        self._reasons.clear()
        return reasons
