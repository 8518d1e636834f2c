"""A run of the tests that is broken off: what a worker could not remove is removed for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import rundir
from lab.netns import NETNS
from lab.process import CommandError, command, read_pid_file, wait_until

ROOT = Path(__file__).parents[2]

DIES = """\
import os
import signal

from lab import rundir
from lab.netns import Namespace
from lab.process import spawn


def test_that_takes_its_worker_with_it():
    run = rundir.make("lt-")
    Namespace.create(f"{run.name}-left", run)
    spawn("sleep", "1000", run=run, name="left")
    with open("left", "w") as note:
        note.write(f"{run.name} {(run / 'left.pid').read_text()}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_worker_that_was_killed_has_left_is_gone_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "test_dies.py").write_text(DIES)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p tests.conftest\n")
    pytest_ = (sys.executable, "-m", "pytest", "-n", "1", "--max-worker-restart", "0")
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'contrib'}"}

    with pytest.raises(CommandError) as ended:
        command("sh", "-c", 'cd "$0" && "$@"', tmp_path, *pytest_, env=env, timeout=300)

    assert "crashed while running" in ended.value.output
    name, *process = (tmp_path / "left").read_text().split()
    (tmp_path / "left.pid").write_text(" ".join(process))
    sleep = read_pid_file(tmp_path / "left.pid")
    assert sleep is not None
    # Another run that ends at the same time may have begun to do it for this one.
    gone = lambda: not (Path("/run") / name).exists()  # noqa: E731
    wait_until(gone, f"{name} is removed")
    assert not sleep.alive
    assert not list(NETNS.glob(f"{name}-*"))


def test_what_a_live_process_has_made_is_left_alone(run_dir: Path) -> None:
    rundir.sweep()
    assert run_dir.exists()
