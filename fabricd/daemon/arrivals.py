"""What BIRD had learned from other gateways when an edge came to be carried here.

Whoever carried that edge before may have left it behind. What comes later, or goes and comes again,
is of a gateway to which the edge is moving on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fabricd.core.specifics import YOUNG
from fabricd.core.state import IkeState, KernelState
from fabricd.core.tunnels import installed
from fabricd.model import Prefix

WITNESSED: Final = 5
"""Seconds: a CHILD_SA that is older when it is first seen has come while nobody looked."""


class Arrivals:
    """Fed with each look at charon and with each look at the kernel."""

    def __init__(self) -> None:
        self._ages: Mapping[Prefix, int] | None = None
        self._kernel: KernelState | None = None
        self._waiting: set[Prefix] = set()
        self.learned: Mapping[Prefix, frozenset[Prefix]] = {}
        """By the peer's subnet, for as long as its CHILD_SA is young."""

    @property
    def wanting(self) -> bool:
        """Whether the kernel has to be looked at to know."""
        return bool(self._waiting)

    def saw(self, ike: IkeState, ages: Mapping[Prefix, int]) -> None:
        """Charon was looked at: what is carried, with the seconds since its latest CHILD_SA."""
        before, self._ages = self._ages, ages
        young = {remote for remote, age in ages.items() if age < YOUNG}
        if not self.learned.keys() <= young:
            self.learned = {remote: had for remote, had in self.learned.items() if remote in young}
        come: set[Prefix] = set()
        if before is not None:
            new = {remote for remote in young if ages[remote] < WITNESSED}
            come = new - before.keys()
            # One that was away without a word comes in an IKE_SA of its own beside what it has
            # left; one that only rekeys has been here all along.
            again = {remote for remote in new - come if ages[remote] + 1 < before[remote]}
            come |= again & _authenticated(ike) if again else set()
        self._waiting = (self._waiting & young) | come

    def looked(self, kernel: KernelState) -> None:
        """The kernel was looked at, or it is as it was."""
        if kernel is self._kernel:
            return
        self._kernel = kernel
        if self.learned or self._waiting:
            still = {remote: had & kernel.learned for remote, had in self.learned.items()}
            self.learned = {**still, **dict.fromkeys(self._waiting, kernel.learned)}
            self._waiting = set()


def _authenticated(ike: IkeState) -> set[Prefix]:
    """What is carried in IKE_SAs that have just been established."""
    fresh = (sa for sa in ike.sas if ike.age_of(sa) < WITNESSED)
    return {pair.remote for pair in installed(fresh)}
