"""`python -m tests.bench.watched FILE …`: fabricd with the arguments that follow, under watch.

At each SIGUSR2 it writes to FILE, as JSON, the longest steps of its event loop since the last one:
seconds and the task's name. With `BENCH_PROFILE=FOLDER` in the environment it writes profiles
(pstats) there: the first from its start to the first SIGUSR2, and so on. fabricd itself is not
changed.
"""

from __future__ import annotations

import cProfile
import functools
import heapq
import json
import os
import signal
import sys
import time
from pathlib import Path

import trio

from fabricd.daemon.main import main

KEPT = 5


class Steps(trio.abc.Instrument):
    """The longest steps: what runs between two checkpoints of a task."""

    def __init__(self) -> None:
        self._began = 0.0
        self._longest: list[tuple[float, str]] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.perf_counter() - self._began
        if len(self._longest) < KEPT:
            heapq.heappush(self._longest, (took, task.name))
        elif took > self._longest[0][0]:
            heapq.heapreplace(self._longest, (took, task.name))

    def take(self) -> list[tuple[float, str]]:
        """Those since the last call, the longest first."""
        longest, self._longest = self._longest, []
        return sorted(longest, reverse=True)


class Profiles:
    """One after the other, if they are asked for."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._number = 0
        self._running: cProfile.Profile | None = None

    def turn(self) -> None:
        if self._folder is None:
            return
        if self._running is not None:
            self._running.disable()
            self._running.dump_stats(f"{self._folder}/{os.getpid()}-{self._number}.prof")
            self._number += 1
        self._running = cProfile.Profile()
        self._running.enable()


def run(path: Path) -> None:
    steps, profiles = Steps(), Profiles(os.environ.get("BENCH_PROFILE"))

    def tell(*_: object) -> None:
        profiles.turn()
        new = path.with_suffix(".new")
        new.write_text(json.dumps(steps.take()), encoding="utf-8")
        new.rename(path)

    profiles.turn()
    signal.signal(signal.SIGUSR2, tell)
    trio.run = functools.partial(trio.run, instruments=[steps])  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    run(Path(sys.argv.pop(1)))
