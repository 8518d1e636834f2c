"""Linux's inotify(7) for trio: which folders changed, and which names in them.

The standard library has no binding, so libc is called by ctypes. May not know what the
folders hold.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import trio

# linux/inotify.h
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x1000000

_EVENT: Final = struct.Struct("iIII")  # wd, mask, cookie, length of the name with its padding
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """Something happened in a folder."""

    folder: Path | None
    """None: events were lost, anything may have happened."""
    name: str
    """The entry; empty when it is about the folder itself."""
    mask: int


class Inotify:
    """A set of watched folders. A context manager; raises OSError."""

    def __init__(self) -> None:
        self._fd = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")
        self._folders: dict[int, Path] = {}

    def watch(self, folder: Path, mask: int) -> None:
        """Watch a folder, through symbolic links."""
        path = os.fsencode(folder)
        watch = _checked(_LIBC.inotify_add_watch(self._fd, path, mask | ONLYDIR), str(folder))
        self._folders[watch] = folder

    async def read(self) -> list[Notice]:
        """Wait for the next notices, in order; as many as there are."""
        await trio.lowlevel.wait_readable(self._fd)
        data, offset, notices = os.read(self._fd, 1 << 16), 0, []
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            notices.append(Notice(self._folders.get(watch), name, mask))
        return notices

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
