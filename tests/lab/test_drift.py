"""Whatever of ours somebody changes by hand is put right and counted; whatever is not ours is
never touched, however much it looks like ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric, FabricNode
from lab.pki import Authority
from lab.process import CommandError, wait_until
from tests.lab.observe import (
    SOON,
    Log,
    ike,
    kernel,
    look_again,
    metrics,
    no_ping_lost,
    sas,
    session,
    wait_status,
)

Hand = Callable[[FabricNode], object]


@dataclass(frozen=True)
class Drift:
    """Something that somebody does to a node by hand."""

    what: str
    node: str
    by_hand: Hand
    kinds: frozenset[str]
    """The kinds of objects that are repaired, as `drift_repairs_total` counts them."""
    flows: tuple[str, ...] = ()
    """Connections that the change itself does not concern."""
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
        [child] = ike(node.charon)["conns"]["fabric-node1"]["children"]
        list(asked.terminate({"child": child, "timeout": "-1"}))


def delete_bridge(node: FabricNode) -> None:
    """The pod's port on it stays, on no bridge: to connect it again is not the daemon's."""
    node.namespace.ip("link", "delete", "br-edge")
    wait_until(lambda: node.namespace.has_link("br-edge"), "the bridge is there again", SOON)
    node.namespace.ip("link", "set", f"v-pod-{node.name}", "master", "br-edge")


def drift(
    what: str, node: str, by_hand: Hand, *kinds: str, flows: str = "", told: bool = True
) -> Drift:
    return Drift(what, node, by_hand, frozenset(kinds), tuple(flows.split()), told)


GATEWAY = "10.233.0.0/16"

DRIFTS = (
    drift(
        "a tunnel's route deleted",
        "edge2",
        ip("route delete", GATEWAY, "table 198 metric 100"),
        "route",
        flows="c2 c3",
    ),
    drift(
        "a tunnel's route led elsewhere",
        "edge2",
        ip("route replace", GATEWAY, "via 10.20.8.141 table 198 metric 100 proto 198"),
        "route",
        flows="c2 c3",
    ),
    drift(
        "a fail-closed route deleted",
        "edge2",
        ip("route delete unreachable 2.0.0.0/8 table 198 metric 10000"),
        "route",
        flows="c1 c2 c3",
    ),
    drift(
        "the throw route deleted",
        "edge2",
        ip("route delete throw 2.2.2.0/27 table 198 metric 10000"),
        "route",
        flows="c3",
    ),
    drift("the rule deleted", "edge2", ip("rule delete priority 198"), "rule", flows="c3"),
    drift(
        "the bridge taken down",
        "edge2",
        ip("link set br-edge down"),
        "link",
        flows="c3",
    ),
    drift(
        "the bridge's address removed",
        "edge2",
        ip("address delete 2.2.2.1/27 dev br-edge"),
        "address",
        flows="c3",
    ),
    drift("the bridge deleted", "edge2", delete_bridge, "link", "address", flows="c3"),
    drift("the dead end deleted", "edge2", ip("link delete fabric0"), "link", flows="c1 c2 c3"),
    drift("forwarding switched off", "edge2", forwarding_off, "sysctl", flows="c3", told=False),
    drift(
        "the gateway's blackhole deleted",
        "node1",
        ip("route delete blackhole 2.0.0.0/8 metric 198"),
        "route",
        flows="c1 c2 c3",
    ),
    drift(
        "a connection unloaded",
        "edge2",
        unload_conn("fabric-node1"),
        "conn",
        flows="c1 c2 c3",
        told=False,
    ),
    drift(
        "the CA certificate unloaded",
        "edge2",
        unload_authority,
        "authority",
        flows="c1 c2 c3",
        told=False,
    ),
    drift("the private key unloaded", "edge2", unload_key, "key", flows="c1 c2 c3", told=False),
    drift("an IKE_SA terminated", "edge2", terminate, flows="c2 c3"),
    drift("a CHILD_SA terminated", "edge2", terminate_child, flows="c2 c3"),
    drift(
        "the responder's connection unloaded",
        "node1",
        unload_conn("fabric-edge2"),
        "conn",
        flows="c1 c2 c3",
        told=False,
    ),
)


# ---------------------------------------------------------------- foreign objects


FOREIGN = (
    "link add br-other type bridge",
    "link set br-other up alias fabricd-not",
    "address add 192.0.2.1/24 dev br-other",
    "route add 198.51.100.0/24 dev br-other table 198 proto 42",
    "rule add priority 197 to 198.51.100.0/24 lookup 198",
    "route add blackhole 2.0.0.0/8 metric 199",
)
"""They stand beside ours, and look much like them."""


@pytest.fixture(scope="module")
def foreign(fabric: Fabric) -> Callable[[], dict[str, Any]]:
    """Objects of others on every node; the function gives them as they are now."""
    other = Authority(fabric.run / "other-pki")
    for node in fabric.nodes.values():
        for words in FOREIGN:
            node.namespace.ip(*words.split())
        with session(node.charon) as asked:
            asked.load_authority({"net-ca": {"cacert": other.cert.read_bytes()}})
            asked.load_conn(
                {
                    "net-fabric-node9": {
                        "remote_addrs": ["192.0.2.9"],
                        "local": {"auth": "pubkey", "id": "other"},
                        "remote": {"auth": "pubkey", "id": "%any"},
                        "children": {"net": {"remote_ts": ["198.51.100.0/24"]}},
                    }
                }
            )
    return lambda: {name: foreign_objects(node) for name, node in fabric.nodes.items()}


def foreign_objects(node: FabricNode) -> dict[str, Any]:
    seen, charon = kernel(node.namespace), ike(node.charon)
    return {
        "link": seen["links"]["br-other"],
        "addresses": [item for item in seen["addresses"] if item[0] == "br-other"],
        "routes": [line for line in seen["routes"] if "br-other" in line or "metric 199" in line],
        "rules": [line for line in seen["rules"] if line.startswith("197:")],
        "conn": charon["conns"]["net-fabric-node9"],
        "authority": "net-ca" in charon["authorities"],
    }


# ---------------------------------------------------------------- what has to come of it


def state(fabric: Fabric) -> dict[str, Any]:
    """What drift must not change for long: everything but the ids of what was made anew."""
    return {
        name: {
            "kernel": kernel(node.namespace, indexes=False),
            "forwarding": node.namespace.run("sysctl", "-n", "net.ipv4.ip_forward"),
            "charon": ike(node.charon),
            "sas": {sa.split()[0]: len(children) for sa, children in sas(node.charon).items()},
        }
        for name, node in fabric.nodes.items()
    }


@pytest.mark.parametrize("drift", DRIFTS, ids=[drift.what for drift in DRIFTS])
def test_drift_is_repaired_and_counted_and_disturbs_nobody_else(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]], drift: Drift
) -> None:
    before, others = state(fabric), foreign()
    repairs = {kind: repaired(fabric, drift.node, kind) for kind in drift.kinds}
    log = Log(fabric, drift.node)
    with no_ping_lost(fabric, *drift.flows):
        drift.by_hand(fabric.nodes[drift.node])
        if not drift.told:
            look_again(fabric, drift.node)
        for kind, earlier in repairs.items():
            wait_until(
                lambda k=kind, e=earlier: repaired(fabric, drift.node, k) > e,
                f"a repair of {kind} is counted",
                SOON,
            )
        wait_until(lambda: state(fabric) == before, "everything is as it was", SOON)
    fabric.wait_converged()
    assert {line["cause"] for line in log.lines("action")} <= {"drift"}
    assert foreign() == others


def repaired(fabric: Fabric, name: str, kind: str) -> float:
    return metrics(fabric, name).get(f'fabricd_drift_repairs_total{{kind="{kind}"}}', 0)


def test_what_nobody_tells_of_is_found_by_the_sweep_and_all_drift_at_once_is_repaired(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]]
) -> None:
    before, others = state(fabric), foreign()
    for drift in DRIFTS:
        if not drift.told:
            drift.by_hand(fabric.nodes[drift.node])
    wait_until(lambda: state(fabric) == before, "the sweep finds what was unloaded", SOON)

    for drift in DRIFTS:
        try:
            drift.by_hand(fabric.nodes[drift.node])
        except CommandError as error:  # gone already, with what it stood on
            assert error.errors.startswith(("RTNETLINK answers: No such", "Cannot find")), error
    for name in fabric.nodes:
        look_again(fabric, name)
    wait_until(lambda: state(fabric) == before, "everything is as it was", SOON)
    fabric.wait_converged()
    for path in ("c1", "c2", "c3"):
        fabric.wait_ping(*PATHS[path])
    assert foreign() == others


def test_a_foreign_object_in_the_place_of_ours_stays_and_is_told_of(
    fabric: Fabric, foreign: Callable[[], dict[str, Any]]
) -> None:
    node = fabric.nodes["edge2"]
    before, others = state(fabric), foreign()
    with no_ping_lost(fabric, "c2", "c3"):
        theirs = f"route replace {GATEWAY} dev br-other table 198 metric 100 proto 42"
        node.namespace.ip(*theirs.split())
        wait_status(
            fabric,
            "edge2",
            "tells that it can't put its route there",
            lambda seen: any(GATEWAY in text for text in seen["warnings"]),
        )
        assert f"{GATEWAY} dev br-other proto 42" in node.namespace.ip(
            "route", "show", "table", "198"
        )

        node.namespace.ip(*theirs.replace("replace", "delete").split())
        wait_until(lambda: state(fabric) == before, "everything is as it was", SOON)
    fabric.wait_converged()
    assert fabric.status("edge2")["warnings"] == []
    assert foreign() == others
