"""Several files put in place as one: all of them are new, or none was touched.

Each is written under another name in its directory, with its mode from the first octet on, and
takes its own name once all are on the disk. A reader never sees half a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkstemp
from typing import Final

from fabricd.pki.fault import PkiError

SECRET: Final = 0o600
PUBLIC: Final = 0o644


@dataclass(frozen=True)
class File:
    """A file to be written; its directory exists."""

    path: Path
    content: bytes = field(repr=False)
    mode: int = PUBLIC


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise PkiError if one of the files is there."""
    faults = [f"{path}: is there already: --force replaces it" for path in paths if _there(path)]
    if faults:
        raise PkiError(*faults)


def put_in_place(files: Sequence[File], *, replace: bool) -> None:
    """Write the files, in this order. Without `replace`, one that is there is a fault.

    Raises PkiError. Whatever is raised, all is as it was before.
    """
    if not replace:
        refuse_existing([file.path for file in files])
    try:
        with ExitStack() as scrap, ExitStack() as undo:
            staged = [_staged(file, scrap) for file in files]
            for new, file in zip(staged, files, strict=True):
                if replace and _there(file.path):
                    _exchange(new, file.path, scrap, undo)
                else:
                    os.link(new, file.path)  # fails when somebody was faster
                    undo.callback(file.path.unlink)
            for directory in {file.path.parent for file in files}:
                _sync(directory)
            undo.pop_all()
    except OSError as error:
        where = error.filename2 or error.filename or files[0].path.parent
        raise PkiError(f"{where}: {error.strerror}; nothing was written") from error


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory, unless it is there. Raises PkiError."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise PkiError(f"{path}: {error.strerror}") from error


def _staged(file: File, scrap: ExitStack) -> Path:
    """The content on the disk, under another name; mkstemp makes it 0600."""
    handle, name = mkstemp(prefix=f".{file.path.name}.", dir=file.path.parent)
    path = Path(name)
    scrap.callback(path.unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(file.content)
        stream.flush()
        os.fchmod(stream.fileno(), file.mode)
        os.fsync(stream.fileno())
    return path


def _exchange(new: Path, path: Path, scrap: ExitStack, undo: ExitStack) -> None:
    spare = new.with_name(f"{new.name}.old")
    os.link(path, spare, follow_symlinks=False)
    scrap.callback(spare.unlink, missing_ok=True)
    new.rename(path)
    undo.callback(spare.rename, path)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
