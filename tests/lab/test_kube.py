"""Kubernetes as a store: the suite that every store passes, and a fabric whose nodes read what they
are to do from the Nodes of a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from fabricd.sources import Store
from lab.demo import PATHS
from lab.fabric import Fabric
from lab.process import CommandError, wait_until
from lab.topology import BLOCKS, RECORDS, UNDERLAY
from tests.lab import test_sources
from tests.lab.kube_cluster import FABRIC_NODES, AsText, KubeCluster, Proxy
from tests.lab.kube_lab import COMMUNITIES, EVENTS, NODES, KubeLab
from tests.lab.observe import (
    SOON,
    get,
    or_else,
    own_fabric,
    revive,
    status,
    wait_converged,
    wait_peers,
    wait_status,
    whole,
)
from tests.lab.pings import no_ping_lost

# ---------------------------------------------------------------- what every store does


class KubeWorld:
    """The world of tests.lab.test_sources, made of Nodes and Communities."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.cluster = KubeCluster(folder, nursery)
        self.cluster.add("edge2", role=None)  # that can own a status
        self._another_way = Proxy(nursery, self.cluster.server.serve)
        self._kubeconfig = self.cluster.kubeconfig

    def store(self) -> Store:
        return AsText(self.cluster.store(self._kubeconfig), self.cluster)

    def write(self, name: str, _: str) -> None:
        """A Node that is not in the fabric."""
        self.cluster.add(name.replace("/", "-"), role=None)

    def published(self, name: str) -> str:
        return json.dumps(self.cluster.api.get(FABRIC_NODES, name)["status"]["document"])

    def go(self) -> None:
        self.cluster.proxy.stop()

    def come_back(self) -> None:
        self.cluster.proxy.start()

    @contextmanager
    def behind_its_back(self) -> Iterator[None]:
        usual = self._kubeconfig
        token = self.cluster.server.tokens.copy().popitem()[0]
        self._kubeconfig = self.cluster.pki.kubeconfig(self._another_way.url, "other", token=token)
        yield
        self._kubeconfig = usual


@pytest.fixture
def world(tmp_path: Path, nursery: trio.Nursery) -> KubeWorld:
    return KubeWorld(tmp_path, nursery)


# All of the suite, on this world: its tests and the fixtures that they take.
globals().update(
    {
        name: value
        for name, value in vars(test_sources).items()
        if name.startswith("test_") or name in {"store", "other"}
    }
)


# ---------------------------------------------------------------- a fabric from Nodes

FABRIC_OF = ("node1", "edge2", "edge3")


class KubeFabric:
    """A fabric, and the cluster that its records are in."""

    def __init__(self, fabric: Fabric, kube: KubeLab) -> None:
        self.fabric = fabric
        self.kube = kube

    def enrol(self) -> None:
        """What an operator types once the machines have joined."""
        self.kube.label("node1", fabricd_io__role="cloud")
        self.kube.annotate("node1", fabricd_io__subnets="10.233.0.0/16")
        for name in ("edge2", "edge3"):
            self.kube.label(name, fabricd_io__role="edge", community_fabricd_io__app1="")


@pytest.fixture(scope="module")
def both() -> Iterator[KubeFabric]:
    """The fabric of the proof of concept; node2 is a Node that takes no part."""
    with own_fabric() as fabric:
        for bird in fabric.birds.values():
            bird.start()
        kube = KubeLab(fabric.run / "kube", fabric.namespaces["node1"], UNDERLAY["node1"])
        kube.start()
        cidrs = BLOCKS | {name: RECORDS[name]["subnets"][0] for name in ("edge2", "edge3")}
        for name, cidr in cidrs.items():
            kube.join(name, UNDERLAY[name], cidr)
        for name, node in fabric.nodes.items():
            config = node.config.read_text()
            of_etcd = f'type = "etcd"\nendpoints = ["{fabric.etcd.endpoint}"]\n'
            assert of_etcd in config
            kubeconfig = kube.kubeconfig(name)
            node.config.write_text(
                config.replace(of_etcd, f'type = "kubernetes"\nkubeconfig = "{kubeconfig}"\n')
            )
            node.charon.start()
            fabric.records[name] = RECORDS[name]
        made = KubeFabric(fabric, kube)
        made.enrol()
        fabric.start_daemons()
        wait_converged(fabric)
        fabric.birds["node2"].wait_learned("2.0.0.0/8")
        yield made


