"""The last good records on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fabricd.core.events import Put
from fabricd.core.rib import Rib
from fabricd.daemon import snapshot
from tests.unit.daemon.fakes import RECORDS, TEMPLATE, put

FILE = snapshot.FILE


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    records = (*RECORDS, put("communities/app1", 9, members=["edge2"]))
    snapshot.save(tmp_path, records)
    assert snapshot.load(tmp_path) == records
    assert names(tmp_path) == [FILE]


def test_a_rib_comes_back_as_it_was(tmp_path: Path) -> None:
    before = Rib(TEMPLATE)
    before.restore([*RECORDS, put("nodes/edge3", 2, subnets=["2.2.2.96/27"], x="später")])
    snapshot.save(tmp_path, before.versions())
    after = Rib(TEMPLATE)
    after.restore(snapshot.load(tmp_path))
    assert after.in_force() == before.in_force()
    assert after.versions() == before.versions()
    assert not after.synced


def test_the_first_start_has_none(tmp_path: Path) -> None:
    assert snapshot.load(tmp_path) == ()
    assert snapshot.load(tmp_path / "not" / "there") == ()


def test_the_folder_is_made(tmp_path: Path) -> None:
    snapshot.save(tmp_path / "lib" / "fabricd", RECORDS)
    assert snapshot.load(tmp_path / "lib" / "fabricd") == RECORDS


def test_it_is_for_the_daemon_alone(tmp_path: Path) -> None:
    snapshot.save(tmp_path, RECORDS)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_no_records_are_a_snapshot_too(tmp_path: Path) -> None:
    snapshot.save(tmp_path, RECORDS)
    snapshot.save(tmp_path, ())
    assert snapshot.load(tmp_path) == ()


def test_a_save_that_fails_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot.save(tmp_path, RECORDS)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        snapshot.save(tmp_path, RECORDS[:1])
    assert snapshot.load(tmp_path) == RECORDS
    assert names(tmp_path) == [FILE]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.save(tmp_path, RECORDS)
    seen = []

    def look(_: int) -> None:
        seen.append(snapshot.load(tmp_path))

    monkeypatch.setattr(os, "fsync", look)
    snapshot.save(tmp_path, RECORDS[:1])
    assert seen == [RECORDS]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"key": "nodes/edge2"}]',
        b'[{"key": "nodes/edge2", "value": 1}]',
        b'[{"key": "nodes/edge2", "value": "\xff"}]',
        b"\x00" * 100,
    ],
)
def test_something_else_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/{FILE} is not a snapshot"):
        snapshot.load(tmp_path)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    snapshot.save(tmp_path, RECORDS)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is not a snapshot"):
        snapshot.load(tmp_path)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(IsADirectoryError):
        snapshot.load(tmp_path)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    line = {"key": "nodes/edge2", "value": "{}", "created": 3, "modified": 4}
    (tmp_path / FILE).write_text(json.dumps([line]))
    assert snapshot.load(tmp_path) == (Put("nodes/edge2", b"{}", 3),)
