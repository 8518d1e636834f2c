"""`python -m lab`: the demo's steps hold, and no run leaves anything behind."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from lab import rundir
from lab.demo import STEPS, Demo, Narrator, Step
from lab.fabric import Fabric
from lab.netns import NETNS, Namespace
from lab.process import Process, ProcessId, command, read_pid_file, spawn, wait_until

CONTRIB = Path(__file__).parents[2] / "contrib"


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    run = rundir.make("lt-")
    yield Demo(Fabric(f"{run.name}-", run))
    rundir.remove(run)


@pytest.mark.parametrize("step", STEPS, ids=[step.title for step in STEPS])
def test_the_steps_of_the_demo_hold_one_after_the_other(demo: Demo, step: Step) -> None:
    step.action(demo)


def test_a_demo_that_fails_says_what_failed_and_shows_the_logs(run_dir: Path) -> None:
    told = io.StringIO()
    broken = ("sh", "-c", "echo no such luck; exit 3")
    fabric = Fabric(f"{run_dir.name}-", run_dir, fabricd=broken)

    assert not Narrator(fabric, Console(file=told, width=200)).run()

    assert "FAILED      three fabricd started" in told.getvalue()
    assert "node1-fabricd ended with 3" in told.getvalue()
    assert "no such luck" in told.getvalue()


class Lab:
    """`python -m lab` with a prefix of its own."""

    def __init__(self, run_dir: Path) -> None:
        self.prefix = f"l{uuid4().hex[:6]}"
        self.run = Path("/run") / f"lab-{self.prefix}"
        self.run_dir = run_dir
        self.env = {"PYTHONPATH": str(CONTRIB)}

    def __call__(self, verb: str) -> str:
        argv = (sys.executable, "-m", "lab", verb, "--prefix", f"{self.prefix}-")
        return command(*argv, env=self.env, timeout=300)

    def start(self, verb: str) -> Process:
        argv = (sys.executable, "-m", "lab", verb, "--prefix", f"{self.prefix}-")
        return spawn(*argv, run=self.run_dir, name=verb, env=self.env)

    def processes(self) -> set[ProcessId]:
        """What it runs."""
        found = {read_pid_file(path) for path in self.run.glob("*.pid")}
        return {process for process in found if process is not None and process.alive}

    def namespaces(self) -> list[str]:
        return [path.name for path in NETNS.glob(f"{self.prefix}-*")]


@pytest.fixture
def lab(run_dir: Path) -> Iterator[Lab]:
    it = Lab(run_dir)
    yield it
    if it.run.exists():
        rundir.remove(it.run)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "wan.netns"),
        (signal.SIGTERM, "etcd.pid"),
        (signal.SIGINT, "edge3-fabricd.pid"),
    ],
    ids=["SIGINT at the first namespace", "SIGTERM with etcd", "SIGINT with all daemons"],
)
def test_an_interrupted_demo_leaves_nothing(lab: Lab, number: signal.Signals, moment: str) -> None:
    demo = lab.start("demo")
    wait_until(lambda: list(lab.run.glob(f"*{moment}")), f"there is {moment}", watch=[demo])
    processes = lab.processes()

    demo.signal(number)

    assert demo.wait(120) == 128 + number
    assert not lab.namespaces()
    assert not lab.run.exists()
    assert not [process for process in processes if process.alive]


def test_what_a_killed_demo_left_is_removed_by_the_next_run(lab: Lab) -> None:
    demo = lab.start("demo")
    wait_until((lab.run / "edge2-fabricd.pid").exists, "fabricd runs", watch=[demo])
    demo.kill()
    processes = lab.processes()
    assert processes
    assert lab.namespaces()

    told = lab("down")

    assert f"removed network namespace {lab.prefix}-edge2" in told
    assert not lab.namespaces()
    assert not lab.run.exists()
    assert not [process for process in processes if process.alive]


def test_a_lab_stays_up_until_it_is_taken_down_and_both_can_be_repeated(lab: Lab) -> None:
    assert f"ip netns exec {lab.prefix}-edge2" in lab("up")
    processes = lab.processes()
    assert Namespace(f"{lab.prefix}-pod-edge2", lab.run).lost("2.2.2.34") == 0

    assert "It is up already" in lab("up")
    assert lab.processes() == processes

    lab("down")
    assert not lab.namespaces()
    assert not lab.run.exists()
    assert not lab("down")
