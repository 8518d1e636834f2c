"""etcd as a store: when to list, when to watch, when to call it lost.

    list ──► watch ──► (broken) ──► does the history continue? ──► watch
     ▲                                        │ no, or Lost was fed
     └────────────────────────────────────────┘

A break that is over before patience runs out (another endpoint took over, a server restarted)
goes unnoticed: the watch goes on where it was. After a longer one, or where the history does
not go on, everything is listed again.

May not know of gRPC nor of etcd's messages: nothing here loads them before a store is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from fabricd.core.events import Changed, Delete, Event, Listed, Lost, Put
from fabricd.errors import Unavailable
from fabricd.sources.backoff import Backoff
from fabricd.sources.endpoint import parse_endpoint
from fabricd.sources.store import HistoryGone, Store

if TYPE_CHECKING:
    from fabricd.sources.etcd_records import Position

PATIENCE: Final = 3.0
"""Seconds out of sync before the store is called lost."""

LEASE_TTL: Final = 30
"""Seconds that what was published outlives the process."""


class EtcdStore(Store):
    """Records in etcd, below a prefix.

    endpoints: `http://HOST:PORT` or `https://…`; one is used at a time, the others stand by.
    ca, cert, key: PEM files for TLS; username, password_file: etcd's authentication.
    timeout: seconds for one call. lease_ttl: seconds that what was published outlives us.
    patience: seconds out of sync before the store is called lost.
    Raises ValueError for endpoints or credentials that make no sense.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        prefix: str,
        *,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        username: str | None = None,
        password_file: Path | None = None,
        rng: Random | None = None,
        timeout: float = 5.0,
        lease_ttl: int = LEASE_TTL,
        patience: float = PATIENCE,
    ) -> None:
        # gRPC and protobuf are loaded here and not before.
        from fabricd.sources.etcd_client import Credentials, EtcdClient  # noqa: PLC0415
        from fabricd.sources.etcd_lease import LeasedKeys  # noqa: PLC0415
        from fabricd.sources.etcd_records import EtcdRecords  # noqa: PLC0415

        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        if (cert is None) != (key is None):
            raise ValueError("a client certificate and its key go together")
        if (username is None) != (password_file is None):
            raise ValueError("a username and its password_file go together")
        rng = rng or Random()  # noqa: S311 - spreads retries, hides nothing
        credentials = Credentials(ca, cert, key, username, password_file)
        self._client = EtcdClient(
            [parse_endpoint(endpoint) for endpoint in endpoints], credentials, rng, timeout
        )
        self._records = EtcdRecords(self._client, prefix)
        self._leased = LeasedKeys(self._client, self._records, Backoff(rng), lease_ttl)
        self._backoff = Backoff(rng)
        self._patience = patience
        self._position: Position | None = None
        """Where the watch goes on; None: list first."""
        self._in_sync_since: float | None = None
        self._lost = False
        self._hope = trio.CancelScope()
        """Its deadline is when the store is called lost."""
        self._attempt = trio.CancelScope()
        self._why = f"no answer yet from {', '.join(endpoints)}"

    async def list(self) -> tuple[Put, ...]:
        """List all records at one revision."""
        puts, _ = await self._records.list()
        return puts

    async def put(self, key: str, value: bytes) -> None:
        """Write a record."""
        await self._records.put(key, value)

    async def delete(self, key: str) -> bool:
        """Delete a record; False: it was not there."""
        return await self._records.delete(key)

    async def publish(self, key: str, value: bytes) -> None:
        """Write under a lease that `run` keeps alive, and grants again when it was lost."""
        await self._leased.put(key, value)

    async def aclose(self) -> None:
        """Close the connection; what was published lasts until its lease runs out."""
        await self._client.aclose()

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed what happens to the records, as Store.run says."""
        self._position, self._in_sync_since, self._lost = None, None, False
        self._hope = trio.CancelScope(deadline=trio.current_time() + self._patience)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lose_patience, feed)
            nursery.start_soon(self._leased.keep)
            while True:
                try:
                    with trio.CancelScope() as self._attempt:
                        await self._follow(feed)
                except Unavailable as error:
                    self._why = error.reason
                    if isinstance(error, HistoryGone):
                        self._position = None
                self._out_of_sync()
                await trio.sleep(self._backoff.next())

    async def _follow(self, feed: Callable[[Event], None]) -> None:
        """List or go on, then watch; raises Unavailable when that ends."""
        start, listed = self._position, None
        if start is None or not await self._records.continues(start):
            puts, start = await self._records.list()
            listed = Listed(puts)

        def opened() -> None:
            if listed is not None:
                feed(listed)
            elif self._lost:
                return  # patience ran out at this very moment: this attempt is cancelled
            self._position = start
            self._in_sync_since = trio.current_time()
            self._lost = False
            self._hope.deadline = math.inf

        def deliver(changes: tuple[Put | Delete, ...], position: Position) -> None:
            if self._in_sync_since is not None:
                self._position = position
                if changes:
                    feed(Changed(changes))

        await self._records.watch(start, opened, deliver)

    async def _lose_patience(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed Lost, once an outage."""
        while True:
            with self._hope:
                await trio.sleep_forever()
            self._hope = trio.CancelScope()
            if self._in_sync_since is None:
                self._lost = True
                feed(Lost(self._why))
                if self._position is not None:
                    self._position = None
                    self._attempt.cancel()  # what comes next has to be a Listed

    def _out_of_sync(self) -> None:
        now = trio.current_time()
        if self._in_sync_since is not None:
            if now - self._in_sync_since > self._patience:
                self._backoff.reset()  # it was no flicker
            self._in_sync_since = None
            self._hope.deadline = now + self._patience
