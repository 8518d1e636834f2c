"""What every store does, whatever it is made of: one suite, played on each of them."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from fabricd.core.events import Changed, Delete, Listed
from fabricd.errors import Unavailable
from fabricd.sources import DirStore, EtcdStore, Store
from lab.etcd import Etcd, free_port
from tests.lab.followed import following
from tests.simulation.store import Client, Records

PREFIX = "/fabric"


class World(Protocol):
    """A store's surroundings: what stands where, and how to take it away."""

    def store(self) -> Store:
        """Another client of the same store."""

    def write(self, name: str, value: str) -> None:
        """Write something at a place that no record has."""

    def published(self, name: str) -> str: ...

    def go(self) -> None:
        """Nobody answers from here on; nothing is forgotten."""

    def come_back(self) -> None: ...

    @contextmanager
    def behind_its_back(self) -> Iterator[None]:
        """What is written inside happens while those who follow the store can't see it."""


class DirWorld:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.away = path.with_name("away")
        path.mkdir()

    def store(self) -> DirStore:
        return DirStore(self.path)

    def write(self, name: str, value: str) -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)

    def published(self, name: str) -> str:
        return (self.path / "status" / f"{name}.json").read_text()

    def go(self) -> None:
        self.path.rename(self.away)

    def come_back(self) -> None:
        self.away.rename(self.path)

    @contextmanager
    def behind_its_back(self) -> Iterator[None]:
        here = self.path
        self.path = self.away
        yield
        self.path = here


class EtcdWorld:
    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd

    def store(self) -> EtcdStore:
        return EtcdStore([self.etcd.endpoint], PREFIX, rng=random.Random(1))

    def write(self, name: str, value: str) -> None:
        self.etcd.put(f"{PREFIX}/{name}", value)

    def published(self, name: str) -> str:
        return self.etcd.get(f"{PREFIX}/status/{name}")

    def go(self) -> None:
        self.etcd.stop()

    def come_back(self) -> None:
        if not self.etcd.running.alive:
            self.etcd.start()

    @contextmanager
    def behind_its_back(self) -> Iterator[None]:
        # Others have their own way to this etcd; it has gone back to where we expect it after.
        port, self.etcd.port = self.etcd.port, free_port()
        ours, self.etcd.endpoint = self.etcd.endpoint, f"http://127.0.0.1:{self.etcd.port}"
        self.etcd.start()
        yield
        self.etcd.stop()
        self.etcd.port, self.etcd.endpoint = port, ours


class SimulatedWorld:
    """The store of the simulation: this keeps it from drifting away from the real ones."""

    def __init__(self) -> None:
        self.records = Records()
        self.away = False
        self.number = 0

    def store(self) -> Client:
        self.number += 1
        client = self.records.client(f"client {self.number}")
        client.cut = self.away
        return client

    def write(self, name: str, value: str) -> None:
        self.records.commit((name, value.encode()))

    def published(self, name: str) -> str:
        return json.dumps(self.records.status[f"status/{name}"])

    def go(self) -> None:
        self._cut(True)

    def come_back(self) -> None:
        self._cut(False)

    def _cut(self, away: bool) -> None:
        self.away = away
        for client in self.records.clients:
            client.cut = away
        self.records.tell()

    @contextmanager
    def behind_its_back(self) -> Iterator[None]:
        self.away = False
        yield
        self.away = True


