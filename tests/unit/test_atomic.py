"""Files that are replaced as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fabricd import atomic

KILLED = """
import os, signal, sys
from pathlib import Path
from fabricd import atomic
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
atomic.write(Path(sys.argv[1]), b"half")
"""


def test_content_and_mode_are_those_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    atomic.write(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    atomic.write(path, b"two", 0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_what_a_killed_writer_has_left_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"before")
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == b"before"
        assert len(list(tmp_path.iterdir())) == 2
    atomic.write(path, b"after")
    assert path.read_bytes() == b"after"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"before")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(path, b"after")
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
