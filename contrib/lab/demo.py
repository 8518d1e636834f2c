"""The demo: the fabric of the proof of concept comes up, loses a community and gets it back.

Each step is tried for real, with pings between pods both ways and an ear on the wire, and timed.
The tests run the same steps, so what is shown here is what is tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from lab.bird import TUNNEL
from lab.capture import Capture
from lab.fabric import RECORDS, UNDERLAY, Fabric
from lab.process import LabError

PATHS = {
    "c1": ("2.2.2.2", "10.233.96.2"),
    "c2": ("2.2.2.2", "2.2.2.34"),
    "c3": ("2.2.2.34", "10.233.90.3"),
    "c4": ("10.233.96.2", "10.233.90.3"),
}
"""The connections of the proof of concept, by the pods at their ends."""

PINGS = 5


class Demo:
    """One run, step by step."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.uplinks: list[Capture] = []

    def build(self) -> None:
        self.fabric.build()

    def start_services(self) -> None:
        self.fabric.start_services()
        self.uplinks = [self.fabric.uplink(edge) for edge in ("edge2", "edge3")]
        for uplink in self.uplinks:
            uplink.start()

    def put_records(self) -> None:
        for name, record in RECORDS.items():
            self.fabric.put_record(name, record)

    def start_daemons(self) -> None:
        self.fabric.start_daemons()

    def converge(self) -> None:
        self.fabric.wait_converged()
        if not self.fabric.userspace_esp:
            for name in self.fabric.nodes:
                if not self.fabric.kernel_sas(name):
                    raise LabError(f"{name}: the kernel holds no ESP SA")

    def learned(self) -> None:
        """The blackhole came from node1 to node2 as a route, into the tunnel if there is one."""
        node2 = self.fabric.birds["node2"]
        node2.wait_learned("2.0.0.0/8")
        route = node2.learned()["2.0.0.0/8"]
        found = route.get("gateway"), route["dev"], "onlink" in route["flags"]
        tunnel = self.fabric.ipip
        expected = UNDERLAY["node1"], TUNNEL if tunnel else "eth0", tunnel
        if found != expected:
            raise LabError(f"node2 has learned {found}, and not {expected}")

    def all_talk(self) -> None:
        for path in PATHS:
            self.require_talk(path)

    def part(self) -> None:
        """Take the community that edge2 and edge3 share away from edge3."""
        self.fabric.put_record("edge3", {**RECORDS["edge3"], "community": ""})
        self.fabric.wait_converged()

    def only_c2_stops(self) -> None:
        self.require_silence("c2")
        for path in ("c1", "c3", "c4"):
            self.require_talk(path)

    def rejoin(self) -> None:
        self.fabric.put_record("edge3", RECORDS["edge3"])
        self.fabric.wait_converged()

    def nothing_in_clear(self) -> None:
        """In all this time no pod's packet crossed an edge's uplink but inside of ESP."""
        for uplink in self.uplinks:
            uplink.stop()
            if clear := uplink.clear():
                raise LabError(f"{uplink.link}: {len(clear)} packets in clear, first {clear[0]}")
            if not uplink.encrypted():
                raise LabError(f"{uplink.link}: no ESP packet was seen at all")

    def require_talk(self, path: str) -> None:
        """No ping of a connection is lost, in either direction."""
        a, b = PATHS[path]
        for source, target in ((a, b), (b, a)):
            lost = self.fabric.ping(source, target, PINGS, wait=5)
            if lost:
                raise LabError(f"{path}: {source} to {target}: {lost} of {PINGS} pings lost")

    def require_silence(self, path: str) -> None:
        """No ping of a connection is answered, in either direction."""
        a, b = PATHS[path]
        for source, target in ((a, b), (b, a)):
            answered = PINGS - self.fabric.ping(source, target, PINGS)
            if answered:
                raise LabError(f"{path}: {source} to {target}: {answered} pings went through")


@dataclass(frozen=True)
class Step:
    title: str
    action: Callable[[Demo], None]
    """Raises LabError when what the title says does not hold."""


STEPS = (
    Step("networks, certificates, configs", Demo.build),
    Step("etcd, three charons, two BIRDs", Demo.start_services),
    Step("records written with etcdctl", Demo.put_records),
    Step("three fabricd started, pods attached", Demo.start_daemons),
    Step("every tunnel up", Demo.converge),
    Step("node2 has learned from BIRD how to reach the edges", Demo.learned),
    Step("c1 c2 c3 c4: pods talk, both ways", Demo.all_talk),
    Step("edge3 leaves community app1", Demo.part),
    Step("c2 is silent, c1 c3 c4 talk on", Demo.only_c2_stops),
    Step("edge3 joins app1 again", Demo.rejoin),
    Step("c1 c2 c3 c4: pods talk again", Demo.all_talk),
    Step("all the while nothing but ESP on the edges' uplinks", Demo.nothing_in_clear),
)


@dataclass
class Narrator:
    """Runs all steps and tells of them on a console."""

    fabric: Fabric
    console: Console = field(default_factory=Console)

    def run(self) -> bool:
        """Whether all held; what failed, and the logs' tails, are printed."""
        esp = "charon's userspace ESP" if self.fabric.userspace_esp else "the kernel's ESP"
        self.console.print(f"The fabric in network namespaces {self.fabric.prefix}*, with {esp}")
        ipip = "with" if self.fabric.ipip else "without"
        self.console.print(f"The cluster: BIRD on node1 and node2, {ipip} IPIP between them")
        demo = Demo(self.fabric)
        times: list[tuple[str, float]] = []
        for step in STEPS:
            begun = time.monotonic()
            try:
                step.action(demo)
            except LabError as error:
                self.console.print(f"[red]FAILED[/]      {step.title}")
                self._quote(str(error))
                if not error.tails:
                    self._quote(self.fabric.tails())
                return False
            took = time.monotonic() - begun
            times.append((step.title, took))
            self.console.print(f"[green]ok[/] {took:6.2f} s  {step.title}")
        self._show_status()
        self._show_learned()
        self._show_times(times)
        return True

    def _show_status(self) -> None:
        for name in self.fabric.nodes:
            self.console.rule(f"fabricctl status on {name}", align="left")
            self._quote(self.fabric.fabricctl(name, "status"))

    def _show_learned(self) -> None:
        for name, bird in self.fabric.birds.items():
            self.console.rule(f"{name}'s routes from BIRD", align="left")
            self._quote(bird.namespace.ip("route", "show", "proto", "bird"))

    def _show_times(self, times: list[tuple[str, float]]) -> None:
        table = Table("step", "seconds", title="How long each step took", title_justify="left")
        table.columns[1].justify = "right"
        for title, took in times:
            table.add_row(title, f"{took:.2f}")
        table.add_section()
        table.add_row("all", f"{sum(took for _, took in times):.2f}")
        self.console.print(table)

    def _quote(self, text: str) -> None:
        """Print text as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
