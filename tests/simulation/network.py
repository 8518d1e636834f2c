"""The network between charons: who reaches whom, and who finds out that nobody answers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from tests.simulation.ike import Half, Process

if TYPE_CHECKING:
    from tests.simulation.charon import Charon

GIVE_UP: Final = 11.0
"""Seconds of retransmissions until a peer is given up (`retransmit_*` of strongswan.conf)."""


@dataclass
class Network:
    """Which nodes reach each other, and how fast."""

    nursery: trio.Nursery
    rng: random.Random
    hosts: dict[str, str] = field(default_factory=dict)
    """Addresses to nodes."""
    charons: dict[str, Charon] = field(default_factory=dict)
    cut: set[frozenset[str]] = field(default_factory=set)
    changed: trio.Event = field(default_factory=trio.Event)

    def open(self, one: str, other: str) -> bool:
        return frozenset({one, other}) not in self.cut

    def listener(self, at: str, to: str) -> Process | None:
        """The process that hears, at `to`, what is sent at `at`."""
        charon = self.charons.get(to)
        if charon is None or charon.process is None or charon.hung or not self.open(at, to):
            return None
        return charon.process

    async def flight(self) -> None:
        """The time that a message takes."""
        await trio.sleep(self.rng.uniform(0.002, 0.02))

    async def send(self, at: str, to: str, patience: float = GIVE_UP) -> Process | None:
        """A request and its retransmissions; None: nobody heard any of them."""
        with trio.move_on_after(patience):
            while True:
                heard = self.listener(at, to)
                if heard is not None:
                    await self.flight()
                    return self.listener(at, to)
                await self.changed.wait()
        return None

    def look(self) -> None:
        """Somebody has come or gone: who waits for him sees to it, and who has SAs with him."""
        self.changed.set()
        self.changed = trio.Event()
        for charon in self.charons.values():
            for half in charon.halves:
                self.suspect(charon, half)

    def broken(self, charon: Charon, half: Half) -> bool:
        """Whether nothing passes between the two halves."""
        other = half.other
        if other is None or not other.alive:
            return True
        return self.listener(charon.node, half.peer) is not other.process

    def suspect(self, charon: Charon, half: Half) -> None:
        """Dead peer detection begins, if there is something to detect."""
        if half.state == "ESTABLISHED" and not half.suspected and self.broken(charon, half):
            half.suspected = True
            self.nursery.start_soon(self._detect, charon, half)

    async def _detect(self, charon: Charon, half: Half) -> None:
        await trio.sleep(half.set_up.conn.dpd + GIVE_UP)
        while charon.hung and half.alive:  # noqa: ASYNC110 - the time is simulated
            await trio.sleep(1)
        half.suspected = False
        if half.alive and self.broken(charon, half):
            charon.destroy(half)
