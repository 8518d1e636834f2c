"""What the tests inside User Mode Linux have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import rundir
from tests.lab.conftest import pytest_runtest_makereport  # noqa: F401  # logs of what failed


@pytest.fixture
def share() -> Iterator[Path]:
    """A directory that the guest can write to: not below /run, which it has to itself."""
    directory = rundir.make("uml-", Path("/tmp"))
    yield directory
    rundir.remove(directory)
