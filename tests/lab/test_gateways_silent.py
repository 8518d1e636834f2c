"""A gateway that ESP does not reach, and IKE does: charon is content, and the edge leaves it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.fabric import Fabric
from lab.topology import TWO_GATEWAYS
from tests.lab.dropped import esp_dropped
from tests.lab.gateways import SILENT_DEATH, carriers, losing, up, wait_carried, watched
from tests.lab.observe import Log, metrics, status, wait_growth, wait_status

LEFT = "gateway node1: nothing came through its tunnel, so it is given nothing to carry for a while"


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with up(TWO_GATEWAYS, config="[health]\nprobe = 1\n") as whole:
        yield whole


def test_an_edge_leaves_a_gateway_to_which_nothing_gets_through(fabric: Fabric) -> None:
    # Nobody sends anything yet: what comes in are answers, without which a probe tells nothing.
    received = 'fabricd_tunnel_receive_bytes_total{peer="edge3"}'
    wait_growth(fabric, "node1", received, metrics(fabric, "node1")[received])
    log = Log(fabric, "edge3")
    with losing(fabric, "edge2", "node1 silent"):
        with (
            watched(fabric, "edge3", "node1 silent") as outage,
            esp_dropped(fabric, "edge3", "node1"),
        ):
            wait_carried(fabric, {"edge3": "node2"})
            assert fabric.ping("pod-edge3", "pod-node3") == 0
        assert outage.silence < SILENT_DEATH
        # ESP gets through again, which nobody can know: the edge stays where it is.
        assert fabric.ping("pod-node3", "pod-edge3") == 0
        assert carriers(fabric, "edge3") == {"node1": False, "node2": True}
    assert [line["peer"] for line in log.lines("tunnel is silent")] == ["node1"]
    wait_status(fabric, "edge3", "says so", lambda seen: LEFT in seen["warnings"])
    assert metrics(fabric, "edge3")['fabricd_tunnel_up{peer="node2"}'] == 1
    assert status(fabric, "edge2")["warnings"] == []
