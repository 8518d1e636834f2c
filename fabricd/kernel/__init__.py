"""The kernel's side of a node: links, addresses, routes, rules and sysctls, over rtnetlink.

Carries out what it is told and reports what is there. Knows neither records nor tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NoReturn, Self

from fabricd.core.action import Action, Outcome
from fabricd.core.state import KernelState
from fabricd.kernel import observer, watcher
from fabricd.kernel.effector import Effector
from fabricd.kernel.netlink import Netlink

__all__ = ["Kernel"]

_EVENT_BUFFER: Final = 8 << 20
"""Octets: some ten thousand notifications."""


class Kernel:
    """The kernel, in the network namespace of the thread that enters the context.

    One context is one command socket and one event socket. Every method raises
    Unavailable("kernel", reason) when the kernel does not answer.
    """

    def __init__(self, sysctls: Sequence[str], *, event_buffer: int = _EVENT_BUFFER) -> None:
        self._sysctls = tuple(sysctls)
        self._event_buffer = event_buffer

    async def __aenter__(self) -> Self:
        self._commands = Netlink.open()
        try:
            self._events = Netlink.open(watcher.GROUPS, self._event_buffer)
        except BaseException:
            self._commands.close()
            raise
        self._effector = Effector(self._commands)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._events.close()
        self._commands.close()

    async def observe(self) -> KernelState:
        """All links and addresses, our routes and rules, and the sysctls asked for.

        A sysctl that this kernel doesn't have is left out.
        """
        interfaces = await self._effector.refresh()
        return await observer.read_state(self._commands, interfaces, self._sysctls)

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        """Carry out actions of `core.action.KERNEL_KINDS` in order; one outcome for each.

        A failure stops none of those that follow. To add what is there and to remove what is gone
        is success; to put something in the place of an object that is not ours is refused.
        """
        return await self._effector.apply(actions)

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for whatever others change: `link br-edge`, `route 2.2.2.0/27` …

        Also `address 2.2.2.1/27`, `rule 198`, and `netlink overrun` when notifications were lost.
        Of routes and rules only for those that carry our protocol number, or that have just
        replaced another, and not for what `apply` did. (What it did to links and addresses is
        told: there the kernel does not say who it was.) Nothing since the context was entered is
        missed.
        """
        await watcher.watch(self._events, self._commands.port, changed)
