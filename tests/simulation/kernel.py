"""The kernel of one node: dumps, actions, notifications, and hands that change it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

import trio

from fabricd.core.action import Action, Kind, Outcome
from fabricd.core.state import IfAddress, KernelState, Link, Pod
from fabricd.errors import Unavailable
from tests.property import world
from tests.simulation.iproute import Refused, ip
from tests.simulation.mood import Mood

DEADLINE = 5.0
"""Seconds that netlink may be silent."""


@dataclass
class SimulatedKernel:
    """What `fabricd.kernel.Kernel` is to a daemon."""

    mood: Mood
    before_action: Callable[[Action], None] = lambda action: None
    looked: Callable[[], None] = lambda: None
    acted: Callable[[Action, str | None], None] = lambda action, error: None
    """Told of each action and what came of it."""
    held: world.Kernel = field(default_factory=world.Kernel)
    refused: dict[str, str] = field(default_factory=dict)
    """Kinds of actions that fail, and why."""
    away: bool = False
    """Nothing answers."""
    hands: int = 0
    """How often somebody else changed something."""
    actions: int = 0
    """How often the daemon did."""
    hands_seen: int = 0
    """The same when the daemon looked last."""
    _watchers: list[Callable[[str], None]] = field(default_factory=list)

    async def observe(self, pods: Mapping[str, Pod] = MappingProxyType({})) -> KernelState:
        await self._answer()
        self.hands_seen = self.hands
        self.looked()
        return self.held.observe(pods)

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        await self._answer()
        outcomes = []
        for action in actions:
            await trio.lowlevel.checkpoint()  # here a daemon is killed
            self.before_action(action)
            error = self.refused.get(action.kind.value) or self.held.carry_out(action)
            outcomes.append(Outcome(action, error and f"{action.name}: {error}"))
            if isinstance(action.item, (Link, IfAddress)) and action.kind is not Kind.SYSCTL_SET:
                self.tell([_subject(action.item)])
            self.actions += 1
            self.acted(action, error)
        return outcomes

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        self._watchers.append(changed)
        try:
            await trio.sleep_forever()
        finally:
            self._watchers.remove(changed)
        raise AssertionError

    def by_hand(self, command: str) -> str:
        """An ip(8) command of somebody; what it was refused for, or ""."""
        self.hands += 1
        try:
            self.tell(ip(self.held, command))
        except Refused as refused:
            return str(refused)
        return ""

    def overrun(self) -> None:
        """ENOBUFS: notifications were lost, whichever."""
        self.tell(["netlink overrun"])

    def tell(self, subjects: Sequence[str]) -> None:
        for subject in subjects:
            for changed in self._watchers:
                self.mood.pass_on(changed, subject)

    async def _answer(self) -> None:
        if self.away:
            await trio.sleep(DEADLINE)
            raise Unavailable("kernel", f"no answer within {DEADLINE:g} s")
        await trio.lowlevel.checkpoint()


def _subject(item: Link | IfAddress) -> str:
    return f"link {item.name}" if isinstance(item, Link) else f"address {item.address}"
