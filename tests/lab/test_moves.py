"""Nodes that move and nodes behind NAT: tunnels come back by themselves, and only theirs.

edge4 has no endpoint and sits behind a router that masquerades; node1 has an address for the edges
that can change without its cluster's network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import MOVING
from tests.lab.observe import SOON, own_fabric, sas, status, wait_converged, wait_sas
from tests.lab.pings import Pings, answered

EDGES = ("edge2", "edge3", "edge4")
PEERS = ("edge2", "edge4", "node2")
"""Where pods are that edge3's talk to."""

OTHERS = (("pod-edge2", "pod-node2"), ("pod-edge2", "pod-edge3"), ("pod-node2", "pod-edge3"))
"""Paths that have nothing to do with edge4."""

OUT_OF_NAT = tuple(("pod-edge4", f"pod-{peer}") for peer in ("node1", "edge2", "edge3"))


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with own_fabric(MOVING) as whole:
        whole.namespaces["node1"].add_address("eth0", f"{endpoint(whole, 'node1')}/24")
        whole.start_services()
        for name, record in MOVING.records.items():
            whole.put_record(name, record)
        whole.start_daemons()
        wait_converged(whole)
        yield whole


def endpoint(fabric: Fabric, name: str) -> str:
    """As the record has it."""
    return str({**fabric.layout.records, **fabric.records}[name]["endpoint"])


@contextmanager
def undisturbed(fabric: Fabric, *paths: tuple[str, str]) -> Iterator[None]:
    """Between these pods no ping is lost meanwhile."""
    running = [Pings(fabric, *path) for path in paths]
    try:
        with answered(running):
            yield
    finally:
        lost = {pings.path: pings.stop() for pings in running}
    assert lost == {pings.path: [] for pings in running}


@contextmanager
def back_again(fabric: Fabric, what: str, *paths: tuple[str, str]) -> Iterator[None]:
    """Between these pods pings are answered before and afterwards; says how long they were not."""
    running = [Pings(fabric, *path) for path in paths]
    try:
        with answered(running):
            yield
    finally:
        for pings in running:
            pings.stop()
            print(f"{what}: {pings.path}: {pings.longest_silence():.1f} s without an answer")


def sas_without(fabric: Fabric, name: str) -> dict[str, dict[str, list[str]]]:
    """The SAs of all pairs of nodes but those of `name`, once none is being replaced."""
    for node in fabric.nodes.values():
        peers = len(fabric.expected_peers(node.name))
        wait_sas(
            fabric,
            node.name,
            "one IKE_SA a peer is left",
            lambda found: len(found) == peers,  # noqa: B023
        )
    return {
        node.name: {sa: c for sa, c in sas(node.charon).items() if f"-{name} #" not in sa}
        for node in fabric.nodes.values()
        if node.name != name
    }


def remote(fabric: Fabric, name: str, peer: str) -> str:
    """Where a node sees a peer."""
    [found] = [p for p in status(fabric, name)["peers"] if p["name"] == peer]
    return str(found["remote"])


def wait_seen(fabric: Fabric, name: str, peer: str, address: str) -> None:
    wait_until(
        lambda: remote(fabric, name, peer) == address, f"{name} sees {peer} at {address}", SOON
    )


def reach(fabric: Fabric, name: str) -> None:
    """Until the pods of a node and of all its peers reach one another, both ways."""
    peers = fabric.expected_peers(name)
    for peer in sorted(peers):
        fabric.wait_ping(f"pod-{name}", f"pod-{peer}", SOON)
        fabric.wait_ping(f"pod-{peer}", f"pod-{name}", SOON)


# ---------------------------------------------------------------- behind NAT


def test_an_edge_behind_nat_initiates_and_its_pods_are_reached_from_everywhere(
    fabric: Fabric,
) -> None:
    peers = status(fabric, "edge4")["peers"]
    assert {p["name"]: (p["initiator"], p["up"]) for p in peers} == dict.fromkeys(
        ("node1", "edge2", "edge3"), (True, True)
    )
    for name in ("node1", "edge2", "edge3"):
        wait_seen(fabric, name, "edge4", MOVING.behind_nat["edge4"])
    reach(fabric, "edge4")
    for path in (("pod-edge4", "pod-node2"), ("pod-node2", "pod-edge4")):
        fabric.wait_ping(*path)
        assert fabric.ping(*path) == 0


def forget_mappings(fabric: Fabric) -> None:
    fabric.routers["edge4"].forget()


def move_router(fabric: Fabric) -> None:
    fabric.routers["edge4"].move("10.20.8.61/24")


@pytest.mark.parametrize("change", [forget_mappings, move_router])
def test_the_mapping_changes_and_only_the_edge_behind_it_is_touched(
    fabric: Fabric, change: Callable[[Fabric], None]
) -> None:
    """In the midst of traffic: neither end has had to ask yet whether the other lives, so charon
    has not seen the mapping as it was.
    """
    before = sas_without(fabric, "edge4")
    with undisturbed(fabric, *OTHERS):
        fabric.nodes["edge4"].charon.restart()
        wait_converged(fabric)
        with back_again(fabric, change.__name__, *OUT_OF_NAT):
            change(fabric)
        reach(fabric, "edge4")
        wait_converged(fabric)
    assert sas_without(fabric, "edge4") == before
    for name in ("node1", "edge2", "edge3"):
        wait_seen(fabric, name, "edge4", fabric.routers["edge4"].address.split("/")[0])


# ---------------------------------------------------------------- other addresses


def move(fabric: Fabric, name: str, address: str) -> None:
    """A node gets another address on the underlay, and its record says so."""
    old = endpoint(fabric, name)
    node = fabric.namespaces[name]
    node.ip("address", "delete", f"{old}/24", "dev", "eth0")
    node.add_address("eth0", f"{address}/24")
    fabric.put_record(name, {**fabric.records[name], "endpoint": address})


def test_an_edge_moves_and_only_its_tunnels_are_touched(fabric: Fabric) -> None:
    before = sas_without(fabric, "edge3")
    with undisturbed(fabric, ("pod-edge2", "pod-node2"), ("pod-edge4", "pod-edge2")):
        with back_again(fabric, "edge3 moves", *((f"pod-{peer}", "pod-edge3") for peer in PEERS)):
            move(fabric, "edge3", "10.20.8.13")
        for name in ("node1", "edge2", "edge4"):
            wait_seen(fabric, name, "edge3", "10.20.8.13")
        reach(fabric, "edge3")
        wait_converged(fabric)
    assert sas_without(fabric, "edge3") == before


def test_the_gateway_gets_another_endpoint_and_tunnels_between_edges_are_not_touched(
    fabric: Fabric,
) -> None:
    before = sas_without(fabric, "node1")
    with undisturbed(fabric, ("pod-edge2", "pod-edge3"), ("pod-edge4", "pod-edge2")):
        to_node2 = ((f"pod-{edge}", "pod-node2") for edge in EDGES)
        with back_again(fabric, "node1's endpoint changes", *to_node2):
            move(fabric, "node1", "10.20.8.242")
        for name in EDGES:
            wait_seen(fabric, name, "node1", "10.20.8.242")
        for name in EDGES:
            fabric.wait_ping(f"pod-{name}", "pod-node2", SOON)
            fabric.wait_ping("pod-node2", f"pod-{name}", SOON)
        wait_converged(fabric)
    assert sas_without(fabric, "node1") == before
