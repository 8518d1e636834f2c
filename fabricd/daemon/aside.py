"""Work of some length, done where it does not keep the event loop waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Aside(Protocol):
    """`aside`, or what stands in for it where time is simulated."""

    async def __call__(self, work: Callable[[*Given], T], *given: *Given) -> T:
        """Do it, and wait for what comes of it."""
        ...


async def aside(work: Callable[[*Given], T], *given: *Given) -> T:
    """In a thread. The work has what it is given to itself, and changes nothing else."""
    return await trio.to_thread.run_sync(work, *given)
