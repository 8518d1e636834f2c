"""A store that is followed: what it feeds, and the records that follow from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from fabricd.core.events import Changed, Delete, Event, Listed, Lost, Put
from fabricd.sources import Store


class Followed:
    """Events as they come. `records` is what somebody who obeys all of them believes."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.records: dict[str, bytes] = {}
        self.in_sync = False
        self.deleted: list[str] = []
        """Keys that a Delete, or a Listed without them, took away."""
        self._news = trio.Event()

    def feed(self, event: Event) -> None:
        match event:
            case Listed(records):
                self.in_sync = True
                there = {put.key: put.value for put in records}
                self.deleted += self.records.keys() - there.keys()
                self.records = there
            case Changed(changes):
                assert self.in_sync, "after a Lost comes a Listed before anything else"
                for change in changes:
                    self._apply(change)
            case Lost():
                assert not any(isinstance(e, Lost) for e in self.events[-1:]), "Lost comes once"
                self.in_sync = False
        self.events.append(event)
        self._news.set()
        self._news = trio.Event()

    def _apply(self, change: Put | Delete) -> None:
        if isinstance(change, Put):
            self.records[change.key] = change.value
        else:
            assert change.key in self.records, "only what was there is deleted"
            del self.records[change.key]
            self.deleted.append(change.key)

    async def until(self, condition: Callable[[], object], timeout: float = 60) -> None:
        """Wait for the events that make the condition true."""
        with trio.move_on_after(timeout) as patience:
            while not condition():
                await self._news.wait()
        assert not patience.cancelled_caught, f"not within {timeout:g} s: {self.events[-5:]}"

    async def until_records(self, **records: str) -> None:
        """Wait until exactly these are the node records: `edge2="value"`."""
        wanted = {f"nodes/{name}": value.encode() for name, value in records.items()}
        await self.until(lambda: self.in_sync and self.records == wanted)

    def kinds(self) -> list[str]:
        """The events' names, in order."""
        return [type(event).__name__ for event in self.events]

    def lost(self) -> list[str]:
        """The reasons of all losses."""
        return [event.reason for event in self.events if isinstance(event, Lost)]


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Followed]:
    """Run the store while the block lasts; it is not closed."""
    followed = Followed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, followed.feed)
        yield followed
        nursery.cancel_scope.cancel()
