"""Answers kept for as long as what they follow from is the same.

Most of what a node asks itself in a pass it has asked in the one before, about the same objects:
records, connections and SAs that are as they were are the very same. To see that costs a glance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Generic, TypeVar, TypeVarTuple

K = TypeVar("K")
G = TypeVar("G")
V = TypeVar("V")
Given = TypeVarTuple("Given")


def same(before: Sequence[object], now: Sequence[object]) -> bool:
    """Whether these are the very same objects."""
    return len(before) == len(now) and all(map(is_, before, now))


class Kept(Generic[V, *Given]):
    """A function's last answer, for the very same objects."""

    def __init__(self, answer: Callable[[*Given], V]) -> None:
        """`answer` has no effects, and asks nothing but what it is given."""
        self._answer = answer
        self._last: tuple[tuple[object, ...], V] | None = None

    def of(self, *given: *Given) -> V:
        """The answer."""
        if self._last is None or not same(self._last[0], given):
            self._last = given, self._answer(*given)
        return self._last[1]


class KeptEach(Generic[K, G, V]):
    """One answer a key, for what is equal: most often it is the same, and found equal at once. So
    what does not take part in comparisons (`compare=False`) does not count.
    """

    def __init__(self, answer: Callable[[G], V]) -> None:
        """As for `Kept`."""
        self._answer = answer
        self._last: dict[K, tuple[G, V]] = {}

    def of(self, questions: Iterable[tuple[K, G]]) -> dict[K, V]:
        """The answers by key, in order. Those of other keys are forgotten."""
        before, self._last = self._last, {}
        answers: dict[K, V] = {}
        for key, given in questions:
            known = before.get(key)
            if known is None or known[0] != given:
                known = given, self._answer(given)
            self._last[key] = known
            answers[key] = known[1]
        return answers
