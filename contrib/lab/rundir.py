"""A run directory: where a run keeps its files, and how to remove all that the run made.

What `spawn` and `Namespace.create` recorded there is the whole truth: only that is removed,
whether the run is alive, was interrupted or was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.netns import Namespace
from lab.process import LabError, ProcessId, read_pid_file

MAKER: Final = "maker"
"""A file in what `make` has made: the process that has to remove it, as `spawn` writes it."""

PARENTS: Final = (Path("/run"), Path("/tmp"))
"""Where there are run directories."""


def make(prefix: str = "lab-", parent: Path = PARENTS[0]) -> Path:
    """A fresh run directory in one of PARENTS, with a short path: unix sockets live in it."""
    run = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    me = ProcessId.of(os.getpid())
    assert me is not None
    me.write(run / MAKER)
    return run


def sweep() -> list[str]:
    """Remove what `make` has made for processes that have ended without removing it: they were
    killed. Returns what `clear` returns.
    """
    removed = []
    for record in (found for parent in PARENTS for found in parent.glob(f"*/{MAKER}")):
        if _take_over(record):
            removed += remove(record.parent)
    return removed


def _take_over(record: Path) -> bool:
    """Whether the maker has ended. True once only: there may be several who sweep."""
    try:
        maker = read_pid_file(record)
        if maker is None or maker.alive:
            return False
        record.unlink()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def claim(run: Path) -> Iterator[None]:
    """Be the only one that uses a run directory, which is made if need be.

    The kernel gives the claim up when the process ends, however it ends. Raises LabError when
    another process has it.
    """
    run.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another run is using {run}: wait for its end") from error
        yield
    finally:
        os.close(handle)


def clear(run: Path) -> list[str]:
    """End the recorded processes, delete the recorded namespaces and all files.

    Returns what was still there beside files, for people to read.
    """
    removed = []
    for record in sorted(run.rglob("*.pid")):
        process = read_pid_file(record)
        if process is not None and process.alive:
            process.end()
            removed.append(f"process {process.pid} ({record.stem})")
        record.unlink()
    for record in sorted(run.rglob("*.netns")):
        namespace = Namespace(record.stem, record.parent)
        if namespace.exists:
            removed.append(f"network namespace {namespace.name}")
        namespace.delete()
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return removed


def remove(run: Path) -> list[str]:
    """`clear`, and the directory itself."""
    removed = clear(run)
    run.rmdir()
    return removed


def all_alive(run: Path) -> bool:
    """Whether every recorded process and namespace is there."""
    processes = [read_pid_file(record) for record in run.rglob("*.pid")]
    namespaces = [Namespace(record.stem, run) for record in run.rglob("*.netns")]
    return all(p is not None and p.alive for p in processes) and all(n.exists for n in namespaces)
