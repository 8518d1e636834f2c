"""The control socket from the client's side: answers that are whole, and all that can go wrong."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fabricd.cli import control
from fabricd.cli.control import ask, is_running
from fabricd.cli.options import Failed

Say = Callable[[bytes], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fabricd.sock"


@pytest.fixture
def asked() -> list[bytes]:
    """The requests that came, to be looked at when there was an answer."""
    return []


@pytest.fixture
def say(path: Path, asked: list[bytes]) -> Iterator[Say]:
    """Somebody at the socket who says these bytes to whoever comes, and hangs up."""
    with socket.socket(socket.AF_UNIX) as server:
        threads: list[threading.Thread] = []

        def serve(answer: bytes) -> None:
            client, _ = server.accept()
            with client:
                asked.append(client.recv(65536))
                client.sendall(answer)

        def start(answer: bytes) -> None:
            server.bind(str(path))
            server.listen()
            threads.append(threading.Thread(target=serve, args=(answer,)))
            threads[-1].start()

        yield start
    for thread in threads:
        thread.join()


def answer(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), size, body)


def test_an_answer(path: Path, say: Say, asked: list[bytes]) -> None:
    say(answer(b'{"node": "edge2"}'))
    assert ask(path, "GET", "/status") == {"node": "edge2"}
    assert asked == [b"GET /status HTTP/1.0\r\nContent-Length: 0\r\n\r\n"]


def test_a_request_with_something_in_it(path: Path, say: Say, asked: list[bytes]) -> None:
    say(answer(b"{}"))
    ask(path, "POST", "/pods", {"name": "pod1"})
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head == b"POST /pods HTTP/1.0\r\nContent-Length: %d" % len(body)
    assert json.loads(body) == {"name": "pod1"}


def test_a_large_answer(path: Path, say: Say) -> None:
    document = {"peers": ["x" * 100] * 10_000}
    say(answer(json.dumps(document).encode()))
    assert ask(path, "GET", "/status") == document


@pytest.mark.parametrize(
    "broken",
    [b"", b"HTTP/1.1 200 OK\r\n", answer(b'{"node"', length=100), b"SSH-2.0-OpenSSH_9.2\r\n"],
)
def test_an_answer_that_is_not_whole(broken: bytes, path: Path, say: Say) -> None:
    say(broken)
    with pytest.raises(Failed, match=r"broke off at .*: see journalctl -u fabricd"):
        ask(path, "GET", "/status")


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b""])
def test_an_answer_that_is_no_document(body: bytes, path: Path, say: Say) -> None:
    say(answer(body))
    with pytest.raises(Failed, match=r"gave no JSON object to GET /status \(HTTP status 200\)"):
        ask(path, "GET", "/status")


def test_what_is_refused(path: Path, say: Say) -> None:
    say(answer(b'{"error": "not now"}', "503 Service Unavailable"))
    with pytest.raises(Failed, match="refused GET /status: not now"):
        ask(path, "GET", "/status")


def test_who_does_not_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(Failed, match=r"did not answer at .* within 0\.05 s"):
            ask(path, "GET", "/status")
        assert is_running(path), "it hangs, but it is there"


def test_nobody_there(path: Path) -> None:
    assert not is_running(path)
    with pytest.raises(Failed, match="not running here"):
        ask(path, "GET", "/status")
