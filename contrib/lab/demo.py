"""The demo: the fabric of the proof of concept comes up, loses a community and gets it back.

Each step is tried for real, with pings between pods both ways, and timed. The tests run the
same steps, so what is shown here is what is tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from lab.fabric import RECORDS, Fabric
from lab.process import LabError

PATHS = {
    "c1": ("2.2.2.2", "10.233.96.2"),
    "c2": ("2.2.2.2", "2.2.2.34"),
    "c3": ("2.2.2.34", "10.233.90.3"),
    "c4": ("10.233.96.2", "10.233.90.3"),
}
"""The connections of the proof of concept, by the pods at their ends."""

PINGS = 5


@dataclass(frozen=True)
class Step:
    title: str
    action: Callable[[Fabric], None]
    """Raises LabError when what the title says does not hold."""


def build(fabric: Fabric) -> None:
    fabric.build()


def start(fabric: Fabric) -> None:
    fabric.start_services()


def put_records(fabric: Fabric) -> None:
    for name, record in RECORDS.items():
        fabric.put_record(name, record)


def start_daemons(fabric: Fabric) -> None:
    fabric.start_daemons()


def converge(fabric: Fabric) -> None:
    fabric.wait_converged()


def all_talk(fabric: Fabric) -> None:
    for name in PATHS:
        require_talk(fabric, name)


def part(fabric: Fabric) -> None:
    """Take the community that edge2 and edge3 share away from edge3."""
    fabric.put_record("edge3", {**RECORDS["edge3"], "community": ""})
    fabric.wait_converged()


def only_c2_stops(fabric: Fabric) -> None:
    require_silence(fabric, "c2")
    for name in ("c1", "c3", "c4"):
        require_talk(fabric, name)


def rejoin(fabric: Fabric) -> None:
    fabric.put_record("edge3", RECORDS["edge3"])
    fabric.wait_converged()


STEPS = (
    Step("networks, certificates, configs", build),
    Step("etcd, three charons", start),
    Step("records written with etcdctl", put_records),
    Step("three fabricd started, pods attached", start_daemons),
    Step("every tunnel up", converge),
    Step("c1 c2 c3 c4: pods talk, both ways", all_talk),
    Step("edge3 leaves community app1", part),
    Step("c2 is silent, c1 c3 c4 talk on", only_c2_stops),
    Step("edge3 joins app1 again", rejoin),
    Step("c1 c2 c3 c4: pods talk again", all_talk),
)


def require_talk(fabric: Fabric, path: str) -> None:
    """No ping of a connection is lost, in either direction."""
    a, b = PATHS[path]
    for source, target in ((a, b), (b, a)):
        lost = fabric.ping(source, target, PINGS)
        if lost:
            raise LabError(f"{path}: {source} to {target}: {lost} of {PINGS} pings lost")


def require_silence(fabric: Fabric, path: str) -> None:
    """No ping of a connection is answered, in either direction."""
    a, b = PATHS[path]
    for source, target in ((a, b), (b, a)):
        answered = PINGS - fabric.ping(source, target, PINGS)
        if answered:
            raise LabError(f"{path}: {source} to {target}: {answered} pings went through")


@dataclass
class Demo:
    """One run of all steps, told on a console."""

    fabric: Fabric
    console: Console = field(default_factory=Console)

    def run(self) -> bool:
        """Whether all held; what failed, and the logs' tails, are printed."""
        esp = "charon's userspace ESP" if self.fabric.userspace_esp else "kernel ESP"
        self.console.print(f"The fabric in network namespaces {self.fabric.prefix}*, {esp}")
        times: list[tuple[str, float]] = []
        for step in STEPS:
            begun = time.monotonic()
            try:
                step.action(self.fabric)
            except LabError as error:
                self.console.print(f"[red]FAILED[/]  {step.title}")
                self.console.print(str(error), markup=False, highlight=False)
                self.console.print(self.fabric.tails(), markup=False, highlight=False)
                return False
            took = time.monotonic() - begun
            times.append((step.title, took))
            self.console.print(f"[green]ok[/] {took:6.2f} s  {step.title}")
        self._show_status()
        self._show_times(times)
        return True

    def _show_status(self) -> None:
        for name in self.fabric.nodes:
            self.console.rule(f"fabricctl status on {name}", align="left")
            self.console.print(self.fabric.fabricctl(name, "status"), markup=False, highlight=False)

    def _show_times(self, times: list[tuple[str, float]]) -> None:
        table = Table("step", "seconds", title="How long each step took", title_justify="left")
        table.columns[1].justify = "right"
        for title, took in times:
            table.add_row(title, f"{took:.2f}")
        table.add_section()
        table.add_row("all", f"{sum(took for _, took in times):.2f}")
        self.console.print(table)