@pytest.fixture(params=["dir", "etcd", "simulated"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "simulated":
        return SimulatedWorld()
    if request.param == "dir":
        return DirWorld(tmp_path / "records")
    return EtcdWorld(request.getfixturevalue("etcd"))


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    store = world.store()
    yield store
    await store.aclose()


@pytest.fixture
async def other(world: World) -> AsyncIterator[Store]:
    """An operator beside us."""
    store = world.store()
    yield store
    await store.aclose()


async def test_first_comes_everything_there_is(store: Store, other: Store) -> None:
    await other.put("nodes/edge2", b"two")
    await other.put("nodes/edge1", b"one")
    await other.put("communities/app1", b"app")
    async with following(store) as seen:
        await seen.until(lambda: seen.events)
        (listed,) = seen.events
        assert isinstance(listed, Listed)
        assert [(put.key, put.value) for put in listed.records] == [
            ("communities/app1", b"app"),
            ("nodes/edge1", b"one"),
            ("nodes/edge2", b"two"),
        ]
    assert await store.list() == listed.records


async def test_an_empty_store_is_in_sync(store: Store) -> None:
    async with following(store) as seen:
        await seen.until(lambda: seen.events)
        assert seen.events == [Listed(())]
    assert await store.list() == ()


async def test_put_change_delete_arrive_in_order(store: Store, other: Store) -> None:
    await other.put("nodes/edge0", b"zero")
    async with following(store) as seen:
        await seen.until_records(edge0="zero")
        await other.put("nodes/edge1", b"one")
        await seen.until_records(edge0="zero", edge1="one")
        await other.put("nodes/edge1", b"uno")
        await seen.until_records(edge0="zero", edge1="uno")
        assert await other.delete("nodes/edge1")
        await seen.until_records(edge0="zero")
        assert not await other.delete("nodes/edge1")
        await other.put("nodes/edge1", b"again")
        await seen.until_records(edge0="zero", edge1="again")
    assert seen.kinds() == ["Listed", "Changed", "Changed", "Changed", "Changed"]
    assert seen.events[3] == Changed((Delete("nodes/edge1"),))


async def test_status_is_written_and_never_read(world: World, store: Store, other: Store) -> None:
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        await store.publish("status/edge2", b'{"node": "edge2"}')
        await store.publish("status/edge2", b'{"node": "edge2", "synced": true}')
        await other.put("nodes/last", b"x")
        await seen.until_records(last="x")
    assert json.loads(world.published("edge2")) == {"node": "edge2", "synced": True}
    assert [put.key for put in await store.list()] == ["nodes/last"]


async def test_what_is_no_record_is_not_fed(world: World, store: Store, other: Store) -> None:
    world.write("nodesandmore", "x")
    world.write("links/edge1", "x")
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        world.write("nodes-too", "x")
        world.write("links/edge2", "x")
        await other.put("nodes/last", b"x")
        await seen.until_records(last="x")
    assert seen.deleted == []


async def test_a_burst(store: Store, other: Store) -> None:
    wanted = {f"n{number:03}": "x" * number for number in range(1, 501)}
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        for name, value in wanted.items():
            await other.put(f"nodes/{name}", value.encode())
        await seen.until_records(**wanted)
    assert seen.deleted == []


async def test_whatever_happens_in_whatever_order_ends_in_what_stands_there(
    store: Store, other: Store
) -> None:
    rng = random.Random(7)
    keys = [f"{folder}/{name}" for folder in ("nodes", "communities") for name in "abcd"]
    async with following(store) as seen:
        for number in range(200):
            key = rng.choice(keys)
            if rng.random() < 0.3:
                await other.delete(key)
            else:
                await other.put(key, b"%d" % number)
        await other.put("nodes/last", b"x")
        await seen.until(lambda: "nodes/last" in seen.records)
    assert seen.records == {put.key: put.value for put in await store.list()}


async def test_away_nothing_is_deleted_and_back_everything_is_there(
    world: World, store: Store, other: Store
) -> None:
    for name in ("edge1", "edge2", "edge3"):
        await other.put(f"nodes/{name}", b"old")
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        world.go()
        await seen.until(seen.lost)
        assert len(seen.records) == 3
        assert seen.deleted == []
        with world.behind_its_back():
            someone = world.store()
            await someone.put("nodes/edge1", b"new")
            await someone.delete("nodes/edge2")
            await someone.aclose()
        world.come_back()
        await seen.until_records(edge1="new", edge3="old")
        assert seen.kinds() == ["Listed", "Lost", "Listed"]
        assert seen.deleted == ["nodes/edge2"]
        await other.put("nodes/edge4", b"after")
        await seen.until_records(edge1="new", edge3="old", edge4="after")


async def test_never_there_is_lost_and_then_listed(
    world: World, store: Store, other: Store
) -> None:
    await other.put("nodes/edge1", b"one")
    world.go()
    async with following(store) as seen:
        await seen.until(seen.lost)
        assert seen.kinds() == ["Lost"]
        world.come_back()
        await seen.until_records(edge1="one")
        assert seen.kinds() == ["Lost", "Listed"]


async def test_away_every_request_says_so(world: World, store: Store) -> None:
    world.go()
    for request in (
        store.list(),
        store.put("nodes/edge1", b"x"),
        store.delete("nodes/edge1"),
        store.publish("status/edge1", b"x"),
    ):
        with pytest.raises(Unavailable) as refused:
            await request
        assert refused.value.part == "store"
        assert "\n" not in refused.value.reason
