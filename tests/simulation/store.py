"""The store of records, as etcd behaves behind `fabricd.sources`: revisions, history, outages.

An operator changes it by transactions. Each node follows it through a client of its own, which
may be cut off, late, or in doubt; what a client feeds keeps the contract of `sources.Store`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import trio

from fabricd.core.events import FOLDERS, Changed, Delete, Event, Listed, Lost, Put
from fabricd.errors import Unavailable
from fabricd.sources import Store

PATIENCE: Final = 3.0
"""Seconds without an answer until a client says that the store is lost."""

LATENCY: Final = 0.02
"""Seconds from a change to its being heard of."""


@dataclass
class Records:
    """What etcd holds, and held."""

    now: dict[str, Put] = field(default_factory=dict)
    revision: int = 1
    log: dict[int, tuple[Put | Delete, ...]] = field(default_factory=dict)
    """Transactions by revision."""
    past: dict[int, dict[str, Put]] = field(default_factory=dict)
    """States by revision: backups."""
    life: int = 0
    """Another one after a wipe or a restore: revisions mean something else then."""
    status: dict[str, Any] = field(default_factory=dict)
    """What the nodes have published, by key."""
    up: bool = True
    clients: list[Client] = field(default_factory=list)
    changed: Callable[[], None] = lambda: None
    """Called after each change of what is there."""

    def commit(self, *changes: tuple[str, bytes | None]) -> None:
        """One transaction: values by key; None deletes."""
        self.past[self.revision] = dict(self.now)
        self.revision += 1
        events: list[Put | Delete] = []
        for key, value in changes:
            there = self.now.get(key)
            if value is not None:
                created = there.created if there else self.revision
                self.now[key] = put = Put(key, value, created)
                events.append(put)
            elif there is not None:
                del self.now[key]
                events.append(Delete(key))
        self.log[self.revision] = tuple(events)
        self.changed()
        self.tell()

    def wipe(self) -> None:
        """All data is lost; revisions begin anew."""
        self._live_anew({}, 1)

    def restore(self, revision: int) -> None:
        """Back to an older state, as from a backup."""
        past = self.past
        self._live_anew(dict(past[revision]), revision)
        self.past = {number: state for number, state in past.items() if number <= revision}

    def _live_anew(self, records: dict[str, Put], revision: int) -> None:
        self.now, self.revision, self.log, self.past = records, revision, {}, {}
        self.life += 1
        self.changed()
        self.tell()

    def compact(self) -> None:
        """Forget what happened before now."""
        self.log.clear()

    def set_up(self, up: bool) -> None:
        """Whether it answers anybody."""
        self.up = up
        self.tell()

    def client(self, node: str) -> Client:
        """Another one, in the place of the node's last."""
        self.clients = [client for client in self.clients if client.node != node]
        self.clients.append(client := Client(self, node))
        return client

    def tell(self) -> None:
        """Something is other than it was."""
        for client in self.clients:
            client.look()


class Client(Store):
    """One node's way to the records."""

    def __init__(self, records: Records, node: str) -> None:
        self.node = node
        self.records = records
        self.cut = False
        self.latency = LATENCY
        self.doubt = False
        """List everything again, for no reason that it would know."""
        self.repeat = False
        """Tell the last transaction once more."""
        self.fed: tuple[int, int] = (-1, 0)
        """Life and revision up to which everything was fed."""
        self.lost_at = 0.0
        """When it last said so."""
        self._news = trio.Event()

    def look(self) -> None:
        """Wake whoever waits for news."""
        self._news.set()
        self._news = trio.Event()

    @property
    def reached(self) -> bool:
        return self.records.up and not self.cut

    @property
    def current(self) -> bool:
        """Whether it has fed all there is, and would hear of more."""
        return self.reached and self.fed == (self.records.life, self.records.revision)

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        listed = lost = False
        while True:
            if not self.reached:
                with trio.move_on_after(PATIENCE):
                    await self._until(lambda: self.reached)
                if not self.reached and not lost:
                    self.lost_at = trio.current_time()
                    feed(Lost("no answer"))
                    listed, lost = False, True
                await self._until(lambda: self.reached)
            await trio.sleep(self.latency)
            if not self.reached:
                continue
            if not listed or self._in_doubt():
                self._list(feed)
                listed, lost = True, False
            await self._follow(feed)

    def _list(self, feed: Callable[[Event], None]) -> None:
        self.doubt = False
        self.fed = self.records.life, self.records.revision
        feed(Listed(records_of(self.records.now.values())))

    def _in_doubt(self) -> bool:
        life, seen = self.fed
        missing = any(
            number not in self.records.log for number in range(seen + 1, self.records.revision + 1)
        )
        return self.doubt or life != self.records.life or missing

    async def _follow(self, feed: Callable[[Event], None]) -> None:
        while self.reached and not self._in_doubt():
            life, seen = self.fed
            if seen == self.records.revision and not self.repeat:
                await self._until(lambda: True, at_once=False)
                await trio.sleep(self.latency)
                continue
            again = seen if self.repeat and seen in self.records.log else seen + 1
            self.repeat = False
            for number in range(again, self.records.revision + 1):
                changes = [c for c in self.records.log[number] if c.key.startswith(FOLDERS)]
                if changes:
                    feed(Changed(tuple(changes)))
            self.fed = life, self.records.revision

    async def _until(self, condition: Callable[[], bool], *, at_once: bool = True) -> None:
        if at_once and condition():
            return
        await self._news.wait()
        while not condition():
            await self._news.wait()

    async def list(self) -> tuple[Put, ...]:
        await self._ask()
        return records_of(self.records.now.values())

    async def put(self, key: str, value: bytes) -> None:
        await self._ask()
        self.records.commit((key, value))

    async def delete(self, key: str) -> bool:
        await self._ask()
        there = key in self.records.now
        if there:
            self.records.commit((key, None))
        return there

    async def publish(self, key: str, value: bytes) -> None:
        await self._ask()
        self.records.status[key] = json.loads(value)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _ask(self) -> None:
        await trio.sleep(self.latency if self.reached else PATIENCE)
        if not self.reached:
            raise Unavailable("store", "no answer")


def records_of(puts: Iterable[Put]) -> tuple[Put, ...]:
    return tuple(sorted((p for p in puts if p.key.startswith(FOLDERS)), key=lambda put: put.key))
