"""Looks at charon: at everything, or only at those connections that were heard of since.

What is heard of is no more than a hint where to look. A look at everything follows whatever leaves
a doubt, and every sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Final

from fabricd.core.action import Kind, Outcome, Part
from fabricd.core.ownership import owns_conn
from fabricd.core.state import IkeState
from fabricd.daemon.parts import CharonPart

FEW: Final = 32
"""Connections that are looked at one by one: of more, everything is listed at once."""

OF_ONE_CONNECTION: Final = frozenset(
    {
        *(Kind.CONN_LOAD, Kind.CONN_TURN, Kind.CONN_UNLOAD),
        *(Kind.CHILD_REKEY, Kind.CHILD_TERMINATE, Kind.IKE_TERMINATE),
    }
)
"""Actions whose target begins with the name of the connection that they are about."""


class Lookout:
    """Knows what has to be looked at again, and when everything was."""

    def __init__(self, charon: CharonPart, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that only grow."""
        self._charon = charon
        self._clock = clock
        self._everything = True
        self._names: set[str] = set()
        self.seen_at = -inf
        """When everything was looked at last."""

    # ------------------------------------------------------------ what says "look again"

    def heard(self, what: str) -> None:
        """A line whose second word may be the name of a connection: `child-updown fabric-edge3`."""
        name = what.partition(" ")[2]
        if owns_conn(name):
            self._names.add(name)
        else:
            self._everything = True

    def doubt(self) -> None:
        """Anything may be otherwise."""
        self._everything = True

    def acted(self, outcomes: Iterable[Outcome]) -> None:
        """What was done on charon may have changed what is there."""
        for outcome in outcomes:
            kind = outcome.action.kind
            if kind.part is not Part.CHARON:
                continue
            if kind in OF_ONE_CONNECTION and outcome.error is None:
                self._names.add(outcome.action.target.partition(" ")[0])
            else:
                self._everything = True

    @property
    def due(self) -> bool:
        """Whether there is anything to look at."""
        return self._everything or bool(self._names)

    # ------------------------------------------------------------ looking

    async def look(self, last: IkeState | None) -> IkeState:
        """What charon holds. `last`: as seen the last time, None if it was not there. Raises
        Unavailable.
        """
        names, everything = frozenset(self._names), self._everything
        self._names, self._everything = set(), False  # what is heard from here on is for the next
        if last is None or everything or len(names) > FEW:
            seen = await self._charon.observe()
            self.seen_at = self._clock()
            return seen
        elapsed = int(self._clock() - self.seen_at)
        seen = await self._charon.observe(names, replace(last, elapsed=elapsed))
        if seen.elapsed != elapsed:
            self.seen_at = self._clock()  # it was another charon: all of it was looked at
        return seen
