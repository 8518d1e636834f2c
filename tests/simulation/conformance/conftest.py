"""Each test of this folder is played on what is simulated and on the real thing.

The real ones need root: network namespaces, charon, etcd, as the lab has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio._core._run import SystemClock
from trio.abc import Clock
from trio.testing import MockClock

from lab import rundir

SORTS = ["simulated", "real"]


@pytest.fixture(params=SORTS)
def sort(request: pytest.FixtureRequest) -> str:
    """Which of the two it is."""
    found: str = request.param
    if found == "real" and os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    return found


@pytest.fixture
def clock(sort: str) -> Clock:
    """A test that has it runs by it: simulated time for what is simulated."""
    return MockClock(autojump_threshold=0) if sort == "simulated" else SystemClock()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short directory of the test's own; what is recorded in it is gone after the test."""
    run = rundir.make("sc-")
    yield run
    rundir.remove(run)
