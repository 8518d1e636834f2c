"""Whatever of ours somebody changes by hand is put right and counted; whatever is not ours is
never touched, however much it looks like ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import vici

from lab.demo import PATHS
from lab.fabric import Fabric, FabricNode
from lab.process import CommandError, wait_until
from tests.lab.observe import (
    SOON,
    Log,
    ike,
    kernel,
    look_again,
    metrics,
    sas,
    session,
    wait_converged,
    wait_growth,
    wait_status,
)
from tests.lab.pings import no_ping_lost
from tests.lab.under_fire import foreign as objects_of_others
from tests.lab.under_fire import under_fire

Hand = Callable[[FabricNode], object]


@dataclass(frozen=True)
class Drift:
    """Something that somebody does to a node by hand."""

    what: str
    node: str
    by_hand: Hand
    counts: tuple[str, ...]
    """The metrics that count its repair."""
    flows: tuple[str, ...] = ()
    """Connections that the change itself does not concern."""
    kernel_flows: tuple[str, ...] = ()
    """The same with the kernel's ESP."""
    told: bool = True
    """Whether kernel or charon tell of it; else it takes a sweep, or SIGHUP, to be seen."""


def ip(*words: str) -> Hand:
    return lambda node: node.namespace.ip(*" ".join(words).split())


def forwarding_off(node: FabricNode) -> None:
    node.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=0")


def unload_conn(name: str) -> Hand:
    def by_hand(node: FabricNode) -> None:
        with session(node.charon) as asked:
            asked.unload_conn({"name": name})

    return by_hand


def unload_authority(node: FabricNode) -> None:
    with session(node.charon) as asked:
        for name in asked.get_authorities()["authorities"]:
            if name.startswith(b"fabric-"):
                asked.unload_authority({"name": name})


def unload_key(node: FabricNode) -> None:
    with session(node.charon) as asked:
        for key in asked.get_keys()["keys"]:
            asked.unload_key({"id": key})


def terminate(node: FabricNode) -> None:
    with session(node.charon) as asked:
        list(asked.terminate({"ike": "fabric-node1", "force": "yes", "timeout": "-1"}))


def terminate_child(node: FabricNode) -> None:
    with session(node.charon) as asked:
        for sa, children in sas(node.charon).items():
            if sa.startswith("fabric-node1 "):
                for child in children:
                    list(asked.terminate({"child-id": child.rpartition("#")[2], "timeout": "-1"}))


def delete_bridge(node: FabricNode) -> None:
    """The pod's port on it stays, on no bridge: to connect it again is not the daemon's."""
    node.namespace.ip("link", "delete", "br-edge")
    wait_until(lambda: node.namespace.has_link("br-edge"), "the bridge is there again", SOON)
    node.namespace.ip("link", "set", f"v-pod-{node.name}", "master", "br-edge")


def drift(
    what: str,
    node: str,
    by_hand: Hand,
    *counts: str,
    flows: str,
    kernel_flows: str = "",
    told: bool = True,
) -> Drift:
    kernel_flows = kernel_flows or flows
    return Drift(
        what, node, by_hand, counts, tuple(flows.split()), tuple(kernel_flows.split()), told
    )


def repairs(kind: str) -> str:
    return f'fabricd_drift_repairs_total{{kind="{kind}"}}'


INITIATIONS = 'fabricd_tunnel_initiations_total{peer="node1"}'
"""An SA that is gone is no object that somebody changed: SAs come and go by themselves too."""

GATEWAY = "10.233.0.0/16"

DRIFTS = (
    drift(
        "a tunnel's route deleted",
        "edge2",
        ip("route delete", GATEWAY, "table 198 metric 100"),
        repairs("route"),
        flows="c2 c3",
    ),
    drift(
        "a tunnel's route led elsewhere",
        "edge2",
        ip("route replace", GATEWAY, "via 10.20.8.141 table 198 metric 100 proto 198"),
        repairs("route"),
        flows="c2 c3",
    ),
    drift(
        "a fail-closed route deleted",
        "edge2",
        ip("route delete unreachable 2.0.0.0/8 table 198 metric 10000"),
        repairs("route"),
        flows="c1 c2 c3",
    ),
    drift(
        "the throw route deleted",
        "edge2",
        ip("route delete throw 2.2.2.0/27 table 198 metric 10000"),
        repairs("route"),
        flows="c3",
    ),
    drift("the rule deleted", "edge2", ip("rule delete priority 198"), repairs("rule"), flows="c3"),
    drift(
        "the bridge taken down",
        "edge2",
        ip("link set br-edge down"),
        repairs("link"),
        flows="c3",
    ),
    drift(
        "the bridge's address removed",
        "edge2",
        ip("address delete 2.2.2.1/27 dev br-edge"),
        repairs("address"),
        flows="c3",
    ),
    drift(
        "the bridge deleted",
        "edge2",
        delete_bridge,
        repairs("link"),
        repairs("address"),
        flows="c3",
    ),
    drift(
        "the dead end deleted",
        "edge2",
        ip("link delete fabric0"),
        repairs("link"),
        flows="c1 c2 c3",
        kernel_flows="c3",  # tunnels' routes lead there, and go with it
    ),
    drift(
        "forwarding switched off",
        "edge2",
        forwarding_off,
        repairs("sysctl"),
        flows="c3",
        told=False,
    ),
    drift(
        "the gateway's blackhole deleted",
        "node1",
        ip("route delete blackhole 2.0.0.0/8 metric 198"),
        repairs("route"),
        flows="c1 c2 c3",
    ),
    drift(
        "a connection unloaded",
        "edge2",
        unload_conn("fabric-node1"),
        repairs("conn"),
        flows="c1 c2 c3",
        told=False,
    ),
    drift(
        "the CA certificate unloaded",
        "edge2",
        unload_authority,
        repairs("authority"),
        flows="c1 c2 c3",
        told=False,
    ),
    drift(
        "the private key unloaded",
        "edge2",
        unload_key,
        repairs("key"),
        flows="c1 c2 c3",
        told=False,
    ),
    drift("an IKE_SA terminated", "edge2", terminate, INITIATIONS, flows="c2 c3"),
    drift("a CHILD_SA terminated", "edge2", terminate_child, INITIATIONS, flows="c2 c3"),
    drift(
        "the responder's connection unloaded",
        "node1",
        unload_conn("fabric-edge2"),
        repairs("conn"),
        flows="c1 c2 c3",
        told=False,
    ),
)


