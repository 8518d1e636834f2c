"""Charon's events, as hints that something may be other than it was: level-triggered.

It tells what to look at again, never what is there. It reads as fast as charon writes, whatever
its consumer does: charon's own queue has no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NoReturn

import trio

from fabricd.core.ownership import owns_conn
from fabricd.errors import Unavailable
from fabricd.ike.codec import sections
from fabricd.ike.connection import Connection

EVENTS: Final = ("ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update")

FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 2.0
"""Seconds between attempts to connect, doubling from the first to the last."""


async def watch(
    path: str, deadline: float, rng: Random, changed: Callable[[str], None]
) -> NoReturn:
    """Call `changed` with one line for each event of ours, and when charon comes and goes."""
    delay = FIRST_DELAY
    while True:
        try:
            async with Connection.opened(path, deadline) as connection:
                await connection.subscribe(EVENTS)
                delay = FIRST_DELAY
                changed("charon is there")
                await _tell(connection, changed)
        except Unavailable:
            pass
        await trio.sleep(rng.uniform(delay / 2, delay))
        delay = min(delay * 2, LAST_DELAY)


async def _tell(connection: Connection, changed: Callable[[str], None]) -> None:
    """Pass on events until the connection is lost."""
    while True:
        try:
            name, message = await connection.event()
        except Unavailable:
            changed("charon is gone")
            return
        for conn, _ in sections([message]):
            if owns_conn(conn):
                changed(f"{name} {conn}")
