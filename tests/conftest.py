"""For all tests: how they are divided among workers, and what becomes of a run that is broken off.

`make test` runs them on several workers, each a process (pytest-xdist). A file is never divided,
so what its tests share is made once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio._core._thread_cache as threads_of_trio

from lab import rundir

# A thread begins in the network namespace of whoever begins it, and trio keeps threads for a while
# for others to use: not from one test to the next, which may be elsewhere.
threads_of_trio.IDLE_TIMEOUT = 0  # its own is 10 s

# A shell without job control starts what runs in its background with SIGINT ignored, and that is
# inherited: programs that are interrupted in a test would not hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With `-n auto`: tests wait for most of the time, so there are twice as many workers as CPUs;
    a single file is not worth the start of any.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    cpus = len(os.sched_getaffinity(0))
    return 2 * cpus


def pytest_xdist_setupnodes() -> None:
    """Who ends a run from outside, as a CI does, sends SIGTERM: it is taken for a Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Workers that are interrupted have some seconds to clean up, and are killed then."""
    if config.pluginmanager.has_plugin("dsession"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave the half
        for what in rundir.sweep():
            print(f"removed {what}")
