"""Tells when something happened in some folders: to files that are replaced as to those that are
written in place. What is in them is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

import structlog
import trio

from fabricd.sources.inotify import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    DELETE_SELF,
    IGNORED,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Inotify,
)

CHANGES: Final = CLOSE_WRITE | MOVED_TO | MOVED_FROM | DELETE | CREATE | ATTRIB
GONE: Final = DELETE_SELF | MOVE_SELF | IGNORED | OVERFLOW

SETTLE: Final = 0.2
"""Seconds: files change in company, a key with its certificate."""

RETRY: Final = 5.0
"""Seconds until a folder that can't be watched is tried again."""

log = structlog.get_logger()


async def watch_files(folders: Iterable[Path], changed: Callable[[str], None]) -> NoReturn:
    """Call `changed` with a word after each burst of changes, for ever."""
    wanted = sorted(set(folders))
    reported = ""
    while True:
        try:
            with Inotify() as inotify:
                for folder in wanted:
                    inotify.watch(folder, CHANGES | DELETE_SELF | MOVE_SELF)
                reported = ""
                changed("files watched")  # what changed before
                await _until_gone(inotify, changed)
        except OSError as error:
            if str(error) != reported:
                log.warning("folder can't be watched", error=str(error))
                reported = str(error)
            await trio.sleep(RETRY)


async def _until_gone(inotify: Inotify, changed: Callable[[str], None]) -> None:
    while True:
        notices = await inotify.read()
        await trio.sleep(SETTLE)
        changed("files")
        if any(notice.mask & GONE for notice in notices):
            return
