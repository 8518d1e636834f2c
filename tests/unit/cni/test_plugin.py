"""`fabric-cni` as a program, against somebody at the daemon's socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fabricd.cni import plugin

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/c0ffee",
    "CNI_IFNAME": "eth0",
}


@dataclass
class Daemon:
    """Says these bytes to whoever has asked, and hangs up."""

    path: Path
    says: bytes = b""
    asked: list[bytes] = field(default_factory=list)

    def answer(self, document: Any, status: str = "200 OK") -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.says = head.encode() + body

    @property
    def body(self) -> Any:
        """What came with the last request."""
        return json.loads(self.asked[-1].partition(b"\r\n\r\n")[2])

    def serve(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:  # it is shut down
                return
            with client:
                self.asked.append(_request(client))
                client.sendall(self.says)


def _request(client: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "fabricd.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(found.path))
        server.listen()
        thread = threading.Thread(target=found.serve, args=(server,))
        thread.start()
        yield found
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def config(path: Path, **more: Any) -> str:
    named = {"cniVersion": "1.0.0", "name": "fabric", "type": "fabric-cni", "socket": str(path)}
    return json.dumps({**named, **more})


def error(document: dict[str, Any] | None) -> dict[str, Any]:
    """Without the words of the machine."""
    assert document is not None
    assert document.pop("details")
    return document


def test_what_the_daemon_answers_is_printed(daemon: Daemon) -> None:
    daemon.answer({"ok": True, "document": {"cniVersion": "1.0.0", "ips": []}})
    text = config(daemon.path)
    assert plugin.run(ENVIRONMENT, text) == (0, {"cniVersion": "1.0.0", "ips": []})
    assert daemon.asked[0].startswith(b"POST /cni HTTP/1.1\r\n")
    assert daemon.body == {"environment": ENVIRONMENT, "config": text}


def test_nothing_to_print(daemon: Daemon) -> None:
    daemon.answer({"ok": True, "document": None})
    assert plugin.run({**ENVIRONMENT, "CNI_COMMAND": "DEL"}, config(daemon.path)) == (0, None)


def test_what_is_refused_is_printed_too(daemon: Daemon) -> None:
    document = {"cniVersion": "1.0.0", "code": 100, "msg": "no address is free in 2.2.2.0/27"}
    daemon.answer({"ok": False, "document": document})
    assert plugin.run(ENVIRONMENT, config(daemon.path)) == (1, document)


def test_the_version_takes_no_daemon() -> None:
    assert plugin.run({"CNI_COMMAND": "VERSION"}, '{"cniVersion": "0.4.0"}') == (
        0,
        {"cniVersion": "0.4.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]},
    )
    code, document = plugin.run({"CNI_COMMAND": "VERSION"}, "")
    assert (code, document and document["cniVersion"]) == (0, "1.1.0")


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
def test_nobody_there(command: str, code: int, tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    status, document = plugin.run({**ENVIRONMENT, "CNI_COMMAND": command}, config(path))
    assert status == 1
    assert error(document) == {
        "cniVersion": "1.0.0",
        "code": code,
        "msg": f"fabricd does not answer at {path}",
    }


def test_a_configuration_that_is_none() -> None:
    status, document = plugin.run(ENVIRONMENT, "{")
    assert status == 1
    assert error(document) == {
        "cniVersion": "1.1.0",
        "code": 6,
        "msg": "the network's configuration is not JSON",
    }


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_an_answer_that_is_none(said: bytes, daemon: Daemon) -> None:
    daemon.says = said
    status, document = plugin.run(ENVIRONMENT, config(daemon.path))
    assert status == 1
    assert error(document)["code"] == 11


def test_why_it_is_refused_stands_in_the_details(daemon: Daemon) -> None:
    daemon.answer({"error": "the request's body: too large"}, "400 Bad Request")
    status, document = plugin.run(ENVIRONMENT, config(daemon.path))
    assert status == 1
    assert document is not None
    assert document["code"] == 11
    details = str(document["details"])
    assert "400 Bad Request" in details
    assert details.endswith("the request's body: too large")


def test_who_does_not_answer(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        path = daemon.path.with_name("silent.sock")
        server.bind(str(path))
        server.listen()
        _, document = plugin.run(ENVIRONMENT, config(path))
    assert error(document)["code"] == 11


# ---------------------------------------------------------------- the program

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program() -> Run:
    """Run it as a runtime does, and as contrib/install.sh has made it: without any package. In its
    environment is what a test gives, and no more.
    """

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-IS", plugin.__file__],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_as_a_runtime_runs_it(daemon: Daemon, program: Run) -> None:
    daemon.answer({"ok": True, "document": {"cniVersion": "1.0.0"}})
    done = program(config(daemon.path), **ENVIRONMENT, PATH="/usr/bin", SECRET="of the runtime's")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (
        0,
        {"cniVersion": "1.0.0"},
        "",
    )
    assert daemon.body["environment"] == ENVIRONMENT, "CNI's own, and nothing else"

    daemon.answer({"ok": True, "document": None})
    done = program(config(daemon.path), **{**ENVIRONMENT, "CNI_COMMAND": "DEL"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    daemon.answer({"ok": False, "document": {"code": 100}})
    done = program(config(daemon.path), **ENVIRONMENT)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (1, {"code": 100}, "")


def test_it_imports_next_to_nothing() -> None:
    root = str(Path(plugin.__file__).parents[2])
    script = (
        f"import sys; sys.path.insert(0, {root!r}); before = {{*sys.modules}}; "
        "import fabricd.cni.plugin; print(*{*sys.modules} - before)"
    )
    done = subprocess.run(  # without site-packages, whose start-up files import what they like
        [sys.executable, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    imported = set(done.stdout.split())
    heavy = {"asyncio", "click", "http", "ipaddress", "logging", "msgspec", "pathlib", "rich"}
    heavy |= {"ssl", "structlog", "subprocess", "trio", "typing", "urllib"}
    assert imported & heavy == set()
    assert {name for name in imported if name.startswith("fabricd")} == {
        "fabricd",
        "fabricd.cni",
        "fabricd.cni.plugin",
    }
