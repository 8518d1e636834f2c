"""What systemd is told, heard on a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabricd.daemon.notify import Notifier


class Systemd:
    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    server = Systemd(path if request.param == "path" else f"@{path}")
    with server.socket:
        yield server


def test_the_life_of_a_daemon(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    notifier.status("0 of 2 tunnels up")
    notifier.ready()
    notifier.status("2 of 2 tunnels up")
    notifier.stopping()
    assert systemd.heard() == [
        "STATUS=0 of 2 tunnels up",
        "READY=1",
        "STATUS=2 of 2 tunnels up",
        "STOPPING=1",
    ]


def test_the_same_status_is_told_once(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    for line in ("one", "one", "two", "one"):
        notifier.status(line)
    assert systemd.heard() == ["STATUS=one", "STATUS=two", "STATUS=one"]


def test_a_status_is_one_line(systemd: Systemd) -> None:
    """What a store or charon says must not be taken for an assignment."""
    Notifier({"NOTIFY_SOCKET": systemd.address}).status("store: no answer\nMAINPID=1")
    assert systemd.heard() == ["STATUS=store: no answer MAINPID=1"]


def test_the_watchdog(systemd: Systemd) -> None:
    environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "30000000"}
    notifier = Notifier({**environ, "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog == 30
    notifier.alive()
    assert systemd.heard() == ["WATCHDOG=1"]
    assert Notifier(environ).watchdog == 30


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
    ],
)
def test_a_watchdog_that_is_not_ours(systemd: Systemd, environ: dict[str, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address, **environ})
    assert notifier.watchdog is None
    notifier.alive()
    assert systemd.heard() == []


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.status("2 of 2 tunnels up")


def test_systemd_that_does_not_listen_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_systemd_that_does_not_read_does_not_block(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    for _ in range(1000):
        notifier.ready()
    assert 0 < len(systemd.heard()) < 1000
