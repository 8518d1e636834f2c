"""Two gateways to one cluster: which of them carries an edge, and how an edge is handed over.

node1 and node2 are gateways, node3 is the rest of the cluster and learns the way to each edge from
their BIRDs. Traffic runs between the edges' pods and node3's. `-rP` shows what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from lab.capture import Capture
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import TWO_GATEWAYS
from tests.lab.gateways import (
    OTHER,
    all_home,
    carriers,
    doors,
    losing,
    moving,
    up,
    wait_carried,
)
from tests.lab.observe import (
    SOON,
    metrics,
    or_else,
    status,
    wait_converged,
    wait_peers,
    wait_sas,
    wait_status,
)

HOME: Final = {"edge2": "node2", "edge3": "node1"}
"""The gateway to which each edge belongs: priorities are equal, the hash decides."""

BIG: Final = 600
"""Bytes of a ping that nobody takes for a probe of a tunnel, on a wire that shows ESP alone."""

EDGE_OF: Final = {gateway: edge for edge, gateway in HOME.items()}


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with up(TWO_GATEWAYS) as whole:
        yield whole


@pytest.fixture(autouse=True)
def at_home(fabric: Fabric) -> None:
    all_home(fabric, HOME)


def test_an_edge_has_child_sas_with_its_gateway_and_an_ike_sa_with_the_other(
    fabric: Fabric,
) -> None:
    wait_converged(fabric)
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
        assert fabric.ping(f"pod-{edge}", "pod-node3", 5, size=BIG) == 0
        wait_until(
            lambda: (
                all(len(seen[name].clear()) == 10 for name in ("node3", gateway))
                and len(seen[edge].encrypted(BIG)) == 10
            ),
            "ten packets on each of the three wires",
            SOON,
        )
    # The cluster sees the pod's own address, and answers to the gateway with the edge's tunnel.
    for name in ("node3", gateway):
        clear = seen[name].clear()
        print(f"{name}: {clear[0]}")
        assert [sum(what in line for line in clear) for what in (there, back)] == [5, 5]
        assert len(clear) == 10
        assert all((": IP " in line) == fabric.ipip for line in clear)
    assert seen[edge].clear() == []
    assert seen[OTHER[gateway]].clear() == seen[OTHER[gateway]].encrypted(BIG) == []
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
        with or_else(lambda: fabric.fabricctl(gateway, "undrain")):
            with losing(fabric, edge, f"{gateway} drained", moving(fabric)):
                assert fabric.fabricctl(gateway, "drain") == f"nodes/{gateway}: is drained\n"
                wait_carried(fabric, dict.fromkeys(HOME, other))
            wait_sas(fabric, gateway, "carries nobody", lambda found: not any(found.values()))
            assert [doors(fabric, gateway, each) for each in HOME] == [[], []]
            wait_status(
                fabric,
                gateway,
                "stands by",
                lambda seen: [peer["state"] for peer in seen["peers"]] == ["standby", "standby"],
            )
        with losing(fabric, edge, f"{gateway} back in use", moving(fabric)):
            assert fabric.fabricctl(gateway, "undrain") == f"nodes/{gateway}: is in use\n"
            wait_carried(fabric, HOME)
        # What was longer than the other one's halves is no longer needed.
        subnet = fabric.layout.records[edge]["subnets"]
        wait_until(lambda: doors(fabric, gateway, edge) == subnet, f"{gateway} has one route", SOON)
    wait_converged(fabric)


def test_a_gateway_with_a_higher_priority_gets_all_edges(fabric: Fabric) -> None:
    record = TWO_GATEWAYS.records["node2"]
    with losing(fabric, "edge2", "priority of node2 up and down"):
        with (
            or_else(lambda: fabric.put_record("node2", record)),
            losing(fabric, "edge3", "priority of node2 up", moving(fabric)),
        ):
            fabric.put_record("node2", {**record, "priority": 200})
            wait_carried(fabric, dict.fromkeys(HOME, "node2"))
        with losing(fabric, "edge3", "priority of node2 down", moving(fabric)):
            fabric.put_record("node2", record)
            wait_carried(fabric, HOME)
    wait_converged(fabric)
