"""Kubernetes as a store: Nodes and Communities, each mirrored; together they are the records.

Listed is told when both mirrors stand, and again when one was listed anew. A break that is over
before patience runs out goes unnoticed, as with etcd.

May not know how the API is spoken, nor how a Node holds a record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, NoReturn

import trio

from fabricd.core.events import Changed, Delete, Event, Listed, Lost, Put
from fabricd.errors import Unavailable
from fabricd.sources.backoff import Backoff
from fabricd.sources.kube_access import Credentials
from fabricd.sources.kube_client import KubeClient
from fabricd.sources.kube_mirror import WATCH, Mirror
from fabricd.sources.kube_records import (
    COMMUNITIES,
    NODES,
    KubeCommunity,
    KubeNode,
    place,
    put_of_community,
    put_of_node,
)
from fabricd.sources.kube_status import StatusWriter
from fabricd.sources.kube_watch import Resource
from fabricd.sources.kube_write import COMMUNITIES_PATH, NODES_PATH, RecordWriter
from fabricd.sources.store import Store

PATIENCE: Final = 3.0
"""Seconds out of sync before the store is called lost."""


@dataclass(slots=True)
class _Followed:
    """A mirror, and how it stands."""

    mirror: Mirror
    backoff: Backoff
    in_sync_since: float | None = None
    attempt: trio.CancelScope = field(default_factory=trio.CancelScope)
    why: str = "no answer yet"


class KubeStore(Store):
    """Records in the Nodes and Communities of a cluster.

    timeout: seconds for one call. patience: seconds out of sync before the store is called lost.
    watch_seconds: of one watch, after which the next one follows. now: Unix seconds.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        rng: Random | None = None,
        timeout: float = 5.0,
        patience: float = PATIENCE,
        watch_seconds: int = WATCH,
        now: Callable[[], float] = time.time,
    ) -> None:
        rng = rng or Random()  # noqa: S311 - spreads retries, hides nothing
        self._client = client = KubeClient(credentials, timeout)
        self._writer = RecordWriter(client)
        self._status = StatusWriter(client, now, Backoff(rng))
        self._followed = [
            _Followed(Mirror(client, resource, key_of, put_of, watch_seconds), Backoff(rng))
            for resource, key_of, put_of in (
                (Resource(NODES_PATH, KubeNode), partial(_key, NODES), self._put_of_node),
                (
                    Resource(COMMUNITIES_PATH, KubeCommunity),
                    partial(_key, COMMUNITIES),
                    put_of_community,
                ),
            )
        ]
        self._patience = patience
        self._told = False
        """Whether the last Listed, and what was fed after it, still is what the mirrors show."""
        self._lost = False
        self._hope = trio.CancelScope()
        """Its deadline is when the store is called lost."""

    async def list(self) -> tuple[Put, ...]:
        """List all records now."""
        found: dict[str, Put] = {}
        for one in self._followed:
            found |= await one.mirror.list()
        return _sorted(found)

    async def put(self, key: str, value: bytes) -> None:
        """Write labels and annotations of a Node, which has to be there, or a Community."""
        await self._writer.put(key, value)

    async def delete(self, key: str) -> bool:
        """Take a Node's labels and annotations away, or a Community; False: there were none."""
        return await self._writer.delete(key)

    async def publish(self, key: str, value: bytes) -> None:
        """Write the Node's FabricNode, which lasts as long as the Node."""
        await self._status.publish(key, value)

    def place(self, key: str, field: str) -> str:
        """The label, annotation or field of a Node."""
        return place(field) if key.startswith(f"{NODES}/") else ""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # ------------------------------------------------------------ following

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed what happens to the records, as Store.run says."""
        self._told = self._lost = False
        self._hope = trio.CancelScope(deadline=trio.current_time() + self._patience)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._status.keep)
            for one in self._followed:
                one.mirror.forget()
                one.in_sync_since = None
                nursery.start_soon(self._keep, one, feed)
            await self._lose_patience(feed)

    async def _keep(self, one: _Followed, feed: Callable[[Event], None]) -> NoReturn:
        while True:
            try:
                with trio.CancelScope() as one.attempt:
                    await one.mirror.follow(
                        partial(self._opened, one, feed), partial(self._changed, feed)
                    )
            except Unavailable as error:
                one.why = error.reason
            self._out_of_sync(one)
            await trio.sleep(one.backoff.next())

    def _put_of_node(self, node: KubeNode) -> Put | None:
        self._status.saw(node.metadata.name, node.metadata.uid)
        return put_of_node(node)

    def _opened(self, one: _Followed, feed: Callable[[Event], None], listed: bool) -> None:
        if one.in_sync_since is None:
            one.in_sync_since = trio.current_time()
        if listed:
            self._told = False
        if not self._waiting():
            self._hope.deadline = math.inf
            if not self._told:
                self._told, self._lost = True, False
                found = {key: put for one in self._followed for key, put in one.mirror.puts.items()}
                feed(Listed(_sorted(found)))

    def _changed(self, feed: Callable[[Event], None], change: Put | Delete) -> None:
        if self._told:
            feed(Changed((change,)))

    async def _lose_patience(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed Lost, once an outage."""
        while True:
            with self._hope:
                await trio.sleep_forever()
            self._hope = trio.CancelScope()
            waiting = self._waiting()
            if waiting:
                self._told, self._lost = False, True
                feed(Lost(waiting[0].why))
                for one in waiting:
                    if one.mirror.forget():
                        one.attempt.cancel()  # it was about to go on; too much may have happened

    def _waiting(self) -> tuple[_Followed, ...]:
        """The mirrors that are out of sync."""
        return tuple(one for one in self._followed if one.in_sync_since is None)

    def _out_of_sync(self, one: _Followed) -> None:
        now = trio.current_time()
        if one.in_sync_since is not None:
            if now - one.in_sync_since > self._patience:
                one.backoff.reset()  # it was no flicker
            one.in_sync_since = None
            if not self._lost:
                self._hope.deadline = min(self._hope.deadline, now + self._patience)


def _key(folder: str, found: KubeNode | KubeCommunity) -> str:
    return f"{folder}/{found.metadata.name}"


def _sorted(puts: dict[str, Put]) -> tuple[Put, ...]:
    return tuple(put for _, put in sorted(puts.items()))
