"""sd_notify(3): a datagram to the socket that systemd names in NOTIFY_SOCKET.

A dozen lines of our own: the packages that do this are dormant. Without systemd all of it does
nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Tells systemd how we are."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        given = int(microseconds) / 1e6 if mine and microseconds.isdigit() else 0.0
        self.watchdog: float | None = given or None
        """Seconds within which `WATCHDOG=1` has to come; None: nobody waits for it."""
        self._status = ""

    def ready(self) -> None:
        """Start-up is done."""
        self._send("READY=1")

    def stopping(self) -> None:
        """We are about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The reconcile loop goes round."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """One line for `systemctl status`, sent when it changes."""
        line = " ".join(line.splitlines())  # a line of its own would be another assignment
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL of an abstract socket (sd_notify(3)).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # systemd that is busy or gone decides what follows, not we.
        with sock, suppress(OSError):
            sock.sendto(message.encode(), socket.MSG_DONTWAIT, address)
