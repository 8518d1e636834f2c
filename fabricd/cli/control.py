"""The client's side of the daemon's control socket: HTTP/1.1 with JSON over a unix socket.

Knows how to ask and what a failure means to an operator; not what is in the answers.
"""

from __future__ import annotations

import errno
import http.client
import json
import socket
from pathlib import Path
from typing import Any, Final

from fabricd.cli.options import Failed

TIMEOUT: Final = 30.0
"""Seconds for an answer: a node with thousands of tunnels takes its time to list them."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket. `host` is only what the Host header says."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str) -> dict[str, Any]:
    """One request to the daemon, its answer's JSON object. Raises Failed."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(_reason(path, error)) from error
    finally:
        connection.close()
    return _document(path, f"{method} {target}", response.status, body)


def is_running(path: Path) -> bool:
    """Whether a daemon listens on its control socket, be it that it hangs. Raises Failed."""
    connection = _UnixConnection(path)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise Failed(_reason(path, error)) from error
    finally:
        connection.close()
    return True


def _reason(path: Path, error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return f"fabricd is not running here (no socket at {path}): systemctl start fabricd"
        case ConnectionRefusedError():
            return (
                f"fabricd is not running here (nobody listens at {path}): systemctl start fabricd"
            )
        case PermissionError():
            return f"fabricd can't be asked at {path}: permission denied: run as root"
        case TimeoutError():
            return (
                f"fabricd did not answer at {path} within {TIMEOUT:g} s: see journalctl -u fabricd"
            )
        case OSError(errno=errno.EAGAIN):
            return f"fabricd at {path} has too many clients: try again"
        case http.client.HTTPException() | ConnectionError():
            return f"fabricd broke off at {path} ({error}): see journalctl -u fabricd"
    return f"fabricd can't be asked at {path}: {error}: look at [control] socket in the config"


def _document(path: Path, request: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Failed(f"fabricd at {path} gave no JSON object to {request} (HTTP status {status})")
    if status >= 400:
        reason = document.get("error", f"HTTP status {status}")
        raise Failed(f"fabricd at {path} refused {request}: {reason}")
    return document
