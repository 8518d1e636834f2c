"""Keys that last as long as this process: they are written under a lease that it keeps alive.

A lease that runs out all the same, because the store was away for longer or lost its data, is
granted again and the keys are written again; so are keys that somebody has deleted or changed. May
not know what is in them.
"""

from __future__ import annotations

from typing import Final, NoReturn

import grpc
import trio

from fabricd.errors import Unavailable
from fabricd.sources.backoff import Backoff
from fabricd.sources.etcd_client import EtcdClient, Refused
from fabricd.sources.etcd_proto import LEASE_GRANT, LEASE_KEEP_ALIVE
from fabricd.sources.etcd_records import EtcdRecords

LOOK: Final = 3
"""Every so many renewals the keys are looked at."""


class LeasedKeys:
    """What this process publishes; `ttl` in seconds is how long it outlives the process."""

    def __init__(
        self, client: EtcdClient, records: EtcdRecords, backoff: Backoff, ttl: int
    ) -> None:
        self._client = client
        self._records = records
        self._backoff = backoff
        self._ttl = ttl
        self._values: dict[str, bytes] = {}
        self._lease = 0
        self._one_at_a_time = trio.Lock()

    async def put(self, key: str, value: bytes) -> None:
        """Write a key under the lease; raises Unavailable."""
        async with self._one_at_a_time:
            self._values[key] = value
            if self._lease:
                try:
                    await self._records.put(key, value, self._lease)
                except Refused as error:
                    if error.code is not grpc.StatusCode.NOT_FOUND:  # the lease
                        raise
                else:
                    return
            await self._start_over()

    async def keep(self) -> NoReturn:
        """Keep the lease alive, for ever."""
        delay = self._ttl / 3
        number = 0
        while True:
            number += 1
            await trio.sleep(delay)
            try:
                async with self._one_at_a_time:
                    if self._values and not await self._renew():
                        await self._start_over()
                    elif number % LOOK == 0:
                        await self._put_back()
            except Unavailable:
                delay = min(self._backoff.next(), self._ttl / 3)
            else:
                self._backoff.reset()
                delay = self._ttl / 3

    async def _renew(self) -> bool:
        request = LEASE_KEEP_ALIVE.request(ID=self._lease)
        return bool((await self._client.call(LEASE_KEEP_ALIVE, request)).TTL > 0)

    async def _put_back(self) -> None:
        for key, value in self._values.items():
            if await self._records.value(key) != value:
                await self._records.put(key, value, self._lease)

    async def _start_over(self) -> None:
        self._lease = 0
        granted = await self._client.call(LEASE_GRANT, LEASE_GRANT.request(TTL=self._ttl))
        for key, value in self._values.items():
            await self._records.put(key, value, granted.ID)
        self._lease = granted.ID