@pytest.fixture
def fabric(both: KubeFabric) -> Fabric:
    return both.fabric


@pytest.fixture
def kube(both: KubeFabric) -> KubeLab:
    return both.kube


def mend(kube: KubeLab) -> None:
    """edge3's Node as it has to be, and no Community."""
    with suppress(CommandError):
        kube.ask("DELETE", f"{COMMUNITIES}/app2")
    with suppress(CommandError):  # it is there
        kube.join("edge3", UNDERLAY["edge3"], RECORDS["edge3"]["subnets"][0])
    kube.annotate("edge3", fabricd_io__subnets=None)
    kube.label("edge3", fabricd_io__role="edge", community_fabricd_io__app1="")


def test_pods_talk_both_ways(fabric: Fabric) -> None:
    for one, other in PATHS.values():
        assert fabric.ping(one, other) == fabric.ping(other, one) == 0
    for name in FABRIC_OF:
        assert get(fabric, name, "/readyz") == (200, "ok\n")
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"


def test_labels_are_obeyed_and_disturb_nobody_else(fabric: Fabric, kube: KubeLab) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(kube)), no_ping_lost(fabric, "c1", "c3"):
        kube.label("edge3", community_fabricd_io__app1=None)
        wait_peers(fabric, "edge2", "node1")
        assert fabric.ping(*PATHS["c2"], 1) == 1

        members = {"metadata": {"name": "app2"}, "spec": {"members": ["edge2", "edge3"]}}
        kube.ask("POST", COMMUNITIES, members)
        wait_peers(fabric, "edge2", "node1", "edge3")
        wait_peers(fabric, "edge3", "node1", "edge2")
        assert fabric.ping(*PATHS["c2"]) == 0

        kube.ask("DELETE", f"{COMMUNITIES}/app2")
        wait_peers(fabric, "edge2", "node1")
        kube.label("edge3", community_fabricd_io__app1="")
        wait_converged(fabric)
    after = whole(fabric)
    for name in FABRIC_OF:
        assert after[name]["kernel"] == before[name]["kernel"]
        assert after[name]["charon"] == before[name]["charon"]


def test_each_nodes_status_is_where_kubectl_shows_it(fabric: Fabric, kube: KubeLab) -> None:
    def shown(name: str) -> dict[str, Any]:
        found = kube.fabric_node(name)
        return {column: found.get(column) for column in ("peers", "up", "rejected", "synced")}

    for name in FABRIC_OF:
        wanted = {"peers": 2, "up": 2, "rejected": 0, "synced": True}
        wait_until(lambda name=name, w=wanted: shown(name) == w, f"{name}'s FabricNode", SOON)  # type: ignore[misc]  # bound now
        document = kube.fabric_node(name)["document"]
        assert document["node"] == name
        assert {peer["name"] for peer in document["peers"]} == fabric.expected_peers(name)


def test_a_wrong_annotation_is_an_event_and_the_good_version_stays_in_force(
    fabric: Fabric, kube: KubeLab
) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(kube)), no_ping_lost(fabric, "c1", "c2", "c3"):
        kube.annotate("edge3", fabricd_io__subnets="2.2.2.33/27")
        for name in FABRIC_OF:
            seen = wait_status(fabric, name, "rejects it", lambda seen: seen["rejected"])
            [item] = seen["rejected"]
            assert (item["key"], item["field"]) == ("/fabric/nodes/edge3", "subnets")
            assert item["at"] == "annotation fabricd.io/subnets or spec.podCIDRs"
            assert item["at"] in fabric.fabricctl(name, "status")
            assert "an earlier version stays in force" in item["reason"]
        wait_until(lambda: kube.ask("GET", EVENTS)["items"], "an Event", SOON)
        [event] = kube.ask("GET", EVENTS)["items"]
        assert event["involvedObject"]["name"] == "edge3"
        assert event["message"].startswith("annotation fabricd.io/subnets: '2.2.2.33/27': has host")
        assert whole(fabric) == before
        kube.annotate("edge3", fabricd_io__subnets=None)
        for name in FABRIC_OF:
            wait_status(fabric, name, "rejects nothing", lambda seen: not seen["rejected"])
    assert whole(fabric) == before


