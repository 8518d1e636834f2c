"""fabricctl as an operator calls it, and a stand-in for the daemon behind its control socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fabricd.cli.main import fabricctl

Ctl = Callable[..., Result]
"""`ctl("status", "-o", "json")`: run fabricctl with the test's config."""


class Daemon(ThreadingMixIn, UnixStreamServer):
    """Answers on a unix socket what it is told to."""

    daemon_threads = True

    def __init__(self, socket: Path) -> None:
        self.socket_path = socket
        self.answers: dict[str, tuple[int, bytes]] = {}
        """Status and body by request: `GET /status`."""
        self.asked: list[str] = []
        self.asked_again = threading.Condition()
        super().__init__(str(socket), Handler)

    def answer(self, request: str, document: Any, status: int = 200) -> None:
        self.answers[request] = status, json.dumps(document).encode()

    def wait_asked(self, times: int, timeout: float = 20) -> None:
        """Until it was asked this often; what is answered to the last one is settled then."""
        with self.asked_again:
            assert self.asked_again.wait_for(lambda: len(self.asked) >= times, timeout), self.asked


class Handler(BaseHTTPRequestHandler):
    server: Daemon

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        request = f"{self.command} {self.path}"
        with self.server.asked_again:
            status, body = self.server.answers.get(request, (404, b"not found\n"))
            self.server.asked.append(request)
            self.server.asked_again.notify_all()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that answers; tell it what with `answer`."""
    with Daemon(tmp_path / "fabricd.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose store is a directory, with a charon that does not run."""
    path = tmp_path / "fabricd.toml"
    records = tmp_path / "records"
    records.mkdir()
    path.write_text(
        f"""\
[node]
name = "edge2"
[store]
type = "dir"
path = "{records}"
[ike]
socket = "unix://{tmp_path}/charon.vici"
ca = ["{tmp_path}/ca.crt"]
cert = "{tmp_path}/node.crt"
key = "{tmp_path}/node.key"
[control]
socket = "{tmp_path}/fabricd.sock"
"""
    )
    return path


@pytest.fixture
def ctl(config: Path) -> Ctl:
    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(
            fabricctl, ["--config", str(config), *arguments], input=stdin, prog_name="fabricctl"
        )

    return run
