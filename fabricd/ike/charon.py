"""Charon, the IKE daemon, as the reconciler sees it: observe, apply, initiate, watch.

Three sorts of connections: one for commands that is kept, one for each attempt to initiate, one
for events. Charon may come, go, hang and be replaced at any time; all of that is `Unavailable`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import NoReturn

import trio

from fabricd.core.action import Action, Outcome, Tunnel
from fabricd.core.state import IkeState
from fabricd.errors import Unavailable
from fabricd.ike import effector, initiator, watcher
from fabricd.ike.connection import Connection, Lost
from fabricd.ike.credentials import Credentials
from fabricd.ike.observer import Observer


class Charon:
    """The charon behind a VICI socket.

    `deadline`: seconds that charon may be silent before it counts as hung.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        deadline: float = 10,
        rng: Random | None = None,
    ) -> None:
        self._path = socket_path
        self._deadline = deadline
        self._rng = rng or Random()  # noqa: S311  # spreads reconnections, hides nothing
        self._turn = trio.Lock()
        self._connection: Connection | None = None
        self._observer = Observer()

    async def observe(
        self, only: Collection[str] | None = None, last: IkeState | None = None
    ) -> IkeState:
        """What charon holds that is ours. With `only`: of connections and SAs those of these names
        are looked at, the others are as in `last`; unless it may be another charon by now. Raises
        Unavailable.
        """
        async with self._turn:
            if self._connection is not None:
                try:
                    async with self._commands() as connection:
                        return await self._observer.observe(connection, only, last)
                except Lost:
                    pass  # it was restarted meanwhile: see what the new one holds
            async with self._commands() as connection:
                return await self._observer.observe(connection)

    async def listing(self) -> IkeState:
        """Everything, asked for on a connection of its own: to which charon the ids belong that
        `observe` has told is not touched. Raises Unavailable.
        """
        async with Connection.opened(self._path, self._deadline) as connection:
            return await Observer().observe(connection)

    async def apply(
        self, actions: Sequence[Action], credentials: Credentials | None
    ) -> list[Outcome]:
        """Carry out actions on charon in their order, CHILD_INITIATE excepted.

        Loading needs credentials. Raises Unavailable; how far it came is then unknown.
        """
        async with self._turn:
            by_id = any(action.kind in effector.BY_ID for action in actions)
            if by_id and self._connection is None:
                reason = "connected anew since its SAs were listed, their ids may mean others now"
                raise Unavailable("charon", reason)
            async with self._commands() as connection:
                return await effector.apply(connection, actions, credentials)

    async def initiate(self, tunnel: Tunnel, timeout: float) -> None:
        """Bring a CHILD_SA up; one that is up is no error. `timeout` in seconds.

        Holds one of charon's worker threads until it is over. Raises InitiateFailed, and
        Unavailable when charon is away.
        """
        async with Connection.opened(self._path, self._deadline) as connection:
            await initiator.initiate(connection, tunnel, timeout)

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` with a line whenever charon should be looked at again, for ever."""
        await watcher.watch(self._path, self._deadline, self._rng, changed)

    @asynccontextmanager
    async def _commands(self) -> AsyncIterator[Connection]:
        """The connection for commands; it is kept only if the block ends well.

        One that was lost, timed out or was cancelled half-way is of no more use.
        """
        connection = self._connection
        self._connection = None
        if connection is None:
            connection = await Connection.open(self._path, self._deadline)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._connection = connection
