"""What the reconcile loop needs of kernel and charon: the seams at which a simulated world fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from fabricd.core.action import Action, Outcome, Tunnel
from fabricd.core.state import IkeState, KernelState
from fabricd.ike import Credentials


class KernelPart(Protocol):
    """The kernel: `fabricd.kernel.Kernel`."""

    async def observe(self) -> KernelState:
        """Dump everything; raises Unavailable."""
        ...

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        """Carry out actions in order, one outcome each; raises Unavailable."""
        ...

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for each notification, for ever."""
        ...


class CharonPart(Protocol):
    """charon: `fabricd.ike.Charon`."""

    async def observe(self) -> IkeState:
        """List everything that is ours; raises Unavailable."""
        ...

    async def apply(
        self, actions: Sequence[Action], credentials: Credentials | None
    ) -> list[Outcome]:
        """Carry out actions in order, one outcome each; raises Unavailable."""
        ...

    async def initiate(self, tunnel: Tunnel, timeout: float) -> None:
        """Bring a CHILD_SA up; raises InitiateFailed, Unavailable."""
        ...

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for each event, for ever."""
        ...
