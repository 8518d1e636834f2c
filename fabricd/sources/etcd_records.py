"""The records as etcd keeps them: listed in pages at one revision, watched from the next.

One watch sees nodes and communities together, because `communities/` … `nodes/` is one range
that ends before `status/`: a transaction that changes both arrives as one, and what every
node writes about itself does not arrive at all. So a user of etcd needs `read` on that whole
range; `--prefix PREFIX/` covers it.

May not know when to list, when to watch, or what to do when that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc

from fabricd.core.events import FOLDERS, Delete, Put
from fabricd.sources.etcd_client import EtcdClient, Refused
from fabricd.sources.etcd_proto import DELETE_RANGE, PUT, RANGE, Method
from fabricd.sources.etcd_watch import watch

PAGE: Final = 1000
"""Records in one response."""

DELETED: Final = 1
"""mvccpb.Event.EventType.DELETE."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the history of the store is known, and by what to recognise that history."""

    revision: int
    """Everything up to and including this was seen."""
    cluster: int
    newest: Any
    """The record (mvccpb.KeyValue) that was written last, while it stands; None: unknown."""

    def after(self, events: Sequence[Any]) -> Position:
        """The position after one transaction.

        Its own revision counts: the one in a response's header runs ahead while a watch
        catches up.
        """
        newest = self.newest
        for event in events:
            if event.type != DELETED:
                newest = event.kv
            elif newest is not None and newest.key == event.kv.key:
                newest = None
        return Position(events[-1].kv.mod_revision, self.cluster, newest)


class EtcdRecords:
    """The records below a prefix. Every method raises Unavailable."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix.rstrip("/").encode() + b"/"
        self._first = self._prefix + b"communities/"
        self._end = self._prefix + b"nodes0"  # "0" is what follows "/"

    async def list(self) -> tuple[tuple[Put, ...], Position]:
        """All records at one revision, sorted by key."""
        key, revision, cluster, pairs = self._first, 0, 0, list[Any]()
        while True:
            page = await self._read(key, self._end, revision)
            revision, cluster = revision or page.header.revision, page.header.cluster_id
            pairs += page.kvs
            if not page.more:
                break
            key = pairs[-1].key + b"\0"
        newest = max(pairs, key=lambda pair: pair.mod_revision, default=None)
        puts = (self._put_of(pair) for pair in pairs)
        return tuple(filter(_is_record, puts)), Position(revision, cluster, newest)

    async def continues(self, position: Position) -> bool:
        """Whether the store's history still has this position in it: same cluster, and the
        record that was newest then was so at that revision. In doubt it has not.
        """
        if position.newest is None:
            return False
        try:
            answer = await self._read(position.newest.key, b"", position.revision)
        except Refused as error:
            if error.code is grpc.StatusCode.OUT_OF_RANGE:  # compacted, or in the future
                return False
            raise
        return answer.header.cluster_id == position.cluster and position.newest in answer.kvs

    async def watch(
        self,
        position: Position,
        opened: Callable[[], None],
        deliver: Callable[[tuple[Put | Delete, ...], Position], None],
    ) -> NoReturn:
        """What happens after a position: each transaction, and the position after it.

        Raises Unavailable when the watch breaks or is refused, HistoryGone when the position
        is not in the store's history.
        """

        def transaction(events: Sequence[Any]) -> None:
            nonlocal position
            position = position.after(events)
            changes = tuple(filter(_is_record, map(self._change_of, events)))
            deliver(changes, position)

        await watch(
            self._client,
            self._first,
            self._end,
            position.revision + 1,
            opened=opened,
            deliver=transaction,
        )

    async def value(self, key: str) -> bytes | None:
        """What one key holds, if it is there."""
        answer = await self._read(self._prefix + key.encode(), b"", 0)
        return bytes(answer.kvs[0].value) if answer.kvs else None

    async def put(self, key: str, value: bytes, lease: int = 0) -> None:
        """Write one key."""
        request = PUT.request(key=self._prefix + key.encode(), value=value, lease=lease)
        await self._call(PUT, request, f"write on {self._prefix.decode()}{key}")

    async def delete(self, key: str) -> bool:
        """Delete one key; False: it was not there."""
        request = DELETE_RANGE.request(key=self._prefix + key.encode())
        right = f"write on {self._prefix.decode()}{key}"
        return bool((await self._call(DELETE_RANGE, request, right)).deleted)

    async def _read(self, key: bytes, end: bytes, revision: int) -> Any:
        request = RANGE.request(key=key, range_end=end, limit=PAGE, revision=revision)
        return await self._call(RANGE, request, f"read on the prefix {self._prefix.decode()}")

    async def _call(self, method: Method, request: Any, right: str) -> Any:
        """Ask; `right` is what the user of etcd needs for it."""
        try:
            return await self._client.call(method, request)
        except Refused as error:
            if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            reason = f"{error.reason}: the user needs a role with {right} (docs/etcd.md)"
            raise Refused(reason, error.code, error.details) from error

    def _change_of(self, event: Any) -> Put | Delete:
        return Delete(self._name(event.kv)) if event.type == DELETED else self._put_of(event.kv)

    def _put_of(self, pair: Any) -> Put:
        return Put(self._name(pair), pair.value, pair.create_revision)

    def _name(self, pair: Any) -> str:
        name: bytes = pair.key.removeprefix(self._prefix)
        return name.decode("utf-8", "backslashreplace")


def _is_record(change: Put | Delete) -> bool:
    return change.key.startswith(FOLDERS)
