"""The charon of this machine: its process, and the files that have its settings.

For a command that has no time: standard library only, no program is started, no wait is longer
than `DEADLINE`.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fabricd.core.charon_settings import Settings
from fabricd.probe import strongswan_conf

DEADLINE: Final = 0.25
"""Seconds for each step of a talk with charon."""

HEADER: Final = struct.Struct("!I")
"""Length of a VICI segment, before it (src/libcharon/plugins/vici/README.md of strongSwan)."""

VERSION: Final = b"\x00\x07version"
"""VICI's CMD_REQUEST with that name, without a message."""

PEERCRED: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


@dataclass(frozen=True, slots=True)
class Running:
    """A charon that answers."""

    pid: int
    version: str
    """strongSwan's: `5.9.8`; empty: it does not tell."""


def running(path: str) -> Running:
    """The charon behind a VICI socket. Raises OSError: none answers in time, may be asked, or has a
    process that can be seen from here.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(path)
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size)
        pid, _, _ = PEERCRED.unpack(found)
        if not pid:
            raise ProcessLookupError(f"{path}: charon's process belongs to another PID namespace")
        connection.sendall(HEADER.pack(len(VERSION)) + VERSION)
        return Running(pid, _version(_segment(connection)))


def _segment(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        length = stream.read(HEADER.size)
        if len(length) < HEADER.size:
            raise ConnectionResetError("charon broke off")
        return stream.read(HEADER.unpack(length)[0])


def _version(answer: bytes) -> str:
    """Of the answer's elements that one: KEY_VALUE (3), the name, 16 bits of length, the value."""
    element = re.search(rb"\x03\x07version(..)", answer, re.DOTALL)
    if element is None:
        return ""
    value = answer[element.end() : element.end() + int.from_bytes(element[1], "big")]
    return value.decode(errors="replace")


def settings(pids: Iterable[int]) -> Settings:
    """Settings of charon: those of the file that its process was started with, `STRONGSWAN_CONF` in
    its environment, or the default one.

    Raises OSError, also where it can't be known which file that is or what charon sees there, and
    ValueError for a file that is none.
    """
    file = strongswan_conf.DEFAULT
    for pid in pids:
        file = _started_with(pid) or file
    for pid in pids:
        if not file.samefile(f"/proc/{pid}/root{file}"):
            raise FileNotFoundError(f"charon runs in a container, with a {file} of its own")
    return Settings(str(file), strongswan_conf.charons_settings(file))


def _started_with(pid: int) -> Path | None:
    for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, _, value = item.partition(b"=")
        if name == b"STRONGSWAN_CONF" and value:
            return Path(os.fsdecode(value))
    return None
