"""What tests of several gateways look at: which of them carries an edge, where the cluster sends
what is for it, and what pings were lost meanwhile. And how a gateway dies and boots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from fabricd.core.connections import WITH_ALTERNATIVES
from lab import rundir
from lab.fabric import Fabric
from lab.process import Process, wait_until
from lab.topology import UNDERLAY, Layout
from tests.lab.observe import SOON, ike, look, revive, sas, wait_converged, wait_status
from tests.lab.pings import Pings
from tests.lab.purged import purged_at_the_end

OTHER: Final = {"node1": "node2", "node2": "node1"}
"""The gateways."""

RETRANSMISSIONS: Final = sum(0.7 * 1.3**n for n in range(6))
"""Seconds after which charon gives up (`retransmit_*` in contrib/strongswan and `lab.charon`)."""

SILENT_DEATH: Final = 2 * (WITH_ALTERNATIVES + RETRANSMISSIONS)
"""Seconds in which a silent death has to be got over: what is configured, twice, because this
machine may have other things to do."""

INTERVAL: Final = 0.01
"""Seconds between two pings."""


@contextmanager
def up(layout: Layout, *, config: str = "") -> Iterator[Fabric]:
    """Converged, each edge where it belongs: the gateways were there before the edges came.
    `config`: more of each node's.
    """
    run = rundir.make("lt-")
    try:
        whole = Fabric(f"{run.name}-", run, layout)
        with purged_at_the_end(whole, look):
            whole.build()
            for node in whole.nodes.values():
                with node.config.open("a", encoding="utf-8") as file:
                    file.write(config)
            whole.start_services()
            for name, record in layout.records.items():
                whole.put_record(name, record)
            edges = [name for name in layout.records if name not in OTHER]
            for gateway in OTHER:
                whole.start_fabricd(gateway)
            for gateway in OTHER:
                wait_status(
                    whole, gateway, "knows the edges", lambda seen: len(seen["peers"]) == len(edges)
                )
            for edge in edges:
                whole.start_fabricd(edge)
            for pod in layout.pods:
                if pod.bridge == "br-edge":
                    whole.attach(pod)
            wait_converged(whole)
            yield whole
    finally:
        rundir.remove(run)


# ---------------------------------------------------------------- who carries what


def carriers(fabric: Fabric, edge: str) -> dict[str, bool]:
    """The gateways with which an edge has an IKE_SA, and whether there are CHILD_SAs in it."""
    found: dict[str, bool] = {}
    for sa, children in sas(fabric.nodes[edge].charon).items():
        peer = sa.split()[0].removeprefix("fabric-")
        if peer in OTHER:
            found[peer] = found.get(peer, False) or bool(children)
    return found


def next_hop(fabric: Fabric, edge: str) -> str:
    """Where node3 sends what is for an edge's pod: the gateway's address."""
    pod = fabric.layout.pod(f"pod-{edge}")
    [route] = json.loads(fabric.namespaces["node3"].ip("-j", "route", "get", pod.ip))
    return str(route.get("gateway"))


def doors(fabric: Fabric, gateway: str, edge: str) -> list[str]:
    """A gateway's own routes to an edge in the main table, by prefix."""
    subnet = fabric.layout.records[edge]["subnets"][0]
    show = ("-j", "route", "show", "root", subnet, "proto", "198")
    return [route["dst"] for route in json.loads(fabric.namespaces[gateway].ip(*show))]


def wait_carried(fabric: Fabric, by: Mapping[str, str], *, alone: bool = True) -> None:
    """Wait until each edge has CHILD_SAs with this gateway alone, an IKE_SA with the other (`alone`
    too), and node3 sends there what is for it; the other has no route to it any more.
    """
    for edge, gateway in by.items():
        wanted = {gateway: True, OTHER[gateway]: False} if alone else {gateway: True}
        wait_until(
            lambda: carriers(fabric, edge) == wanted,  # noqa: B023 - waited for here and now
            f"{gateway} carries {edge}",
            2 * SOON,
        )
        wait_until(
            lambda: next_hop(fabric, edge) == UNDERLAY[gateway],  # noqa: B023
            f"node3 reaches {edge} through {gateway}",
            SOON,
        )
        wait_until(
            lambda: not doors(fabric, OTHER[gateway], edge),  # noqa: B023
            f"{OTHER[gateway]} has no route to {edge}",
            SOON,
        )


