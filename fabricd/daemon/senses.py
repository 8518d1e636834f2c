"""What is seen of kernel and charon, and what that says over time: traffic, health, trust.

Each is looked at when there is a reason to. One that does not answer is nobody's fault here: the
picture says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import trio

from fabricd.core.action import Outcome, Part
from fabricd.core.kept import Kept
from fabricd.core.rib import InForce
from fabricd.core.state import Pod
from fabricd.core.topology import Peering
from fabricd.daemon.derive import Deriver
from fabricd.daemon.health import Health
from fabricd.daemon.lookout import Lookout
from fabricd.daemon.parts import CharonPart, KernelPart
from fabricd.daemon.picture import Picture
from fabricd.daemon.traffic import Traffic
from fabricd.daemon.trust import Trust
from fabricd.errors import Unavailable
from fabricd.ike import Credentials
from fabricd.model import Node


class Senses:
    """Writes what it sees into the picture."""

    def __init__(
        self,
        kernel: KernelPart,
        charon: CharonPart,
        deriver: Deriver,
        trust: Trust,
        picture: Picture,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds that only grow."""
        self._kernel = kernel
        self._deriver = deriver
        self._picture = picture
        self._peers = Kept(_peers)
        self._kernel_stale = True
        """The kernel has to be looked at."""
        self._lookout = Lookout(charon, clock)
        self.traffic = Traffic()
        self.health = Health(clock)
        self.trust = trust

    # ------------------------------------------------------------ what says "look"

    def kernel_changed(self) -> None:
        """Something there may be otherwise."""
        self._kernel_stale = True

    def charon_changed(self, what: str) -> None:
        """As `Lookout.heard`."""
        self._lookout.heard(what)

    def acted(self, outcomes: Iterable[Outcome]) -> None:
        """What was done may have changed what is there."""
        outcomes = tuple(outcomes)
        self._kernel_stale |= any(o.action.kind.part is Part.KERNEL for o in outcomes)
        self._lookout.acted(outcomes)

    def doubt(self, *, kernel: bool = True) -> None:
        """Anything may be otherwise; `kernel=False`: but for the kernel."""
        self._kernel_stale |= kernel
        self._lookout.doubt()

    def try_again(self) -> None:
        """What did not answer may do so now."""
        self._kernel_stale |= self._picture.kernel is None
        if self._picture.ike is None:
            self._lookout.doubt()

    @property
    def charon_seen_at(self) -> float:
        """When all of it was looked at last."""
        return self._lookout.seen_at

    # ------------------------------------------------------------ looking

    async def look_at_kernel(self, pods: Mapping[str, Pod]) -> None:
        """If there is a reason to. `pods`: what to look for of pods."""
        if not self._kernel_stale:
            return
        self._kernel_stale = False  # an event from here on asks for another look
        try:
            self._picture.kernel = await self._kernel.observe(pods)
            self._picture.mend("kernel")
        except Unavailable as error:
            self._picture.kernel = None
            self._picture.fault(error)

    async def look_at_charon(
        self, in_force: InForce, credentials: Credentials | None, failed: Collection[str]
    ) -> bool:
        """If there is a reason to. `failed`: connections whose last attempt failed. Returns whether
        the kernel has to be looked at again to know what that means.
        """
        if not self._lookout.due:
            return False
        picture = self._picture
        try:
            ike = await self._lookout.look(picture.ike)
        except Unavailable as error:
            picture.ike = None
            picture.fault(error)
            self._deriver.missed()
            return False
        # With many peers each of these takes its time: others have their turn between them.
        self._deriver.saw(ike, in_force, failed)
        self.traffic.update(ike)
        await trio.lowlevel.checkpoint()
        self.health.update(ike, picture.desired.peerings)
        await trio.lowlevel.checkpoint()
        refused = {*failed, *self._deriver.choice.refused}
        self.trust.update(ike, self._peers.of(picture.desired.peerings), credentials, refused)
        picture.ike = ike  # last: who sees that it is new finds the rest up to date
        picture.mend("charon")
        return self._deriver.wonders


def _peers(peerings: tuple[Peering, ...]) -> tuple[Node, ...]:
    return tuple(peering.peer for peering in peerings)
