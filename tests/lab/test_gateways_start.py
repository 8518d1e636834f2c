"""At the start, which gateway is ready first does not decide where an edge goes.

edge3 belongs to node1. It comes up while node1's charon answers, but has not been told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lab.fabric import Fabric
from lab.process import Process
from lab.topology import TWO_GATEWAYS
from tests.lab.gateways import Made, up, wait_carried
from tests.lab.observe import Log, or_else, revive, wait_converged, wait_peers, wait_status


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with up(TWO_GATEWAYS) as whole:
        yield whole


def unknown(fabric: Fabric) -> None:
    """node1 has not heard of edge3."""
    record = fabric.records["edge3"]
    fabric.delete_record("edge3")
    for gateway in ("node1", "node2"):
        wait_peers(fabric, gateway, "edge2")
    fabricd(fabric, "node1").freeze()
    fabric.put_record("edge3", record)
    wait_status(fabric, "node2", "knows edge3", lambda seen: len(seen["peers"]) == 2)


def booting(fabric: Fabric) -> None:
    """node1's charon has no connections yet."""
    fabricd(fabric, "node1").freeze()
    fabric.nodes["node1"].charon.restart()


def fabricd(fabric: Fabric, name: str) -> Process:
    process = fabric.nodes[name].fabricd
    assert process is not None
    return process


def mend(fabric: Fabric) -> None:
    """What a test that fails has left undone."""
    fabricd(fabric, "node1").thaw()
    fabric.put_record("edge3", TWO_GATEWAYS.records["edge3"])
    fabric.nodes["edge3"].charon.restart()
    revive(fabric)


@pytest.mark.parametrize(
    ("late", "answer"), [(unknown, "AUTHENTICATION_FAILED"), (booting, "NO_PROPOSAL_CHOSEN")]
)
def test_a_refusal_at_the_start_does_not_send_an_edge_elsewhere(
    fabric: Fabric, late: Callable[[Fabric], None], answer: str
) -> None:
    fabric.stop_fabricd("edge3")
    fabric.nodes["edge3"].charon.stop()
    with or_else(lambda: mend(fabric)):
        late(fabric)

        log, made = Log(fabric, "edge3"), Made(fabric, "edge3")
        fabric.nodes["edge3"].charon.start()
        fabric.spawn_fabricd("edge3")
        assert answer in log.wait("not initiated at once")["reason"]
        fabricd(fabric, "node1").thaw()

    wait_carried(fabric, {"edge3": "node1"})
    wait_converged(fabric)
    children = made.peers()
    assert children.count("node1") == 1
    assert "node2" not in children
