"""fabricd stops, dies and starts: tunnels, routes and pods never notice."""

from __future__ import annotations

import pytest

from lab.fabric import Fabric, FabricNode
from lab.process import CommandError
from tests.lab.observe import (
    SOON,
    Log,
    metrics,
    or_else,
    revive,
    status,
    wait_converged,
    wait_status,
    wait_unready,
    whole,
)
from tests.lab.pings import no_ping_lost

NODES = ("node1", "edge2", "edge3")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_restart_changes_nothing_and_loses_no_packet(fabric: Fabric, how: str) -> None:
    before = whole(fabric)
    logs = {name: Log(fabric, name) for name in NODES}
    with or_else(lambda: revive(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        for name in NODES:
            end(fabric.nodes[name], how)
            assert whole(fabric) == before
            fabric.start_fabricd(name)
        wait_converged(fabric)
    assert whole(fabric) == before
    for name, log in logs.items():
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"
        seen = metrics(fabric, name)
        assert seen["fabricd_reconcile_passes_total"] >= 1
        assert {series for series in seen if "actions_total" in series} == impossible(fabric, name)
        assert actions(log) == []


def test_a_restart_without_the_store_goes_on_from_the_snapshot(fabric: Fabric) -> None:
    before = whole(fabric)
    logs = {name: Log(fabric, name) for name in NODES}
    with (
        or_else(lambda: revive(fabric)),
        or_else(fabric.etcd.restart),
        no_ping_lost(fabric, "c1", "c2", "c3"),
    ):
        fabric.etcd.kill()
        for name in NODES:
            end(fabric.nodes[name], "SIGKILL")
            fabric.start_fabricd(name)
        for name, log in logs.items():
            line = log.wait("store does not answer: going on with the last good records")
            assert line["nodes"] == 3
            wait_status(
                fabric,
                name,
                "has its tunnels",
                lambda seen: [peer["up"] for peer in seen["peers"]] == [True, True],
            )
            assert not status(fabric, name)["synced"]
            assert wait_unready(fabric, name, "store")
        assert whole(fabric) == before

        fabric.etcd.start()
        wait_converged(fabric)
    assert whole(fabric) == before
    assert [actions(log) for log in logs.values()] == [[], [], []]


def end(node: FabricNode, how: str) -> None:
    """SIGTERM is obeyed in order, SIGKILL is not even heard."""
    assert node.fabricd is not None
    if how == "SIGTERM":
        assert node.fabricd.stop(SOON) == 0
    else:
        node.fabricd.kill()


def impossible(fabric: Fabric, name: str) -> set[str]:
    """What each start tries in vain, counted: a kernel may have no nftables for IP."""
    try:
        fabric.nodes[name].namespace.run("nft", "--check", "add table inet tried")
    except CommandError:
        return {'fabricd_actions_total{kind="filter.set",outcome="failed"}'}
    return set()


def actions(log: Log) -> list[str]:
    return [f"{line['kind']} {line['target']}" for line in log.lines("action")]
