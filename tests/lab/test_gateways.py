"""Two gateways to one cluster: which of them carries an edge, and what happens when it goes.

node1 and node2 are gateways, node3 is the rest of the cluster and learns the way to each edge from
their BIRDs. Traffic runs between the edges' pods and node3's. `-rP` shows what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from fabricd.core.connections import WITH_ALTERNATIVES
from fabricd.core.fitness import PROBATION, probation
from lab import rundir
from lab.capture import Capture
from lab.fabric import Fabric
from lab.process import Process, wait_until
from lab.topology import TWO_GATEWAYS, UNDERLAY
from tests.lab.observe import (
    SOON,
    Log,
    metrics,
    sas,
    status,
    wait_converged,
    wait_peers,
    wait_status,
)
from tests.lab.pings import Pings

HOME: Final = {"edge2": "node2", "edge3": "node1"}
"""The gateway to which each edge belongs: priorities are equal, the hash decides."""

OTHER: Final = {"node1": "node2", "node2": "node1"}
EDGE_OF: Final = {gateway: edge for edge, gateway in HOME.items()}

RETRANSMISSIONS: Final = sum(1.0 * 1.4**n for n in range(5))
"""Seconds after which charon gives up (`retransmit_*` in contrib/strongswan and `lab.charon`)."""

SILENT_DEATH: Final = 2 * (WITH_ALTERNATIVES + RETRANSMISSIONS)
"""Seconds in which a silent death has to be got over: what is configured, twice, because this
machine may have other things to do."""

INTERVAL: Final = 0.01
"""Seconds between two pings."""


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """Converged, each edge where it belongs: the gateways were there before the edges came."""
    run = rundir.make("lt-")
    try:
        whole = Fabric(f"{run.name}-", run, TWO_GATEWAYS)
        whole.build()
        whole.start_services()
        for name, record in TWO_GATEWAYS.records.items():
            whole.put_record(name, record)
        for gateway in OTHER:
            whole.start_fabricd(gateway)
        for gateway in OTHER:
            wait_status(whole, gateway, "knows the edges", lambda seen: len(seen["peers"]) == 2)
        for edge in HOME:
            whole.start_fabricd(edge)
        for pod in TWO_GATEWAYS.pods:
            if pod.bridge == "br-edge":
                whole.attach(pod)
        wait_converged(whole)
        yield whole
    finally:
        rundir.remove(run)


@pytest.fixture(autouse=True)
def at_home(fabric: Fabric) -> None:
    """Each test finds the edges where they belong, whatever the one before has left."""
    for gateway in OTHER:
        if not all(process.alive for process in processes(fabric, gateway)):
            boot(fabric, gateway)
    wait_carried(fabric, HOME)


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


def wait_carried(fabric: Fabric, by: dict[str, str], *, alone: bool = True) -> None:
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


LEAVING: Final = 1
"""Pings that an edge may lose that leaves its gateway: libipsec uses a new CHILD_SA before the
initiator can, and one may be on its way just then."""

COMING_BACK: Final = int(1 / INTERVAL)
"""And one that comes back, a second's: until the gateway that it leaves has heard of that, packets
still go there. In fact it is one or two."""


def test_an_edge_has_child_sas_with_its_gateway_and_an_ike_sa_with_the_other(
    fabric: Fabric,
) -> None:
    for edge, gateway in HOME.items():
        states = {peer["name"]: peer["state"] for peer in status(fabric, edge)["peers"]}
        assert states[gateway] == "up"
        assert states[OTHER[gateway]] == "standby"
        other = status(fabric, OTHER[gateway])["peers"]
        assert {peer["name"]: peer["state"] for peer in other}[edge] == "standby"
        assert carriers(fabric, edge) == {gateway: True, OTHER[gateway]: False}
        seen = metrics(fabric, edge)
        assert {seen[f'fabricd_tunnel_up{{peer="{name}"}}'] for name in OTHER} == {1.0}
    for name in fabric.nodes:
        wait_peers(fabric, name, *fabric.expected_peers(name))
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"


@contextmanager
def wires(fabric: Fabric, *names: str) -> Iterator[dict[str, Capture]]:
    """What nodes send and get on the underlay meanwhile."""
    captures = {name: fabric.uplink(name) for name in names}
    for capture in captures.values():
        capture.start()
    try:
        yield captures
    finally:
        for capture in captures.values():
            capture.stop()


@pytest.mark.parametrize("edge", HOME)
def test_packets_go_through_the_gateway_that_carries_the_edge_both_ways(
    fabric: Fabric, edge: str
) -> None:
    gateway = HOME[edge]
    pod, node3 = fabric.layout.pod(f"pod-{edge}").ip, fabric.layout.pod("pod-node3").ip
    there, back = f"{pod} > {node3}: ICMP echo request", f"{node3} > {pod}: ICMP echo reply"
    with wires(fabric, edge, gateway, OTHER[gateway], "node3") as seen:
        assert fabric.ping(f"pod-{edge}", "pod-node3", 5) == 0
        wait_until(
            lambda: (
                all(len(seen[name].clear()) == 10 for name in ("node3", gateway))
                and len(seen[edge].encrypted()) == 10
            ),
            "ten packets on each of the three wires",
            SOON,
        )
    # The cluster sees the pod's own address, and answers to the gateway with the edge's tunnel.
    for name in ("node3", gateway):
        clear = seen[name].clear()
        assert [sum(what in line for line in clear) for what in (there, back)] == [5, 5]
        assert len(clear) == 10
    assert seen[edge].clear() == []
    assert seen[OTHER[gateway]].clear() == seen[OTHER[gateway]].encrypted() == []
    assert fabric.ping("pod-node3", f"pod-{edge}") == 0


def test_an_address_that_nobody_carries_is_refused_and_does_not_go_in_circles(
    fabric: Fabric,
) -> None:
    nobodys = "2.2.2.200"
    with wires(fabric, *OTHER) as seen:
        ping = f"ping -n -c 1 -W 5 {nobodys} || true"
        report = fabric.namespaces["pod-node3"].run("sh", "-c", ping)
        assert fabric.ping("pod-node3", "pod-edge2", 1) == 0
        assert fabric.ping("pod-node3", "pod-edge3", 1) == 0
        pods = [fabric.layout.pod(f"pod-{edge}").ip for edge in HOME]
        wait_until(
            lambda: all(
                any(pod in line for gateway in OTHER for line in seen[gateway].clear())
                for pod in pods
            ),
            "the captures have seen what came later",
            SOON,
        )
    assert "Unreachable" in report
    requests = [
        line
        for capture in seen.values()
        for line in capture.clear()
        if f"> {nobodys}: ICMP echo request" in line
    ]
    assert len(requests) == 1


# ---------------------------------------------------------------- orderly leaves


@pytest.mark.parametrize("gateway", OTHER)
def test_a_gateway_is_drained_and_comes_back(fabric: Fabric, gateway: str) -> None:
    edge, other = EDGE_OF[gateway], OTHER[gateway]
    with losing(fabric, EDGE_OF[other], f"{gateway} drained and back"):
        with losing(fabric, edge, f"{gateway} drained", LEAVING):
            assert fabric.fabricctl(gateway, "drain") == f"nodes/{gateway}: is drained\n"
            wait_carried(fabric, dict.fromkeys(HOME, other))
        assert not any(sas(fabric.nodes[gateway].charon).values())
        assert [doors(fabric, gateway, each) for each in HOME] == [[], []]
        states = [peer["state"] for peer in status(fabric, gateway)["peers"]]
        assert states == ["standby", "standby"]
        with losing(fabric, edge, f"{gateway} back in use", COMING_BACK):
            assert fabric.fabricctl(gateway, "undrain") == f"nodes/{gateway}: is in use\n"
            wait_carried(fabric, HOME)
    wait_converged(fabric)


def test_a_gateway_with_a_higher_priority_gets_all_edges(fabric: Fabric) -> None:
    record = TWO_GATEWAYS.records["node2"]
    with losing(fabric, "edge2", "priority of node2 up and down"):
        with losing(fabric, "edge3", "priority of node2 up", COMING_BACK):
            fabric.put_record("node2", {**record, "priority": 200})
            wait_carried(fabric, dict.fromkeys(HOME, "node2"))
        with losing(fabric, "edge3", "priority of node2 down", COMING_BACK):
            fabric.put_record("node2", record)
            wait_carried(fabric, HOME)
    wait_converged(fabric)


# ---------------------------------------------------------------- silent deaths


def processes(fabric: Fabric, gateway: str) -> list[Process]:
    found = [*fabric.nodes[gateway].processes, fabric.birds[gateway].process]
    return [process for process in found if process is not None]


def die(fabric: Fabric, gateway: str) -> None:
    """The whole machine, without a word to anybody."""
    fabric.namespaces["wan"].ip("link", "set", f"p-{gateway}", "down")
    for process in processes(fabric, gateway):
        process.kill()


def boot(fabric: Fabric, gateway: str) -> None:
    fabric.namespaces["wan"].ip("link", "set", f"p-{gateway}", "up")
    fabric.birds[gateway].start()
    fabric.nodes[gateway].charon.start()
    fabric.start_fabricd(gateway)


def restart_charon(fabric: Fabric, gateway: str) -> None:
    """SIGKILL, and a new one: the edges notice, and find it again."""
    fabric.nodes[gateway].charon.kill()
    fabric.nodes[gateway].charon.start()


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


def test_fabricd_dies_alone_and_nothing_moves(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in HOME}
    with losing(fabric, "edge2", "fabricd killed"):
        fabric.kill_fabricd("node2")
        assert fabric.ping("pod-node3", "pod-edge2", 5) == 0
        fabric.start_fabricd("node2")
        wait_converged(fabric)
    assert {edge: sas(fabric.nodes[edge].charon) for edge in HOME} == before


def test_a_gateway_dies_edges_go_to_the_other_and_come_back_once_when_it_has_lasted(
    fabric: Fabric,
) -> None:
    with losing(fabric, "edge2", "node1 dead and back"):
        with watched(fabric, "edge3", "node1 dead") as outage:
            die(fabric, "node1")
            wait_carried(fabric, {"edge3": "node2"}, alone=False)
        assert outage.silence < SILENT_DEATH

        log = Log(fabric, "edge3")
        with losing(fabric, "edge3", "node1 boots"):
            boot(fabric, "node1")
            wait_standing_by(fabric, "edge3", "node1")
            assert carriers(fabric, "edge3") == {"node1": False, "node2": True}
        with losing(fabric, "edge3", "node1 has lasted", COMING_BACK):
            wait_carried(fabric, HOME)
        [node1] = [peer for peer in status(fabric, "edge3")["peers"] if peer["name"] == "node1"]
        assert node1["age"] >= probation("edge3") >= PROBATION
        assert [line["peer"] for line in log.lines("initiated") if line["child"]] == ["node1"]
    wait_converged(fabric)


def test_charon_dies_alone_and_the_next_one_before_the_first_has_proved_itself(
    fabric: Fabric,
) -> None:
    """Then one on probation has to do."""
    with losing(fabric, "edge3", "node2's charon killed"):
        with watched(fabric, "edge2", "node2's charon killed") as outage:
            restart_charon(fabric, "node2")
            wait_carried(fabric, {"edge2": "node1"})
        assert outage.silence < SILENT_DEATH
        wait_standing_by(fabric, "edge2", "node2")
    with watched(fabric, "edge2", "node1's charon killed, node2 on probation") as outage:
        restart_charon(fabric, "node1")
        wait_carried(fabric, dict.fromkeys(HOME, "node2"))
    assert outage.silence < SILENT_DEATH
