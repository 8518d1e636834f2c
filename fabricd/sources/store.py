"""What every store of records can do, whatever it is made of.

May not know of etcd, directories or the contents of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from fabricd.core.events import Event, Put
from fabricd.errors import Unavailable


class HistoryGone(Unavailable):
    """The store can't tell what happened since we last heard: list everything again."""


class Store(Protocol):
    """A place where records are kept.

    Keys are below the store's prefix: `nodes/edge2`, `communities/app1`, `status/edge2`.
    Whatever asks the store raises Unavailable("store", reason) when it does not answer or
    refuses, after a few seconds at most.
    """

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed what happens to the records, for ever; `feed` is synchronous and cheap.

        - Listed first, then a Changed a transaction, in the store's order.
        - Lost(reason) once, a few seconds after the store stops answering, or when it never
          answers. After a Lost comes a Listed before anything else.
        - Listed again after every doubt: history compacted, store wiped or restored.
        - A Delete only for a record that somebody deleted.
        """
        ...

    async def list(self) -> tuple[Put, ...]:
        """All records as they are now, sorted by key."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Write a record."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete a record; False: it was not there."""
        ...

    async def publish(self, key: str, value: bytes) -> None:
        """Write `status/NAME`, to last as long as this process if the store can do that."""
        ...

    def place(self, key: str, field: str) -> str:  # noqa: ARG002 - most need neither
        """Where a field of a record stands, for people; empty: where its key says."""
        return ""

    async def aclose(self) -> None:
        """Let go of connections. What was published stays until it runs out."""
        ...
