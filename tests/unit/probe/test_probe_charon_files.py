"""The charon behind a socket, and the files that it was started with."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from subprocess import Popen

import pytest

from fabricd.probe import charon_files, strongswan_conf
from fabricd.probe.charon_files import Running, running, settings
from lab.process import wait_until
from tests.unit.answering import charon, version


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (version("5.9.8"), "5.9.8"),
        (version("6" * 300), "6" * 300),
        (version(""), ""),
        (b"\0\0\0\1\2", ""),  # CMD_UNKNOWN
        (b"\0\0\1\0\1\3\7version\0\x055.9", "5.9"),  # cut short
    ],
)
def test_its_process_and_its_version(tmp_path: Path, answer: bytes, said: str) -> None:
    with charon(tmp_path / "charon.vici", answer):
        assert running(str(tmp_path / "charon.vici")) == Running(os.getpid(), said)


def test_one_that_breaks_off(tmp_path: Path) -> None:
    with charon(tmp_path / "charon.vici", b"\0"), pytest.raises(OSError, match="broke off"):
        running(str(tmp_path / "charon.vici"))


def test_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charon_files, "DEADLINE", 0.01)
    path = str(tmp_path / "charon.vici")
    with socket.socket(socket.AF_UNIX) as listening:
        with pytest.raises(FileNotFoundError):
            running(path)
        listening.bind(path)
        with pytest.raises(ConnectionRefusedError):
            running(path)
        listening.listen(0)
        with pytest.raises(TimeoutError):
            running(path)
        with pytest.raises(BlockingIOError):  # its queue is full by now
            running(path)


def conf(folder: Path) -> Path:
    file = folder / "strongswan.conf"
    file.write_text("charon {\n retransmit_tries = 3\n}\n")
    return file


def test_the_file_that_charons_process_was_started_with(tmp_path: Path) -> None:
    file = conf(tmp_path)
    with Popen(["sleep", "60"], env={"STRONGSWAN_CONF": str(file)}) as process:
        # Popen is back when the program takes over, a moment before its environment is there.
        environment = Path(f"/proc/{process.pid}/environ")
        wait_until(environment.read_bytes, "sleep has its environment")
        found = settings({process.pid})
        process.kill()
    assert found.file == str(file)
    assert found.values == {"retransmit_tries": "3"}


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strongswan_conf, "DEFAULT", conf(tmp_path))
    for pids in ({os.getpid()}, set[int]()):
        assert settings(pids).values == {"retransmit_tries": "3"}


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    with Popen(["true"]) as process:
        process.wait()
        with pytest.raises(FileNotFoundError):
            settings({process.pid})
