"""Files put in place: all or none, and a secret is never readable by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fabricd.pki.fault import PkiError
from fabricd.pki.files import SECRET, File, put_in_place


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(autouse=True)
def generous_umask() -> None:
    os.umask(0o022)


def test_content_and_mode(tmp_path: Path) -> None:
    key, cert = tmp_path / "a.key", tmp_path / "a.crt"
    put_in_place([File(key, b"key", SECRET), File(cert, b"cert")], replace=False)
    assert contents(tmp_path) == {"a.key": b"key", "a.crt": b"cert"}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(cert.stat().st_mode) == 0o644


def test_a_secret_is_0600_before_it_has_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(handle: int) -> None:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode):
            seen.append(stat.S_IMODE(status.st_mode))

    write = os.fdopen

    def fdopen(handle: int, mode: str) -> object:
        look(handle)
        return write(handle, mode)

    monkeypatch.setattr(os, "fdopen", fdopen)
    monkeypatch.setattr(os, "fsync", look)
    os.umask(0)
    put_in_place([File(tmp_path / "a.key", b"key", SECRET)], replace=False)
    assert seen == [0o600, 0o600]


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_bytes(b"old")
    files = [File(tmp_path / "a.key", b"key", SECRET), File(tmp_path / "a.crt", b"new")]
    with pytest.raises(PkiError, match=r"a\.crt: is there already: --force replaces it"):
        put_in_place(files, replace=False)
    assert contents(tmp_path) == {"a.crt": b"old"}
    put_in_place(files, replace=True)
    assert contents(tmp_path) == {"a.key": b"key", "a.crt": b"new"}


def test_somebody_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.key", tmp_path / "a.crt"
    link = os.link

    def slow_link(source: Path, target: Path) -> None:
        if target == second:
            second.write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    with pytest.raises(PkiError, match=r"a\.crt: File exists; nothing was written"):
        put_in_place([File(first, b"key", SECRET), File(second, b"cert")], replace=False)
    assert contents(tmp_path) == {"a.crt": b"theirs"}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_at_the_end_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool, error: BaseException
) -> None:
    before = {"a.key": b"old key"} if replace else {}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)

    def fail(directory: Path) -> None:
        raise error

    monkeypatch.setattr("fabricd.pki.files._sync", fail)
    files = [File(tmp_path / "a.key", b"key", SECRET), File(tmp_path / "a.crt", b"cert")]
    with pytest.raises((PkiError, KeyboardInterrupt)):
        put_in_place(files, replace=replace)
    assert contents(tmp_path) == before


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="No such file or directory; nothing was written"):
        put_in_place([File(tmp_path / "no" / "a.crt", b"")], replace=False)