def wait_standing_by(fabric: Fabric, edge: str, gateway: str) -> None:
    wait_status(
        fabric,
        edge,
        f"{gateway} stands by",
        lambda seen: (
            [(p["state"], p["up"]) for p in seen["peers"] if p["name"] == gateway]
            == [("standby", True)]
        ),
    )


class Made:
    """CHILD_SAs that an edge makes with gateways from here on, by its charon's log. (Its daemon
    does not say of each that it has initiated: charon may have told of it before the answer came.)
    """

    def __init__(self, fabric: Fabric, edge: str) -> None:
        self._charon = fabric.nodes[edge].charon
        self._start = self._charon.log.stat().st_size

    def peers(self) -> list[str]:
        """With whom, one after the other."""
        conns = ike(self._charon)["conns"].items()
        names = {
            child: name.removeprefix("fabric-") for name, c in conns for child in c["children"]
        }
        text = self._charon.log.read_bytes()[self._start :].decode(errors="replace")
        children = re.findall(r"CHILD_SA (\S+)\{\d+\} established", text)
        return [names[child] for child in children if names.get(child) in OTHER]


# ---------------------------------------------------------------- what is lost


class Outage:
    """What pings between an edge's pod and node3's came to."""

    lost = 0
    silence = 0.0
    """The most seconds without an answer."""


@contextmanager
def watched(fabric: Fabric, edge: str, what: str) -> Iterator[Outage]:
    """Ping from the edge's pod to node3's, and say what was lost. It begins and ends with an
    answer.
    """
    outage = Outage()
    pings = Pings(fabric, f"pod-{edge}", "pod-node3", INTERVAL)
    try:
        pings.wait_answer()
        yield outage
        pings.wait_answer()
    finally:
        outage.lost = len(pings.stop())
        outage.silence = pings.longest_silence()
    print(f"{what}: {edge} lost {outage.lost} pings, silent for {outage.silence:.2f} s")


@contextmanager
def losing(fabric: Fabric, edge: str, what: str, limit: int = 0) -> Iterator[None]:
    """As `watched`: no more pings are lost than `limit`."""
    with watched(fabric, edge, what) as outage:
        yield
    assert outage.lost <= limit


A_SECOND: Final = int(1 / INTERVAL)
"""Pings that an edge may lose as it moves to another gateway, at the very most."""


def moving(fabric: Fabric) -> int:
    """Pings that it may lose in fact. libipsec uses a new CHILD_SA before the initiator can, and
    one may be on its way just then. In the kernel the new policy refuses what still comes through
    the old CHILD_SA, until the cluster's routes have followed.
    """
    return 2 if fabric.userspace_esp else A_SECOND


# ---------------------------------------------------------------- silent deaths


def processes(fabric: Fabric, gateway: str) -> list[Process]:
    """Of the whole machine."""
    found = [*fabric.nodes[gateway].processes, fabric.birds[gateway].process]
    return [process for process in found if process is not None]


def cut(fabric: Fabric, gateway: str) -> None:
    """Off the underlay."""
    fabric.namespaces["wan"].ip("link", "set", f"p-{gateway}", "down")


def connect(fabric: Fabric, gateway: str) -> None:
    fabric.namespaces["wan"].ip("link", "set", f"p-{gateway}", "up")


def die(fabric: Fabric, gateway: str) -> None:
    """The whole machine, without a word to anybody."""
    cut(fabric, gateway)
    for process in processes(fabric, gateway):
        process.kill()


def boot(fabric: Fabric, gateway: str) -> None:
    """What of it does not run."""
    connect(fabric, gateway)
    bird, node = fabric.birds[gateway], fabric.nodes[gateway]
    if bird.process is None or not bird.process.alive:
        bird.start()
    if node.charon.process is None or not node.charon.process.alive:
        node.charon.start()
    revive(fabric, gateway)


def restart_charon(fabric: Fabric, gateway: str) -> None:
    """SIGKILL, and a new one: the edges notice, and find it again."""
    fabric.nodes[gateway].charon.kill()
    fabric.nodes[gateway].charon.start()


def all_home(fabric: Fabric, home: Mapping[str, str]) -> None:
    """Each edge where it belongs, whatever the test before has left."""
    for gateway in OTHER:
        boot(fabric, gateway)
    wait_carried(fabric, home)
