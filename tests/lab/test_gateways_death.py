"""Two gateways to one cluster: one of them dies without a word, or only seems to.

node3 is the rest of the cluster; BGP's hold time there is minutes, so whatever a dead gateway has
told it stays in its tables for longer than any test lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from fabricd.core.fitness import PROBATION, probation
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import TWO_GATEWAYS, UNDERLAY
from tests.lab.gateways import (
    SILENT_DEATH,
    Made,
    all_home,
    boot,
    carriers,
    connect,
    cut,
    die,
    doors,
    losing,
    moving,
    restart_charon,
    up,
    wait_carried,
    wait_standing_by,
    watched,
)
from tests.lab.observe import SOON, or_else, revive, sas, status, wait_converged

HOME: Final = {"edge2": "node2", "edge3": "node1"}
"""The gateway to which each edge belongs: priorities are equal, the hash decides."""

HALVES: Final = {"2.2.2.0/28", "2.2.2.16/28"}
"""What edge2's second choice tells the cluster."""


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with up(TWO_GATEWAYS) as whole:
        yield whole


@pytest.fixture(autouse=True)
def at_home(fabric: Fabric) -> None:
    all_home(fabric, HOME)


def believed(fabric: Fabric) -> dict[str, str]:
    """The next hops that node3 has learned, by prefix."""
    return {
        prefix: route["gateway"]
        for prefix, route in fabric.birds["node3"].learned().items()
        if "gateway" in route
    }


def test_fabricd_dies_alone_and_nothing_moves(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in HOME}
    with or_else(lambda: revive(fabric)), losing(fabric, "edge2", "fabricd killed"):
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

        made = Made(fabric, "edge3")
        with losing(fabric, "edge3", "node1 boots"):
            boot(fabric, "node1")
            wait_standing_by(fabric, "edge3", "node1")
            assert carriers(fabric, "edge3") == {"node1": False, "node2": True}
        with losing(fabric, "edge3", "node1 has lasted", moving(fabric)):
            wait_carried(fabric, HOME)
        [node1] = [peer for peer in status(fabric, "edge3")["peers"] if peer["name"] == "node1"]
        assert node1["age"] >= probation("edge3") >= PROBATION
        assert made.peers() == ["node1"]
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


def test_a_second_choice_that_dies_draws_no_traffic_to_itself(fabric: Fabric) -> None:
    """node3 still has the halves of edge2's subnet from the dead one: there are longer prefixes."""
    with watched(fabric, "edge2", "node2 dead") as outage:
        die(fabric, "node2")
        wait_carried(fabric, {"edge2": "node1"}, alone=False)
    assert outage.silence < SILENT_DEATH
    boot(fabric, "node2")
    wait_standing_by(fabric, "edge2", "node2")
    wait_until(
        lambda: fabric.birds["node2"].learned().keys() >= HALVES, "node2 has the halves", SOON
    )

    with watched(fabric, "edge2", "node1 dead, node2 back") as outage:
        die(fabric, "node1")
        wait_carried(fabric, {"edge2": "node2"}, alone=False)
    assert outage.silence < SILENT_DEATH
    heard = believed(fabric)
    assert {heard[half] for half in HALVES} == {UNDERLAY["node1"]}
    wait_until(
        lambda: len(doors(fabric, "node2", "edge2")) == 5, "the subnet, and its quarters", SOON
    )
    assert fabric.ping("pod-node3", "pod-edge2") == 0

    boot(fabric, "node1")
    wait_carried(fabric, HOME)
    assert fabric.ping("pod-node3", "pod-edge2") == 0


# ---------------------------------------------------------------- no death at all


def logged(fabric: Fabric, edge: str) -> Callable[[str], int]:
    """Counts what an edge's charon says from here on."""
    log = fabric.nodes[edge].charon.log
    start = log.stat().st_size
    return lambda words: log.read_bytes()[start:].decode(errors="replace").count(words)


def test_a_network_that_is_away_for_some_seconds_moves_nothing(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in HOME}
    said = {edge: logged(fabric, edge) for edge in HOME}
    with (
        watched(fabric, "edge3", "node1 away for some seconds"),
        or_else(lambda: connect(fabric, "node1")),
    ):
        cut(fabric, "node1")
        wait_until(
            lambda: any(said[edge]("retransmit 4 of request") for edge in HOME),
            "an edge has asked five times whether node1 lives",
            SOON,
        )
        connect(fabric, "node1")
    wait_asked(fabric, 5)
    assert {edge: said[edge]("giving up after") for edge in HOME} == dict.fromkeys(HOME, 0)
    assert {edge: sas(fabric.nodes[edge].charon) for edge in HOME} == before


def wait_asked(fabric: Fabric, times: int) -> None:
    """Until each edge has asked some peer or other so many more times whether it lives."""
    for edge in HOME:
        said = logged(fabric, edge)
        wait_until(
            lambda: said("sending DPD request") >= times,  # noqa: B023
            f"{edge} has asked {times} times",
            2 * SOON,
        )


@contextmanager
def lossy(fabric: Fabric, gateway: str) -> Iterator[None]:
    """Every fifth IKE packet from and to a gateway gets lost."""
    inside = fabric.namespaces[gateway].run
    inside("nft", "add", "table", "ip", "loss")
    for hook in ("input", "output"):
        inside("nft", f"add chain ip loss {hook} {{ type filter hook {hook} priority 0; }}")
        # RFC 3948: four octets of zero before IKE on port 4500, in the place of ESP's SPI.
        ike = "udp dport 4500 @th,64,32 0"
        inside("nft", f"add rule ip loss {hook} {ike} numgen inc mod 5 0 drop")
    try:
        yield
    finally:
        inside("nft", "delete", "table", "ip", "loss")


def test_a_lossy_network_moves_nothing(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in HOME}
    said = {edge: logged(fabric, edge) for edge in HOME}
    with lossy(fabric, "node1"), lossy(fabric, "node2"):
        wait_asked(fabric, 15)
        wait_until(
            lambda: all(said[edge]("retransmit 1 of request") for edge in HOME),
            "each edge has missed an answer",
            2 * SOON,
        )
    assert {edge: sas(fabric.nodes[edge].charon) for edge in HOME} == before
