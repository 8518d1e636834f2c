"""How long to wait before trying again: longer each time, and never all nodes at once."""

from __future__ import annotations

from random import Random


class Backoff:
    """Doubling delays in seconds, from `first` up to `limit`, each shortened by up to half."""

    def __init__(self, rng: Random, first: float = 0.2, limit: float = 5.0) -> None:
        self._rng = rng
        self._first = first
        self._limit = limit
        self._delay = first

    def next(self) -> float:
        """The delay before the next attempt, in seconds."""
        delay = self._delay
        self._delay = min(delay * 2, self._limit)
        return delay * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """An attempt succeeded: start from the shortest delay again."""
        self._delay = self._first
