"""What fabricd depends on dies, hangs or is not there: nothing is torn down, all mends itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import PODS, RECORDS
from tests.lab.observe import (
    SOON,
    Log,
    get,
    ike,
    kernel,
    look_again,
    or_else,
    own_fabric,
    revive,
    status,
    wait_converged,
    wait_peers,
    wait_sas,
    wait_status,
    wait_unready,
    whole,
)
from tests.lab.pings import no_ping_lost

NODES = ("node1", "edge2", "edge3")
GATEWAY = "10.233.0.0/16"


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """A fabric that began with nothing: see the first test."""
    with own_fabric() as whole_fabric:
        yield whole_fabric


def test_a_node_comes_up_step_by_step_whatever_is_missing_at_its_start(fabric: Fabric) -> None:
    credentials = [fabric.nodes["edge3"].pki / f"node.{kind}" for kind in ("crt", "key")]
    for path in credentials:
        path.rename(away(path))
    logs = {name: Log(fabric, name) for name in NODES}
    for name in NODES:
        fabric.start_fabricd(name)

    # Neither store nor charon, and no snapshot yet.
    for name, log in logs.items():
        assert log.wait("store does not answer: going on with the last good records")["nodes"] == 0
        wait_status(fabric, name, "misses charon", lambda seen: not seen["charon"]["ok"])
        assert get(fabric, name, "/healthz") == (200, "ok\n")
        code, reasons = get(fabric, name, "/readyz")
        assert code == 503
        assert "store: " in reasons
        assert f"{name}-charon.vici" in reasons

    fabric.start_birds()
    # The store comes: what the kernel has to hold, it holds, above all the refusal of clear text.
    fabric.etcd.start()
    for name, record in RECORDS.items():
        fabric.put_record(name, record)
    for name in NODES:
        wait_status(fabric, name, "knows its peers", lambda seen: len(seen["peers"]) == 2)
        code, reasons = get(fabric, name, "/readyz")
        assert (code, "store: " in reasons, "charon: " in reasons) == (503, False, True)
    for name in ("edge2", "edge3"):
        wait_until(lambda: refuses_clear_text(fabric, name), f"{name} refuses clear text", SOON)  # noqa: B023

    # charon comes.
    for node in fabric.nodes.values():
        node.charon.start()
    wait_status(fabric, "edge2", "reaches the gateway", lambda seen: up(seen) == {"node1"})
    seen = status(fabric, "edge3")
    assert up(seen) == set()
    assert any(str(path) in text for path in credentials for text in seen["warnings"])
    assert ike(fabric.nodes["edge3"].charon) == {"authorities": [], "keys": [], "conns": {}}

    # edge3's certificate and key come; it would find them by itself, but within a sweep.
    for path in credentials:
        away(path).rename(path)
    look_again(fabric, "edge3")
    wait_converged(fabric)
    wait_status(fabric, "edge3", "is content", lambda seen: not seen["warnings"])
    for name in NODES:
        wait_until(lambda: get(fabric, name, "/readyz") == (200, "ok\n"), "it is ready", SOON)  # noqa: B023
    attach_pods(fabric)


def refuses_clear_text(fabric: Fabric, name: str) -> bool:
    routes = kernel(fabric.namespaces[name])["routes"]
    wanted = ("unreachable 2.0.0.0/8 table 198", f"unicast {GATEWAY} dev fabric0 table 198")
    return all(any(line.startswith(words) for line in routes) for words in wanted)


def away(path: Path) -> Path:
    return path.with_name(f"{path.name}.away")


def up(seen: dict[str, list[dict[str, object]]]) -> set[object]:
    """The peers to which tunnels are up."""
    return {peer["name"] for peer in seen["peers"] if peer["up"]}


def attach_pods(fabric: Fabric) -> None:
    for pod in PODS:
        if pod.bridge == "br-edge":
            fabric.attach(pod)
    for path in PATHS.values():
        fabric.wait_ping(*path)


def test_the_store_dies_and_comes_back(fabric: Fabric) -> None:
    before = whole(fabric)
    with or_else(fabric.etcd.restart), no_ping_lost(fabric, "c1", "c2", "c3"):
        fabric.etcd.kill()
        for name in NODES:
            seen = wait_status(fabric, name, "misses the store", lambda seen: not seen["synced"])
            assert up(seen) == set(NODES) - {name}
            assert wait_unready(fabric, name, "store")
        assert whole(fabric) == before
        fabric.etcd.start()
        wait_converged(fabric)
        assert whole(fabric) == before

    with no_ping_lost(fabric, "c1", "c3"):
        fabric.put_record("edge3", {**RECORDS["edge3"], "community": ""})
        try:
            wait_peers(fabric, "edge2", "node1")
        finally:
            fabric.put_record("edge3", RECORDS["edge3"])
        wait_converged(fabric)


def test_charon_hangs_and_the_kernel_is_looked_after_all_the_same(fabric: Fabric) -> None:
    edge2 = fabric.nodes["edge2"]
    before = kernel(edge2.namespace)
    with no_ping_lost(fabric, "c3"), or_else(edge2.charon.thaw):
        edge2.charon.freeze()
        look_again(fabric, "edge2")
        edge2.namespace.ip("rule", "delete", "priority", "198")
        edge2.namespace.ip("route", "flush", "table", "198")
        seen = wait_status(fabric, "edge2", "misses charon", lambda seen: not seen["charon"]["ok"])
        assert "charon hangs or is overloaded" in seen["charon"]["reason"]
        assert {peer["state"] for peer in seen["peers"]} == {"unknown"}
        wait_until(lambda: kernel(edge2.namespace) == before, "the kernel's part is right", SOON)
        assert not status(fabric, "edge2")["charon"]["ok"]

        edge2.charon.thaw()
        look_again(fabric, "edge2")
        wait_converged(fabric)
    for path in ("c1", "c2"):
        fabric.wait_ping(*PATHS[path])


def test_charon_dies_while_the_store_hangs_and_tunnels_come_back_by_themselves(
    fabric: Fabric,
) -> None:
    node1, edge2 = fabric.nodes["node1"], fabric.nodes["edge2"]
    before = {name: kernel(fabric.namespaces[name], indexes=False) for name in NODES}
    fabric.etcd.freeze()
    try:
        node1.charon.kill()
        edge2.charon.kill()
        with or_else(node1.charon.restart), or_else(edge2.charon.restart):
            for node in (node1, edge2):
                wait_status(
                    fabric, node.name, "misses charon", lambda seen: not seen["charon"]["ok"]
                )
            # Its tun device went with it: what led there leads into the dead end now.
            show = ("route", "show", "table", "198")
            wait_until(
                lambda: f"{GATEWAY} dev fabric0" in edge2.namespace.ip(*show),
                "the way to the gateway is a dead end",
                SOON,
            )
            assert fabric.ping("pod-edge2", "pod-node1", 1) == 1

        node1.charon.start()
        edge2.charon.start()
        for name in NODES:
            wait_peers(fabric, name, *(set(NODES) - {name}), timeout=2 * SOON)
            wait_status(
                fabric,
                name,
                "misses the store",
                lambda seen: "no sign of life" in seen["source"]["reason"],
            )
    finally:
        fabric.etcd.thaw()
    wait_converged(fabric)
    for path in ("c1", "c2", "c3"):
        fabric.wait_ping(*PATHS[path])
    wait_until(
        lambda: before == {name: kernel(fabric.namespaces[name], indexes=False) for name in NODES},
        "kernels are as they were",
        SOON,
    )
    for name in NODES:
        wait_sas(fabric, name, "one IKE_SA a peer is left", lambda found: len(found) == 2)


def test_without_the_right_to_change_the_network_it_stays_up_and_says_so(fabric: Fabric) -> None:
    edge2 = fabric.nodes["edge2"]
    fabric.stop_fabricd("edge2")
    before = kernel(edge2.namespace)
    with (
        or_else(lambda: revive(fabric)),
        or_else(lambda: fabric.stop_fabricd("edge2")),
        no_ping_lost(fabric, "c1", "c2", "c3"),
    ):
        lost = f"unreachable {GATEWAY} table 198 metric 10000"
        edge2.namespace.ip("route", "delete", *lost.split())
        edge2.fabricd = edge2.namespace.popen(
            *("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"),
            *(*fabric.programs["fabricd"], "--config", edge2.config),
            name="edge2-fabricd",
        )
        wait_status(
            fabric,
            "edge2",
            "tells what it can't",
            lambda seen: (
                any(lost in text and "permitted" in text for text in seen["warnings"])
                and up(seen) == {"node1", "edge3"}
            ),
        )
        assert edge2.fabricd.alive

        fabric.stop_fabricd("edge2")
        fabric.start_fabricd("edge2")
        wait_until(lambda: kernel(edge2.namespace) == before, "it is repaired", SOON)
    wait_converged(fabric)
