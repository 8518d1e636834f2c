"""What the lab does to a fabric, done with the kernel's own ESP: this runs inside User Mode Linux,
where `test_kernel_faults` takes it. To build a fabric takes a while there: so there is one for all
tests, which are steps of one story, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from fabricd.core.mtu import ETHERNET, tunnel_mtu
from lab.fabric import Fabric
from tests.lab import others, test_drift, test_no_clear_text, test_purge_fabric, test_restart
from tests.lab.attached import call, listening
from tests.lab.observe import own_fabric, whole
from tests.lab.test_no_clear_text import EDGES, lead_out, nothing_in_clear, start_in_sight
from tests.lab.test_pods_way_out import MEGABYTE, ping
from tests.lab.test_purge_fabric import Scene
from tests.lab.under_fire import foreign

DRIFTS = (
    "a tunnel's route deleted",
    "the rule deleted",
    "the dead end deleted",
    "a connection unloaded",
    "an IKE_SA terminated",
    "a CHILD_SA terminated",
)

AWAY = ("stop_charon", "kill_charon", "kill_both", "part")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with own_fabric() as fabric:
        assert not fabric.userspace_esp
        lead_out(fabric)
        fabric.start_services()
        for node in fabric.nodes.values():
            others.make(node)
        before = whole(fabric)
        start_in_sight(fabric)
        yield Scene(fabric, before)
        for name in fabric.nodes:  # it was purged already
            fabric.kill_fabricd(name)


@pytest.fixture
def fabric(scene: Scene) -> Fabric:
    return scene.fabric


def test_large_packets_and_transfers_pass(fabric: Fabric) -> None:
    """Nobody fits TCP to the tunnels here, as that takes nftables: pods are told what is too large,
    and that is no less than fabricd gives to pods that it attaches.
    """
    edge2, edge3, node1 = (fabric.namespaces[f"pod-{n}"] for n in ("edge2", "edge3", "node1"))
    for source, address in ((edge2, "2.2.2.34"), (edge3, "10.233.96.2"), (node1, "2.2.2.2")):
        told = re.search(r"Frag needed and DF set \(mtu = (\d+)\)", ping(source, address, ETHERNET))
        assert told is not None
        largest = int(told[1])
        assert largest >= tunnel_mtu(ETHERNET, 4)
        assert " 0% packet loss" in ping(source, address, largest)
        source.ip("route", "flush", "cache")
    with listening(edge2):
        assert call(edge3, "2.2.2.2", MEGABYTE) == ("2.2.2.34", MEGABYTE)
        assert call(node1, "2.2.2.2", MEGABYTE) == ("10.233.96.2", MEGABYTE)


@pytest.mark.parametrize("what", DRIFTS)
def test_drift_is_repaired_and_counted_and_disturbs_nobody_else(fabric: Fabric, what: str) -> None:
    [drift] = (drift for drift in test_drift.DRIFTS if drift.what == what)
    test_drift.test_drift_is_repaired_and_counted_and_disturbs_nobody_else(
        fabric, lambda: foreign(fabric), drift
    )


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_restart_changes_nothing_and_neither_loses_nor_leaks_a_packet(
    fabric: Fabric, how: str
) -> None:
    with nothing_in_clear(fabric, *EDGES):
        test_restart.test_a_restart_changes_nothing_and_loses_no_packet(fabric, how)


def test_purge_leaves_every_node_as_it_was_before_fabricd_came(scene: Scene) -> None:
    test_purge_fabric.test_purge_leaves_every_node_as_it_was_before_fabricd_came(scene)


def test_nothing_leaves_in_clear_when_it_starts_again(fabric: Fabric) -> None:
    start_in_sight(fabric)


@pytest.mark.parametrize("event", AWAY)
def test_nothing_leaves_in_clear(fabric: Fabric, event: str) -> None:
    test_no_clear_text.test_nothing_leaves_in_clear(fabric, getattr(test_no_clear_text, event))


def test_a_leak_would_have_been_seen(fabric: Fabric) -> None:
    test_no_clear_text.test_a_leak_would_have_been_seen(fabric)
