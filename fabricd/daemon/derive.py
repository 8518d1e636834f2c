"""From what is in force and what was seen to what should be: the surroundings gathered, the answer
kept as long as nothing of it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from fabricd.core.desired import DesiredState, desired
from fabricd.core.doors import carried_remotes, with_doors
from fabricd.core.fitness import unfit
from fabricd.core.rib import InForce
from fabricd.core.state import IkeState, KernelState
from fabricd.core.surroundings import Surroundings, seen_in
from fabricd.core.tunnels import ESTABLISHED
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.trust import Trust
from fabricd.model import Prefix, Role

REFUSED: Final = 300.0
"""Seconds until a gateway that failed is asked again for more than an IKE_SA."""

NEWS: Final = 3
"""Seconds that an IKE_SA is up when a failure is not one from before it."""

CHARON_GONE: Final = 20.0
"""Seconds that doors stay open without word of charon: the edges have noticed by then."""


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
        self._keyring = keyring
        self._trust = trust
        self._clock = clock
        self._now = wall_clock
        self._userspace_esp: bool | None = None
        self._carried: frozenset[Prefix] | None = None
        self._seen = clock()
        self._unfit: tuple[tuple[str, int], ...] = ()
        self._refused: dict[str, float] = {}
        """By connection to a gateway: until when its failure is remembered."""
        self._derived: tuple[InForce, Surroundings, DesiredState] | None = None
        self._opened: tuple[frozenset[Prefix], DesiredState] | None = None
        """What was derived, with the doors that what is carried opens."""

    def saw(self, ike: IkeState, in_force: InForce, failed: Collection[str]) -> None:
        """Charon was looked at; `failed` are the connections whose last attempt failed."""
        self._userspace_esp = ike.userspace_esp
        self._carried = carried_remotes(ike)
        self._seen = self._clock()
        self._unfit = ()
        self_node = in_force.nodes.get(self._around.name)
        if self_node is not None and self_node.role is Role.EDGE:
            gateways = [node for node in in_force.nodes.values() if node.role is Role.CLOUD]
            if len(gateways) > 1:
                self._unfit = unfit(self_node.name, gateways, ike, self._failed(failed, ike))

    def _failed(self, failed: Collection[str], ike: IkeState) -> Collection[str]:
        """Those that failed, and for a while those that did: where nothing is wanted any more,
        nothing fails. One that has no IKE_SA any more is judged by that alone.
        """
        now = self._seen
        standing = {sa.conn for sa in ike.sas if sa.state in ESTABLISHED and sa.age >= NEWS}
        self._refused |= dict.fromkeys(standing.intersection(failed), now + REFUSED)
        self._refused = {
            conn: until for conn, until in self._refused.items() if until > now and conn in standing
        }
        return {*failed, *self._refused}

    def derive(self, in_force: InForce, kernel: KernelState) -> DesiredState:
        """What should be. `kernel` is the kernel as it was seen last, or empty."""
        around = self._surroundings(kernel)
        known = self._derived
        if known is None or known[0] is not in_force or known[1] != around:
            answer = desired(in_force.nodes, in_force.communities, around)
            known = self._derived = in_force, around, answer
            self._opened = None
        carried = self._open()
        if carried is None:
            return _opened(known[2], None, kernel)
        if self._opened is None or self._opened[0] != carried:
            self._opened = carried, _opened(known[2], carried, kernel)
        return self._opened[1]

    def _open(self) -> frozenset[Prefix] | None:
        """What is carried; None: not known."""
        gone = self._clock() - self._seen > CHARON_GONE
        return frozenset() if gone else self._carried

    def _surroundings(self, kernel: KernelState) -> Surroundings:
        return replace(
            seen_in(self._around, kernel, self._userspace_esp),
            identity=self._keyring.identity,
            hour=int(self._now() // 3600),
            doubted=self._trust.doubted,
            unfit=self._unfit,
        )


def _opened(
    wanted: DesiredState, carried: frozenset[Prefix] | None, observed: KernelState
) -> DesiredState:
    if not wanted.doors:
        return wanted
    return replace(wanted, kernel=with_doors(wanted.kernel, wanted.doors, carried, observed))
