"""From what is in force and what was seen to what should be: the surroundings gathered, the answer
kept as long as nothing of it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from fabricd.core.connections import doubts
from fabricd.core.desired import DesiredState, Memory, desired
from fabricd.core.doors import Doors, ages_in, carried_ages, with_doors
from fabricd.core.kept import Kept, KeptEach
from fabricd.core.pods import NO_PODS, Pods, asked, with_pods
from fabricd.core.rib import InForce
from fabricd.core.specifics import beside_doors, specifics
from fabricd.core.state import IkeSa, IkeState, KernelState, Pod, Route, RouteKey
from fabricd.core.surroundings import Surroundings, seen_in
from fabricd.core.topology import Peering
from fabricd.daemon.arrivals import Arrivals
from fabricd.daemon.choice import Choice
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.trust import Trust
from fabricd.model import Prefix

CHARON_GONE: Final = 20.0
"""Seconds that doors stay open while charon does not answer: the edges have noticed by then."""


class Deriver:
    """Remembers what it saw of charon last, for when charon does not answer."""

    def __init__(
        self,
        around: Surroundings,
        keyring: Keyring,
        trust: Trust,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`around`: what never changes. `clock` gives seconds that only grow, `wall_clock` Unix
        seconds.
        """
        self._around = around
        self._memory = Memory(around.networks)
        self._keyring = keyring
        self._trust = trust
        self._clock = clock
        self._now = wall_clock
        self._userspace_esp: bool | None = None
        self._arrivals = Arrivals()
        self._beside = Kept(_beside)
        """Where the routes lead that are there beside doors."""
        self._carried = KeptEach[str, tuple[IkeSa, ...], Mapping[Prefix, int]](ages_in)
        self._ages: Mapping[Prefix, int] | None = None
        """What is carried, with the seconds since its latest CHILD_SA."""
        self._silent_since: float | None = clock()
        """When charon was first asked in vain; None: it has answered the last time."""
        self._met: set[str] = set()
        """Names of the peers that there were at some look at charon."""
        self._met_last: tuple[Peering, ...] = ()
        self.choice = Choice(around.name, clock, self._memory.index)
        """Among several gateways."""
        self._derived: tuple[InForce, Surroundings, DesiredState] | None = None
        self._opened: tuple[_Open, DesiredState] | None = None
        """What was derived, with the doors that are open."""
        self._podded = Kept(with_pods)
        """That, with the pods that are attached."""

    def saw(self, ike: IkeState, in_force: InForce, failed: Collection[str]) -> None:
        """Charon was looked at; `failed` are the connections whose last attempt failed."""
        self._userspace_esp = ike.userspace_esp
        self._ages = carried_ages(ike, self._carried)
        self._arrivals.saw(ike, self._ages)
        self._silent_since = None
        self.choice.saw(ike, in_force, failed)
        self._resume(ike)

    def _resume(self, ike: IkeState) -> None:
        """What another daemon of this node was about with a peer that is met for the first time."""
        if self._derived is None or self._derived[1].identity is None:
            return
        _, around, wanted = self._derived
        if wanted.peerings is self._met_last:
            return
        self._met_last = wanted.peerings
        new = [each for each in wanted.peerings if each.peer.name not in self._met]
        self._met.update(each.peer.name for each in new)
        self._trust.resume(doubts(wanted.node, new, around, ike.conns))

    def missed(self) -> None:
        """Charon was to be looked at, and does not answer."""
        if self._silent_since is None:
            self._silent_since = self._clock()

    def looked(self, kernel: KernelState) -> None:
        """The kernel was looked at, or it is as it was."""
        self._arrivals.looked(kernel)

    @property
    def wonders(self) -> bool:
        """Whether the kernel has to be looked at: an edge has come, maybe from another gateway."""
        doors = self._derived is not None and self._derived[2].doors
        return bool(doors) and self._arrivals.wanting and len(self._memory.index.gateways) > 1

    def derive(self, in_force: InForce, kernel: KernelState, pods: Pods = NO_PODS) -> DesiredState:
        """What should be. `kernel` is the kernel as it was seen last, or empty."""
        wanted = self._without_pods(in_force, kernel)
        return self._podded.of(wanted, pods, self._around.bridge)

    def asked(self, pods: Pods) -> Mapping[str, Pod]:
        """What to look for in the kernel of these pods."""
        return asked(pods, self._around.bridge)

    def _without_pods(self, in_force: InForce, kernel: KernelState) -> DesiredState:
        self.choice.heard(in_force)
        around = self._surroundings(kernel)
        known = self._derived
        if known is not None and known[1] == around:
            around = known[1]  # the very same object: what depends on it is the same, too
        if known is None or known[0] is not in_force or known[1] is not around:
            answer = desired(in_force.nodes, in_force.communities, around, self._memory)
            known = self._derived = in_force, around, answer
            self._opened = None
        ages = {} if self._charon_is_gone() else self._ages
        ways = known[2].doors
        there = self._beside.of(ways, kernel.routes)
        beside = specifics(ways, ages, there, kernel.learned, self._arrivals.learned)
        if ages is None:
            return _opened(known[2], (None, beside), kernel)
        wanted = frozenset(ages), beside
        if self._opened is None or self._opened[0] != wanted:
            self._opened = wanted, _opened(known[2], wanted, kernel)
        return self._opened[1]

    def _charon_is_gone(self) -> bool:
        since = self._silent_since
        return since is not None and self._clock() - since > CHARON_GONE

    def _surroundings(self, kernel: KernelState) -> Surroundings:
        return replace(
            seen_in(self._around, kernel, self._userspace_esp),
            identity=self._keyring.identity,
            hour=int(self._now() // 3600),
            doubted=self._trust.doubted,
            unfit=self.choice.unfit,
        )


def _beside(ways: Doors, routes: Mapping[RouteKey, Route]) -> frozenset[Prefix]:
    return frozenset(route.prefix for route in beside_doors(ways, routes.values()))


_Open = tuple[frozenset[Prefix] | None, tuple[Route, ...]]
"""What is carried, None if that is not known; and the more specific routes."""


def _opened(wanted: DesiredState, doors: _Open, observed: KernelState) -> DesiredState:
    if not wanted.doors:
        return wanted
    carried, beside = doors
    kernel = with_doors(wanted.kernel, wanted.doors, carried, observed, beside)
    return replace(wanted, kernel=kernel)
