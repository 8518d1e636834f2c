"""Hears from a charon when CHILD_SAs come and go, with the time of each."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import vici


class ChildEvents:
    """Listens on a VICI socket in a thread of its own, from construction to `close`."""

    def __init__(self, vici_socket: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(vici_socket))
        self._changed = threading.Condition()
        self._state: dict[str, tuple[bool, float]] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait(self, conn: str, *, up: bool, after: float, timeout: float = 30) -> float:
        """When a CHILD_SA of `conn` last came up (or went), if later than `after` (monotonic s)."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                is_up, when = self._state.get(conn, (False, 0.0))
                if is_up == up and when > after:
                    return when
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{conn} did not go {'up' if up else 'down'}")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _listen(self) -> None:
        try:
            for _, event in vici.Session(self._sock).listen(["child-updown"]):
                now = time.monotonic()
                up = event.get("up") == b"yes"
                with self._changed:
                    for conn in event.keys() - {"up"}:
                        self._state[conn] = (up, now)
                    self._changed.notify_all()
        except (OSError, vici.exception.SessionException):
            pass  # closed
