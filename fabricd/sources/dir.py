"""A directory as a store: PATH/nodes/NAME.json and PATH/communities/NAME.json.

- Only names that end in `.json` and do not start with a dot are records: editors' and our own
  temporary files are not. A record is best replaced by rename(2).
- A file that can't be read keeps its last value. One that never could be is a record without
  a value, so that it is reported; it is never a deletion.
- PATH gone or unreadable means lost. So does a folder that held records and is gone: to
  delete all of them, make an empty one.
- All links on the way may be symbolic; the file system has to be a local one, because others'
  changes on a network file system can't be watched.

May not know of inotify's codes beyond what is worth a look, nor what is in a record.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from errno import EINVAL, ELOOP
from pathlib import Path
from typing import Final, NoReturn

import trio

from fabricd.core.events import FOLDERS, Changed, Delete, Event, Listed, Lost, Put
from fabricd.errors import Unavailable
from fabricd.sources import inotify
from fabricd.sources.inotify import Inotify, Notice
from fabricd.sources.store import Store

SETTLE: Final = 0.1
"""Seconds for a folder to be replaced (gone, then there again) before everything is read."""

LOOK_AGAIN: Final = 0.5
"""Seconds after which to look again for what was not there: nothing may be there to watch."""

SUFFIX: Final = ".json"

ENTRIES: Final = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO
FOLDER: Final = ENTRIES | inotify.ATTRIB | inotify.DELETE_SELF | inotify.MOVE_SELF
RECORDS: Final = FOLDER | inotify.CLOSE_WRITE

_KEY: Final = re.compile(r"(nodes|communities|status)/[^./\0][^/\0]*")


class DirStore(Store):
    """Records in files below `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._values: dict[str, bytes] = {}
        """What was fed last, by the file's name below PATH."""

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        """Feed what happens to the files; notices of one moment make one Changed."""
        lost = False
        while True:
            try:
                with self._watch() as watched:
                    self._values = await self._read_all(self._values)
                    feed(Listed(_puts(self._values)))
                    lost = False
                    await self._follow(watched, feed)
            except Unavailable as error:
                if not lost:
                    feed(Lost(error.reason))
                    lost = True
                await trio.sleep(LOOK_AGAIN)
            else:
                await trio.sleep(SETTLE)

    async def list(self) -> tuple[Put, ...]:
        """Read all records now, whether `run` runs or not."""
        return _puts(await self._read_all({}))

    async def put(self, key: str, value: bytes) -> None:
        """Write a record so that it survives a power cut; makes the folder if need be."""
        await trio.lowlevel.checkpoint()
        self._write(key, value, durable=True)

    async def delete(self, key: str) -> bool:
        """Remove a record's file; False: it was not there."""
        await trio.lowlevel.checkpoint()
        file = self._file(key)
        try:
            file.unlink()
        except FileNotFoundError:
            if not self._path.is_dir():
                raise Unavailable("store", f"{self._path}: no such directory") from None
            return False
        except OSError as error:
            raise _unavailable(file, "cannot be deleted", error) from error
        return True

    async def publish(self, key: str, value: bytes) -> None:
        """Write PATH/status/NAME.json, which stays when the process ends."""
        await trio.lowlevel.checkpoint()
        self._write(key, value, durable=False)

    async def aclose(self) -> None:
        """Nothing is held open."""
        await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------ watching

    def _watch(self) -> Inotify:
        """Watch all folders there are; raises Unavailable when the kernel allows no more."""
        folders = {self._path.parent: ENTRIES, self._path: FOLDER}
        folders |= {self._path / folder: RECORDS for folder in FOLDERS}
        try:
            with ExitStack() as stack:
                watched = stack.enter_context(Inotify())
                for folder, mask in folders.items():
                    # One that is not there, or not for us, is seen when everything is read.
                    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                        watched.watch(folder, mask)
                stack.pop_all()
        except OSError as error:
            raise Unavailable(
                "store", f"{self._path}: cannot be watched: {error.strerror}; see inotify(7)"
            ) from error
        return watched

    async def _follow(self, watched: Inotify, feed: Callable[[Event], None]) -> None:
        """Feed changes until one is about the folders themselves."""
        while True:
            notices = await watched.read()
            if any(self._means_folders(notice) for notice in notices):
                return
            files = dict.fromkeys(file for notice in notices if (file := self._changed(notice)))
            changes = tuple(change for file in files if (change := self._change(file)))
            if changes:
                feed(Changed(changes))

    def _means_folders(self, notice: Notice) -> bool:
        folder, name, _ = notice
        if folder is None or not name:
            return True  # notices were lost, or it is about a folder as a whole
        if folder == self._path.parent:
            return name == self._path.name
        if folder == self._path:
            return f"{name}/" in FOLDERS
        return name == "..data"  # the link by which Kubernetes replaces all files of a volume

    def _changed(self, notice: Notice) -> str | None:
        """The record's file that a notice is about, below PATH."""
        folder, name, mask = notice
        if folder is None or folder in {self._path, self._path.parent} or not _is_record(name):
            return None
        if mask & inotify.CREATE:
            with suppress(FileNotFoundError):
                found = (folder / name).lstat()
                if stat.S_ISREG(found.st_mode) and not found.st_size:
                    return None  # whoever made it is about to write it
        return f"{folder.name}/{name}"

    def _change(self, file: str) -> Put | Delete | None:
        """Read one file again: what changed, if anything did."""
        try:
            value = _read(self._path / file)
        except FileNotFoundError:
            return None if self._values.pop(file, None) is None else Delete(_key(file))
        except OSError:
            value = self._values.get(file, b"")
        if self._values.get(file) == value:
            return None
        self._values[file] = value
        return Put(_key(file), value)

    # ------------------------------------------------------------ files

    async def _read_all(self, before: Mapping[str, bytes]) -> dict[str, bytes]:
        """All records, sorted by file; one that can't be read is as it was before."""
        values: dict[str, bytes] = {}
        for file in _files(self._path, before):
            try:
                values[file] = _read(self._path / file)
            except FileNotFoundError:
                continue
            except OSError:
                values[file] = before.get(file, b"")
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return values

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of a record or a status")
        return self._path / (key + SUFFIX)

    def _write(self, key: str, value: bytes, *, durable: bool) -> None:
        """Write beside and rename: nobody ever sees half a record. Raises Unavailable."""
        file = self._file(key)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(exist_ok=True)
            try:
                with temporary.open("wb") as output:
                    output.write(value)
                    output.flush()
                    if durable:
                        os.fsync(output.fileno())
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(file, "cannot be written", error) from error


def _files(path: Path, before: Mapping[str, bytes]) -> list[str]:
    """The files that are records, below `path`, sorted; raises Unavailable."""
    files: list[str] = []
    folder = path
    try:
        there = {f"{name}/" for name in os.listdir(path)}  # noqa: PTH208 - names, no paths
        for name in FOLDERS:
            folder = path / name
            if name in there:
                files += [name + file for file in os.listdir(folder) if _is_record(file)]  # noqa: PTH208
            elif any(file.startswith(name) for file in before):
                raise Unavailable(
                    "store",
                    f"{folder} is gone: put it back, or make an empty one to delete all in it",
                )
    except OSError as error:
        raise _unavailable(folder, "cannot be read", error) from error
    return sorted(files)


def _puts(values: Mapping[str, bytes]) -> tuple[Put, ...]:
    return tuple(sorted((Put(_key(f), v) for f, v in values.items()), key=lambda put: put.key))


def _key(file: str) -> str:
    return os.fsencode(file.removesuffix(SUFFIX)).decode("utf-8", "backslashreplace")


def _is_record(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _read(file: Path) -> bytes:
    """The file's bytes; FileNotFoundError when there is no such name, OSError otherwise."""
    try:  # O_NONBLOCK: a FIFO must not stop us
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if file.is_symlink():
            raise OSError(ELOOP, "the link leads nowhere") from error
        raise
    with open(descriptor, "rb") as opened:  # noqa: PTH123 - a descriptor, no path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(EINVAL, "not a file")
        return opened.read()


def _unavailable(path: Path, what: str, error: OSError) -> Unavailable:
    return Unavailable("store", f"{path}: {what}: {error.strerror}")