def test_fabricctl_writes_labels_annotations_and_communities(fabric: Fabric, kube: KubeLab) -> None:
    with or_else(lambda: mend(kube)):
        written_by_fabricctl(fabric, kube)


def written_by_fabricctl(fabric: Fabric, kube: KubeLab) -> None:
    record = ("--subnet", "2.2.2.32/27", "--endpoint", UNDERLAY["edge3"])
    fabric.fabricctl("node1", "node", "put", "edge3", *record)
    meta = kube.ask("GET", f"{NODES}/edge3")["metadata"]
    assert meta["labels"] == {"fabricd.io/role": "edge"}
    assert meta["annotations"] == {
        "fabricd.io/subnets": "2.2.2.32/27",
        "fabricd.io/endpoint": UNDERLAY["edge3"],
    }
    wait_peers(fabric, "edge2", "node1")
    fabric.fabricctl("node1", "community", "put", "app2", "--member=edge2", "--member=edge3")
    wait_peers(fabric, "edge2", "node1", "edge3")
    listed = json.loads(fabric.fabricctl("node1", "node", "list", "-o", "json"))
    assert [entry["name"] for entry in listed["nodes"]] == ["edge2", "edge3", "node1"]
    with pytest.raises(CommandError, match="there is no Node edge9"):
        fabric.fabricctl("node1", "node", "put", "edge9", "--subnet", "2.2.3.0/27")
    with pytest.raises(CommandError, match="overlaps"):
        fabric.fabricctl("node1", "node", "put", "edge3", "--subnet", "2.2.2.0/27")
    fabric.fabricctl("node1", "community", "delete", "app2")
    fabric.fabricctl("node1", "node", "put", "edge3", *record, "--community", "app1")
    wait_converged(fabric)


def test_the_api_server_goes_and_nothing_is_torn_down(fabric: Fabric, kube: KubeLab) -> None:
    before = whole(fabric)
    with (
        or_else(lambda: revive(fabric)),
        or_else(kube.restart),
        no_ping_lost(fabric, "c1", "c2", "c3"),
    ):
        kube.kill()
        for name in FABRIC_OF:
            seen = wait_status(fabric, name, "has lost it", lambda seen: not seen["synced"])
            assert (
                "/api/v1/nodes" in seen["source"]["reason"]
                or "/apis/" in (seen["source"]["reason"])
            )
            assert get(fabric, name, "/healthz") == (200, "ok\n")
        assert whole(fabric) == before

        # A node that starts now comes up from what it knew last.
        fabric.kill_fabricd("edge2")
        fabric.start_fabricd("edge2")
        wait_peers(fabric, "edge2", "node1", "edge3")
        assert not status(fabric, "edge2")["synced"]
        kube.start()
        wait_converged(fabric)
    assert whole(fabric) == before


def test_a_node_that_leaves_the_cluster_leaves_the_fabric(fabric: Fabric, kube: KubeLab) -> None:
    with or_else(lambda: mend(kube)), no_ping_lost(fabric, "c1"):
        kube.ask("DELETE", f"{NODES}/edge3")
        wait_peers(fabric, "edge2", "node1")
        wait_peers(fabric, "node1", "edge2")
        wait_peers(fabric, "edge3")
        assert kube.fabric_node("edge3") == {}
        kube.join("edge3", UNDERLAY["edge3"], RECORDS["edge3"]["subnets"][0])
        kube.label("edge3", fabricd_io__role="edge", community_fabricd_io__app1="")
        wait_converged(fabric)
    wait_until(lambda: kube.fabric_node("edge3").get("up") == 2, "edge3's FabricNode", SOON)


def test_the_daemon_stays_small(fabric: Fabric) -> None:
    """The store of an edge with little memory may be Kubernetes too."""
    process = fabric.nodes["edge2"].fabricd
    assert process is not None
    text = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(text.partition("VmRSS:")[2].split()[0])
    assert resident < 70_000, "kB"
