"""What was read and is believed for a while: until the kernel tells of a change, or time is up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from typing import Final, Generic, TypeVar

import trio

LASTS: Final = 10.0
"""Seconds: less than lies between two sweeps."""

K = TypeVar("K")
V = TypeVar("V")


class Trusted(Generic[K, V]):
    """Answers by what they are about. One that was doubted while it was read is not believed."""

    def __init__(self) -> None:
        self._held: dict[K, tuple[float, V]] = {}
        self._reading: dict[K, object] = {}
        """Who reads it, of those of which nothing was heard since."""

    async def of(self, about: K, read: Callable[[], Awaitable[V]]) -> V:
        """What is believed, or else what `read` gives; whatever that raises."""
        held = self._held.get(about)
        if held is not None and trio.current_time() - held[0] < LASTS:
            return held[1]
        me = self._reading[about] = object()
        found = await read()
        if self._reading.get(about) is me:
            self._held[about] = trio.current_time(), found
        return found

    def doubt(self, about: K) -> None:
        """It may be otherwise by now."""
        self._held.pop(about, None)
        self._reading.pop(about, None)

    def doubt_all(self) -> None:
        """Everything may be."""
        self._held.clear()
        self._reading.clear()

    def keep(self, those: Set[K]) -> None:
        """Forget all others."""
        for about in self._held.keys() - those:
            self.doubt(about)
