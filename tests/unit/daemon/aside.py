"""What stands in for `fabricd.daemon.aside` where time is simulated, and a thread's is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Given = TypeVarTuple("Given")


async def at_once(work: Callable[[*Given], T], *given: *Given) -> T:
    """Without a thread."""
    await trio.lowlevel.checkpoint()
    return work(*given)
