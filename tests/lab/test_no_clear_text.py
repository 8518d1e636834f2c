"""Whatever stops, dies, starts or is taken away: between nodes no pod's packet is seen in clear.

Every node has a default route to a router that would carry what leaks, and pods that never stop
sending. (Between node1 and node2 goes the cluster's own network, which is in clear here: so only
packets of edges' pods count on node1's uplink, and no pod of node2's takes part.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.capture import Capture
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS, UNDERLAY
from tests.lab.observe import (
    SOON,
    or_else,
    own_fabric,
    revive,
    wait_converged,
    wait_peers,
    wait_status,
)
from tests.lab.pings import Pings, answered

EDGES = ("edge2", "edge3")
NODES = ("node1", *EDGES)
BOTH_WAYS = (
    ("pod-edge2", "pod-node1"),
    ("pod-node1", "pod-edge2"),
    ("pod-edge2", "pod-edge3"),
    ("pod-edge3", "pod-edge2"),
)


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with own_fabric() as whole:
        lead_out(whole)
        whole.start_services()
        start_in_sight(whole)
        yield whole


def lead_out(fabric: Fabric) -> None:
    for name in NODES:
        fabric.namespaces[name].add_route("default", UNDERLAY["node2"])


def start_in_sight(fabric: Fabric) -> None:
    """Bring it up; the edges are watched from before fabricd's first start on."""
    for name, record in RECORDS.items():
        fabric.put_record(name, record)
    with nothing_in_clear(fabric, *EDGES):
        fabric.start_daemons()
        wait_converged(fabric)


@contextmanager
def watched(fabric: Fabric, *names: str) -> Iterator[dict[str, list[str]]]:
    """Watch the nodes' uplinks; afterwards the dict holds what pods sent there in clear."""
    clear: dict[str, list[str]] = {}
    uplinks = [uplink(fabric, name) for name in names]
    for capture in uplinks:
        capture.start()
    try:
        yield clear
        # What went out before the end has to be in the account: so has what goes out now.
        seen = [len(capture.encrypted()) for capture in uplinks]
        fabric.wait_ping("pod-edge2", "pod-node1")
        fabric.wait_ping("pod-edge2", "pod-edge3")
        wait_until(
            lambda: all(len(c.encrypted()) > n for c, n in zip(uplinks, seen, strict=True)),
            "the captures have seen the last packets",
            SOON,
        )
    finally:
        for capture in uplinks:
            capture.stop()
    clear.update({capture.link: capture.clear() for capture in uplinks})


@contextmanager
def nothing_in_clear(fabric: Fabric, *names: str) -> Iterator[None]:
    """On the nodes' uplinks is ESP, and of pods nothing else."""
    with watched(fabric, *names) as clear:
        yield
    assert not [packet for packets in clear.values() for packet in packets]


def uplink(fabric: Fabric, name: str) -> Capture:
    if name in EDGES:
        return fabric.uplink(name)
    return Capture(fabric.namespaces["wan"], f"p-{name}", ("2.0.0.0/8",))


@contextmanager
def sending(fabric: Fabric) -> Iterator[None]:
    """Pods ping one another all the while, whether they are answered or not."""
    pings = [Pings(fabric, *path) for path in BOTH_WAYS]
    try:
        with answered(pings):
            yield
    finally:
        for ping in pings:
            ping.stop()


def end_fabricd(fabric: Fabric) -> None:
    fabric.stop_fabricd("edge2")
    fabric.kill_fabricd("edge3")
    fabric.kill_fabricd("node1")
    for name in NODES:
        fabric.start_fabricd(name)


def stop_charon(fabric: Fabric) -> None:
    for name in NODES:
        fabric.nodes[name].charon.restart()


def kill_charon(fabric: Fabric) -> None:
    for name in NODES:
        fabric.nodes[name].charon.kill()
    for name in NODES:
        with or_else(lambda: start_what_is_gone(fabric)):
            wait_status(fabric, name, "misses charon", lambda seen: not seen["charon"]["ok"])
        fabric.nodes[name].charon.start()


def kill_both(fabric: Fabric) -> None:
    """Then nobody is there to put anything right. The kernel's own ESP works on by itself."""
    for name in EDGES:
        fabric.kill_fabricd(name)
        fabric.nodes[name].charon.kill()
    lost = 1 if fabric.userspace_esp else 0
    with or_else(lambda: start_what_is_gone(fabric)):
        assert fabric.ping("pod-edge2", "pod-node1", 1) == lost
        assert fabric.ping("pod-edge3", "pod-edge2", 1) == lost
    for name in EDGES:
        fabric.nodes[name].charon.start()
        fabric.start_fabricd(name)


def start_what_is_gone(fabric: Fabric) -> None:
    for node in fabric.nodes.values():
        if not node.charon.running.alive:
            node.charon.start()
    revive(fabric)


def part(fabric: Fabric) -> None:
    fabric.put_record("edge3", {**RECORDS["edge3"], "community": ""})
    try:
        for name in EDGES:
            wait_peers(fabric, name, "node1")
        assert fabric.ping("pod-edge2", "pod-edge3", 1) == 1
    finally:
        fabric.put_record("edge3", RECORDS["edge3"])


@pytest.mark.parametrize("event", [end_fabricd, stop_charon, kill_charon, kill_both, part])
def test_nothing_leaves_in_clear(fabric: Fabric, event: Callable[[Fabric], None]) -> None:
    with nothing_in_clear(fabric, *NODES), sending(fabric):
        event(fabric)
        wait_converged(fabric, timeout=2 * SOON)


def test_a_leak_would_have_been_seen(fabric: Fabric) -> None:
    """To where no tunnel leads: what is for a tunnel the kernel's own ESP takes on any way."""
    ip = fabric.namespaces["edge2"].ip
    ip("route", "add", "2.2.2.64/27", "via", UNDERLAY["node2"], "table", "100")
    leak = ("priority", "100", "lookup", "100")
    with watched(fabric, "edge2") as clear:
        ip("rule", "add", *leak)
        try:
            assert fabric.namespaces["pod-edge2"].lost("2.2.2.66", 1) == 1
        finally:
            ip("rule", "delete", *leak)
    [packet] = clear["p-edge2"]
    assert "2.2.2.2 > 2.2.2.66: ICMP echo request" in packet
