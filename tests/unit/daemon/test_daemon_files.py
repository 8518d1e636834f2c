"""Folders whose files change, watched for real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fabricd.daemon.files import watch_files


class Heard:
    """What was heard, and a way to wait for more."""

    def __init__(self) -> None:
        self._send, self.receive = trio.open_memory_channel[str](100)

    def __call__(self, what: str) -> None:
        self._send.send_nowait(what)


@pytest.fixture
async def heard(tmp_path: Path, nursery: trio.Nursery) -> Heard:
    heard = Heard()
    (tmp_path / "pki").mkdir()
    nursery.start_soon(watch_files, {tmp_path / "pki"}, heard)
    with trio.fail_after(5):
        assert await heard.receive.receive() == "files watched"
    return heard


def write(folder: Path) -> None:
    (folder / "node.crt").write_text("x")


def replace(folder: Path) -> None:
    new = folder.parent / "new"
    new.write_text("y")
    new.rename(folder / "node.crt")


def link(folder: Path) -> None:
    (folder / "node.crt").symlink_to(folder.parent)


def chmod(folder: Path) -> None:
    folder.chmod(0o700)


@pytest.mark.parametrize("change", [write, replace, link, chmod])
async def test_a_change_is_heard(
    tmp_path: Path, heard: Heard, change: Callable[[Path], None]
) -> None:
    change(tmp_path / "pki")
    with trio.fail_after(5):
        assert await heard.receive.receive() == "files"


async def test_a_folder_may_go_and_come(tmp_path: Path, heard: Heard) -> None:
    (tmp_path / "pki").rename(tmp_path / "old")
    with trio.fail_after(5):
        assert await heard.receive.receive() == "files"
    (tmp_path / "pki").mkdir()
    with trio.fail_after(20):
        while await heard.receive.receive() != "files watched":
            pass
    write(tmp_path / "pki")
    with trio.fail_after(5):
        assert await heard.receive.receive() == "files"


async def test_a_folder_that_is_not_there_is_waited_for(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    heard = Heard()
    nursery.start_soon(watch_files, {tmp_path / "later"}, heard)
    await trio.sleep(60)
    (tmp_path / "later").mkdir()
    assert await heard.receive.receive() == "files watched"
