"""The last actions that the loop took, for people: read off the picture, pass by pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fabricd.daemon.picture import TOLD, Picture

KEPT: Final = TOLD
"""Actions that are remembered."""


@dataclass(frozen=True, slots=True)
class Change:
    """One action of one pass."""

    when: float
    """Unix seconds."""
    kind: str
    target: str
    disruption: str
    reason: str
    """What was found."""
    cause: str = ""
    """`start`, `record nodes/edge3`, `surroundings` or `drift`."""
    error: str = ""
    """Why it failed; it is tried again."""


class Recent:
    """A ring of changes; what has to be done again pass after pass is in it once."""

    def __init__(self) -> None:
        self._ring: deque[Change] = deque(maxlen=KEPT)
        self._pending: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[Change]:
        """The newest first."""
        return reversed(self._ring)

    def note(self, picture: Picture, now: float) -> None:
        """A pass may be over; `now` in Unix seconds. To be told of one twice does no harm."""
        pending = set()
        for action in picture.actions:
            error = picture.failures.get(action.name, "")
            pending.add((action.name, error))
            if (action.name, error) not in self._pending:
                self._ring.append(
                    Change(
                        now,
                        action.kind.value,
                        action.target,
                        action.disruption.value,
                        action.reason,
                        picture.causes.get(action.name, ""),
                        error,
                    )
                )
        self._pending = pending
