"""A directory as a store, with real files and real inotify."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trio.testing

from fabricd.core.events import Changed, Delete, Listed, Put
from fabricd.errors import Unavailable
from fabricd.sources import DirStore
from tests.lab.followed import following

QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for folder in ("nodes", "communities"):
        (tmp_path / "records" / folder).mkdir(parents=True)
    return tmp_path / "records"


async def test_files_as_an_operator_handles_them(path: Path) -> None:
    edge1, edge2 = path / "nodes" / "edge1.json", path / "nodes" / "edge2.json"
    async with following(DirStore(path)) as seen:
        await seen.until_records()
        edge1.write_text("one")
        await seen.until_records(edge1="one")
        with edge1.open("r+") as opened:  # in place, same length, same inode
            opened.write("uno")
        await seen.until_records(edge1="uno")
        edge1.rename(edge2)
        await seen.until_records(edge2="uno")
        edge2.unlink()
        await seen.until_records()
        (path / "draft").write_text("made elsewhere")
        (path / "draft").rename(edge1)
        await seen.until_records(edge1="made elsewhere")
        edge1.rename(path / "draft")
        await seen.until_records()
        edge2.hardlink_to(path / "draft")
        await seen.until_records(edge2="made elsewhere")
        edge1.symlink_to(path / "draft")
        await seen.until_records(edge1="made elsewhere", edge2="made elsewhere")
    assert seen.kinds()[1:] == ["Changed"] * (len(seen.events) - 1)


async def test_no_half_written_record_is_fed(path: Path) -> None:
    async with following(DirStore(path)) as seen:
        await seen.until_records()
        with (path / "nodes" / "edge1.json").open("w") as opened:
            (path / "nodes" / "edge2.json").write_text("two")
            await seen.until_records(edge2="two")
            opened.write("one")
        await seen.until_records(edge1="one", edge2="two")
    values = [
        c.value
        for e in seen.events
        if isinstance(e, Changed)
        for c in e.changes
        if isinstance(c, Put)
    ]
    assert values == [b"two", b"one"]


async def test_who_reads_while_it_is_written_sees_the_old_or_the_new(path: Path) -> None:
    store, edge1 = DirStore(path), path / "nodes" / "edge1.json"
    await store.put("nodes/edge1", b"old")
    with edge1.open("rb") as reader:
        await store.put("nodes/edge1", b"new")
        assert reader.read() == b"old"
    assert edge1.read_bytes() == b"new"
    assert list((path / "nodes").iterdir()) == [edge1]


@pytest.mark.parametrize(
    "name", [".edge1.json", ".edge1.json.swp", "edge1.json~", "edge1", "#edge1.json#", "4913"]
)
async def test_editors_files_are_no_records(path: Path, name: str) -> None:
    (path / "nodes" / name).write_text("old")
    async with following(DirStore(path)) as seen:
        await seen.until_records()
        (path / "nodes" / name).write_text("x")
        (path / "nodes" / "edge2.json").write_text("two")
        await seen.until_records(edge2="two")
        (path / "nodes" / name).unlink()
        (path / "nodes" / "edge3.json").write_text("three")
        await seen.until_records(edge2="two", edge3="three")
    assert seen.deleted == []


async def test_a_file_that_cannot_be_read_keeps_its_last_value(path: Path) -> None:
    edge1, edge2 = path / "nodes" / "edge1.json", path / "nodes" / "edge2.json"
    loop = path / "nodes" / "loop.json"
    edge1.write_text("one")
    edge2.write_text("two")
    loop.symlink_to("loop.json")  # nobody can read that, root included
    async with following(DirStore(path)) as seen:
        await seen.until_records(edge1="one", edge2="two", loop="")
        loop.rename(edge1)  # from here on it leads nowhere
        await seen.until_records(edge1="one", edge2="two")
        # … also when all is read anew.
        (path / "communities").rmdir()
        await seen.until(lambda: seen.kinds()[-1] == "Listed" and len(seen.events) > 2)
        assert seen.records == {"nodes/edge1": b"one", "nodes/edge2": b"two"}
        edge1.unlink()
        await seen.until_records(edge2="two")
    assert seen.deleted == ["nodes/loop", "nodes/edge1"]


async def test_what_is_no_file_does_not_stop_it(path: Path) -> None:
    os.mkfifo(path / "nodes" / "fifo.json")
    (path / "nodes" / "folder.json").mkdir()
    store = DirStore(path)
    assert [(put.key, put.value) for put in await store.list()] == [
        ("nodes/fifo", b""),
        ("nodes/folder", b""),
    ]
    async with following(store) as seen:
        await seen.until_records(fifo="", folder="")
        os.mkfifo(path / "nodes" / "second.json")
        (path / "nodes" / "edge1.json").write_text("one")
        await seen.until(lambda: "nodes/edge1" in seen.records)


async def test_a_folder_replaced_is_no_deletion(path: Path) -> None:
    (path / "nodes" / "edge1.json").write_text("one")
    (path / "nodes" / "edge2.json").write_text("two")
    fresh = path / "fresh"
    fresh.mkdir()
    (fresh / "edge2.json").write_text("zwei")
    (fresh / "edge1.json").write_text("one")
    async with following(DirStore(path)) as seen:
        await seen.until_records(edge1="one", edge2="two")
        (path / "nodes").rename(path / "old")
        await trio.testing.wait_all_tasks_blocked(0.02)  # it has noticed
        fresh.rename(path / "nodes")
        await seen.until_records(edge1="one", edge2="zwei")
        (path / "old" / "edge1.json").write_text("nobody looks here any more")
        (path / "nodes" / "edge3.json").write_text("three")
        await seen.until_records(edge1="one", edge2="zwei", edge3="three")
    assert not seen.lost()
    assert seen.deleted == []


async def test_a_folder_that_is_gone_is_lost_and_an_empty_one_is_empty(path: Path) -> None:
    (path / "nodes" / "edge1.json").write_text("one")
    async with following(DirStore(path)) as seen:
        await seen.until_records(edge1="one")
        shutil.move(path / "nodes", path / "away")
        await seen.until(seen.lost)
        assert seen.lost() == [
            f"{path}/nodes is gone: put it back, or make an empty one to delete all in it"
        ]
        assert seen.deleted == []
        shutil.move(path / "away", path / "nodes")
        await seen.until_records(edge1="one")
        shutil.move(path / "nodes", path / "away")
        await seen.until(lambda: len(seen.lost()) == 2)
        (path / "nodes").mkdir()
        await seen.until_records()
        assert seen.deleted == ["nodes/edge1"]


async def test_folders_that_appear_later(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records"
    async with following(DirStore(path)) as seen:
        await seen.until(seen.lost)
        assert seen.lost() == [f"{path}: cannot be read: No such file or directory"]
        path.mkdir(parents=True)
        await seen.until_records()
        (path / "nodes").mkdir()
        (path / "nodes" / "edge1.json").write_text("one")
        await seen.until_records(edge1="one")
        (path / "communities").mkdir()
        (path / "communities" / "app1.json").write_text("app")
        await seen.until(lambda: "communities/app1" in seen.records)
    assert seen.deleted == []


async def test_a_link_to_another_release(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release / "nodes").mkdir(parents=True)
        (tmp_path / release / "nodes" / "edge1.json").write_text(release)
    (tmp_path / "records").symlink_to("1")
    async with following(DirStore(tmp_path / "records")) as seen:
        await seen.until_records(edge1="1")
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(tmp_path / "records")
        await seen.until_records(edge1="2")
        (tmp_path / "2" / "nodes" / "edge1.json").write_text("2.1")
        await seen.until_records(edge1="2.1")


async def test_a_volume_of_kubernetes(path: Path) -> None:
    nodes = path / "nodes"
    for version in ("1", "2"):
        (nodes / f"..{version}").mkdir()
        (nodes / f"..{version}" / "edge1.json").write_text(version)
    (nodes / "..data").symlink_to("..1")
    (nodes / "edge1.json").symlink_to("..data/edge1.json")
    async with following(DirStore(path)) as seen:
        await seen.until_records(edge1="1")
        (nodes / "..data_tmp").symlink_to("..2")
        (nodes / "..data_tmp").rename(nodes / "..data")
        await seen.until_records(edge1="2")


async def test_notices_that_were_lost_make_it_read_all(path: Path) -> None:
    """More changes than the kernel's queue holds, while nobody reads it."""
    async with following(DirStore(path)) as seen:
        await seen.until_records()
        for number in range(QUEUE // 2 + 1):  # trio does not run meanwhile
            file = path / "nodes" / f"n{number % 10}.json"
            file.write_text("x") if number < 10 else file.chmod(0o600 + number // 10 % 2)
            (path / "nodes" / "other.json").touch()
        (path / "nodes" / "last.json").write_text("x")
        await seen.until(lambda: "nodes/last" in seen.records)
        assert isinstance(seen.events[-1], Listed)
        (path / "nodes" / "last.json").unlink()
        await seen.until(lambda: seen.events[-1] == Changed((Delete("nodes/last"),)))


async def test_one_wake_up_is_one_changed(path: Path) -> None:
    async with following(DirStore(path)) as seen:
        await seen.until_records()
        for number in range(500):
            (path / "nodes" / f"n{number}.json").write_text("x")
        await seen.until(lambda: len(seen.records) == 500)
    assert len(seen.events) < 10


async def test_a_name_that_is_no_text(path: Path) -> None:
    (path / "nodes" / os.fsdecode(b"\xff.json")).write_text("x")
    store = DirStore(path)
    assert [put.key for put in await store.list()] == ["nodes/\\xff"]
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        (path / "nodes" / os.fsdecode(b"\xff.json")).unlink()
        await seen.until(lambda: seen.deleted == ["nodes/\\xff"])


@pytest.mark.parametrize("key", ["nodes/../x", "nodes/.x", "x", "nodes/", "other/x", "nodes/a/b"])
async def test_a_key_that_leads_elsewhere_is_a_bug(path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        await DirStore(path).put(key, b"x")


async def test_what_cannot_be_written_says_so(path: Path) -> None:
    (path / "status").write_text("in the way")
    with pytest.raises(Unavailable, match=f"{path}/status/edge1.json: cannot be written"):
        await DirStore(path).publish("status/edge1", b"x")
    (path / "nodes" / "edge1.json").mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        await DirStore(path).put("nodes/edge1", b"x")
    with pytest.raises(Unavailable, match="cannot be deleted"):
        await DirStore(path).delete("nodes/edge1")
    assert [entry.name for entry in (path / "nodes").iterdir()] == ["edge1.json"]


async def test_no_descriptor_is_left(path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    async with following(DirStore(path)) as seen:
        for number in range(3):
            await seen.until(lambda: seen.in_sync)
            (path / "communities").rename(path / "away")
            await seen.until(lambda number=number: len(seen.events) > 2 * number + 1)  # type: ignore[misc]  # bound now
            (path / "away").rename(path / "communities")
            await seen.until(lambda number=number: len(seen.events) > 2 * number + 2)  # type: ignore[misc]  # bound now
    await trio.testing.wait_all_tasks_blocked()
    assert descriptors() == before
