"""The client's side of the daemon's control socket: HTTP with JSON over a unix socket.

Knows how to ask and what a failure means to an operator; not what is in the answers.
"""

from __future__ import annotations

import errno
import json
import re
import socket
from pathlib import Path
from typing import Any, Final

from fabricd.cli.options import Failed

TIMEOUT: Final = 30.0
"""Seconds for an answer: a node with thousands of tunnels takes its time to list them."""


def ask(path: Path, method: str, target: str, body: object = None) -> dict[str, Any]:
    """One request to the daemon, its answer's JSON object. Raises Failed."""
    sent = b"" if body is None else json.dumps(body).encode()
    try:
        status, answer = _exchange(path, f"{method} {target}", sent)
    except OSError as error:
        raise Failed(_reason(path, error)) from error
    return _document(path, f"{method} {target}", status, answer)


def _exchange(path: Path, request: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of an answer. Raises OSError.

    HTTP/1.0 (RFC 1945), which ends with its connection: to load `http.client` would take longer
    than all else that a call does.
    """
    with _connect(path) as connection:
        head = f"{request} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    said, end, answer = received.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.\d (\d{3}) ", said)
    length = re.search(rb"\ncontent-length: *(\d+)", said, re.IGNORECASE)
    if not status or not end or (length and len(answer) < int(length[1])):
        raise ConnectionResetError(errno.ECONNRESET, "the answer is not whole")
    return int(status[1]), answer


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def is_running(path: Path) -> bool:
    """Whether a daemon listens on its control socket, be it that it hangs. Raises Failed."""
    try:
        _connect(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise Failed(_reason(path, error)) from error
    return True


def _reason(path: Path, error: OSError) -> str:
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
        case ConnectionError():
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