fabric = pytest.fixture(scope="module")(under_fire)


@pytest.fixture
def foreign(fabric: Fabric) -> Callable[[], dict[str, Any]]:
    """Objects of others on every node; the function gives them as they are now."""
    return lambda: objects_of_others(fabric)


# ---------------------------------------------------------------- what has to come of it


def state(node: FabricNode) -> dict[str, Any]:
    """What drift must not change for long: everything but what shows only that it was made anew."""
    return {
        "kernel": kernel(node.namespace, indexes=False),
        "forwarding": node.namespace.run("sysctl", "-n", "net.ipv4.ip_forward"),
        "charon": without_turns(ike(node.charon)),
        "sas": {sa.split()[0]: len(children) for sa, children in sas(node.charon).items()},
    }


def without_turns(charon: dict[str, Any]) -> dict[str, Any]:
    """With the kernel's ESP the responder's next CHILD_SA has a turn, in name and priority."""
    for conn in charon["conns"].values():
        conn["children"] = {
            "-".join(name.split("-")[:3]): {k: v for k, v in child.items() if k != "priority"}
            for name, child in conn["children"].items()
        }
    return charon


def states(fabric: Fabric) -> dict[str, Any]:
    return {name: state(node) for name, node in fabric.nodes.items()}


@pytest.mark.parametrize("drift", DRIFTS, ids=[drift.what for drift in DRIFTS])
def test_drift_is_repaired_and_counted_and_disturbs_nobody_else(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]], drift: Drift
) -> None:
    node = fabric.nodes[drift.node]
    flows = drift.flows if fabric.userspace_esp else drift.kernel_flows
    before, theirs = states(fabric), foreign()
    counted = {series: metrics(fabric, drift.node).get(series, 0) for series in drift.counts}
    log = Log(fabric, drift.node)
    with no_ping_lost(fabric, *flows):
        drift.by_hand(node)
        if not drift.told:
            look_again(fabric, drift.node)
        for series, earlier in counted.items():
            wait_growth(fabric, drift.node, series, earlier)
        wait_until(lambda: state(node) == before[node.name], "everything is as it was", SOON)
    wait_converged(fabric)
    wait_until(lambda: states(fabric) == before, "all nodes are as they were", SOON)
    assert {line["cause"] for line in log.lines("action")} <= {"drift"}
    assert foreign() == theirs


def test_what_nobody_tells_of_is_found_by_the_sweep_and_all_drift_at_once_is_repaired(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]]
) -> None:
    before, theirs = states(fabric), foreign()
    for drift in DRIFTS:
        if not drift.told:
            drift.by_hand(fabric.nodes[drift.node])
    wait_until(lambda: states(fabric) == before, "the sweep finds what was unloaded", SOON)

    for drift in DRIFTS:
        # Some of it is gone already, with what it stood on or just before.
        with suppress(CommandError, vici.exception.CommandException):
            drift.by_hand(fabric.nodes[drift.node])
    for name in fabric.nodes:
        look_again(fabric, name)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
    wait_converged(fabric)
    for path in ("c1", "c2", "c3"):
        fabric.wait_ping(*PATHS[path])
    assert foreign() == theirs


def test_a_foreign_object_in_the_place_of_ours_stays_and_is_told_of(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]]
) -> None:
    node = fabric.nodes["edge2"]
    before, theirs = states(fabric), foreign()
    warnings = fabric.status("edge2")["warnings"]
    squatter = f"route replace {GATEWAY} dev br-other table 198 metric 100 proto babel"
    with no_ping_lost(fabric, "c2", "c3"):
        node.namespace.ip(*squatter.split())
        try:
            wait_status(
                fabric,
                "edge2",
                "tells that it can't put its route there",
                lambda seen: any(GATEWAY in text for text in seen["warnings"]),
            )
            assert f"{GATEWAY} dev br-other proto babel" in node.namespace.ip(
                "route", "show", "table", "198"
            )
        finally:
            node.namespace.ip(*squatter.replace("replace", "delete").split())
        wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
    wait_converged(fabric)
    wait_status(fabric, "edge2", "warns no more", lambda seen: seen["warnings"] == warnings)
    assert foreign() == theirs
