"""Brings up the tunnels that a plan finds missing: again and again, with backoff, not all at once.

Level-triggered like everything else: each pass says which tunnels are missing, and whatever is
no longer among them is forgotten, its backoff with it. One task a connection, so that two
children of one peer never race for its IKE_SA. What is initiated when, and what came of it, is
all this file knows.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Final

import structlog
import trio

from fabricd.core.action import Tunnel
from fabricd.core.ownership import peer_of
from fabricd.daemon.parts import CharonPart
from fabricd.errors import Unavailable
from fabricd.ike import InitiateFailed

ATTEMPT_TIMEOUT: Final = 10.0
"""Seconds that an attempt may take."""

FIRST_DELAY: Final = 0.01
"""Seconds until the second attempt: the responder may be about to load its connection."""

SETTLE: Final = 2.0
"""Seconds that a success gets to show in what charon lists, before another attempt."""

EARLY: Final = 10.0
EARLY_DELAY: Final = 1.0
"""Seconds between attempts, and for how long at first: a responder that starts just now takes some
seconds until it has its connections, and who is late goes elsewhere."""

LAST_DELAY: Final = 30.0
"""Seconds between attempts in the long run."""

NEWS: Final = 1.0
"""Seconds of delay from which on a failure is worth a warning: before, the responder may just not
have heard of the record."""

FIRST_TIMEOUT: Final = 5.0
"""Seconds for an attempt at a peer that has not been silent before. One that is cut off in the
middle of a handshake leaves an SA at the peer, into which the peer sends: not too few, then."""

PARALLEL: Final = 4
"""Attempts at once: each holds one of charon's worker threads until it is over, of which there
are 16; charon needs 8 of them for itself, and some to answer the peers."""

log = structlog.get_logger()


class Initiator:
    """Keeps initiating what `want` named last."""

    def __init__(
        self,
        charon: CharonPart,
        poke: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        """`poke` is called after each attempt that changed something."""
        self._charon = charon
        self._poke = poke
        self._rng = rng
        self._limit = trio.CapacityLimiter(PARALLEL)
        self._slow = trio.CapacityLimiter(PARALLEL - 1)
        self._silent: set[str] = set()
        self.waiting: set[str] = set()
        """Connections whose next attempt waits for its turn."""
        self._wanted: dict[str, tuple[Tunnel, ...]] = {}
        self._tasks: dict[str, trio.CancelScope] = {}
        self._begin, self._begun = trio.open_memory_channel[tuple[str, trio.CancelScope]](math.inf)
        self.errors: dict[str, str] = {}
        """By connection: why the last attempt failed."""
        self._warned: set[str] = set()
        self.attempts: Counter[str] = Counter()
        """By connection: how many there were."""

    def want(self, missing: Iterable[Tunnel]) -> None:
        """Initiate exactly these from now on."""
        wanted: dict[str, list[Tunnel]] = {}
        for tunnel in missing:
            wanted.setdefault(tunnel.conn, []).append(tunnel)
        for conn in self._tasks.keys() - wanted.keys():
            self._tasks.pop(conn).cancel()
            self.errors.pop(conn, None)
        for conn, tunnels in wanted.items():
            before = self._wanted.get(conn, ())
            self._wanted[conn] = tuple(tunnels)
            if conn in self._tasks and set(tunnels) <= set(before):
                continue  # under way; its backoff goes on
            if conn in self._tasks:
                self._tasks.pop(conn).cancel()
            scope = self._tasks[conn] = trio.CancelScope()
            self._begin.send_nowait((conn, scope))
        self._wanted = {conn: self._wanted[conn] for conn in wanted}
        self._warned &= wanted.keys()
        self._silent &= wanted.keys()

    def forget(self, gone: Iterable[str]) -> None:
        """Drop what is remembered of connections that exist no more."""
        for conn in gone:
            self.attempts.pop(conn, None)
            self.errors.pop(conn, None)

    async def run(self) -> None:
        """Initiate what is wanted, for ever."""
        async with trio.open_nursery() as nursery:
            async for conn, scope in self._begun:
                nursery.start_soon(self._bring_up, conn, scope)

    async def _bring_up(self, conn: str, scope: trio.CancelScope) -> None:
        with scope:
            delay, begun = FIRST_DELAY, trio.current_time()
            refused: set[Tunnel] = set()
            while True:
                # A cancelled task can come here once more, when its pause has just ended.
                wanted = self._wanted.get(conn, ())
                if refused.issuperset(wanted):
                    refused.clear()
                pause = max(delay, SETTLE)
                for tunnel in wanted:
                    if tunnel in refused:
                        continue  # first those that it may have kept waiting
                    if not await self._attempt(tunnel, first=delay < NEWS):
                        refused.add(tunnel)
                        pause = delay
                        break
                await trio.sleep(pause * self._rng.uniform(0.5, 1.5))
                early = trio.current_time() - begun < EARLY
                delay = min(delay * 2, EARLY_DELAY if early else LAST_DELAY)

    async def _attempt(self, tunnel: Tunnel, *, first: bool) -> bool:
        conn = tunnel.conn
        # Who was silent before has to leave a place to the others, and gets more time.
        silent = conn in self._silent
        self.waiting.add(conn)
        try:
            async with self._slow if silent else nullcontext(), self._limit:
                self.waiting.discard(conn)
                self.attempts[conn] += 1
                started = trio.current_time()
                await self._charon.initiate(tunnel, ATTEMPT_TIMEOUT if silent else FIRST_TIMEOUT)
        except (InitiateFailed, Unavailable) as error:
            if trio.current_time() - started >= FIRST_TIMEOUT:
                self._silent.add(conn)
            words = {"peer": peer_of(conn), "child": tunnel.child, "reason": error.reason}
            if first:
                # No news yet.
                log.info("not initiated at once", **words)
            elif self.errors.get(conn) != error.reason or conn not in self._warned:
                self._warned.add(conn)
                log.warning("initiate failed", **words)
            if self.errors.get(conn) != error.reason:
                self.errors[conn] = error.reason
                self._poke(f"initiate {conn}")
            return False
        finally:
            self.waiting.discard(conn)
        self.errors.pop(conn, None)
        self._silent.discard(conn)
        self._warned.discard(conn)
        log.info("initiated", peer=peer_of(conn), child=tunnel.child)
        self._poke(f"initiated {conn}")
        return True
