"""The cloud side on real BIRD, etcd and nftables: what node2 learns, what fabricctl says of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from functools import partial
from typing import Any

import pytest

from fabricd.calico.datastore import Datastore
from fabricd.sources import parse_endpoint
from fabricd.sources.etcd_client import Credentials, EtcdClient
from lab.bird import TUNNEL
from lab.etcd import Etcd
from lab.fabric import Fabric
from lab.process import CommandError, wait_until
from lab.topology import POOLS, UNDERLAY
from tests.lab.observe import SOON, wait_converged

POOL_KEY = "/calico/resources/v3/projectcalico.org/ippools/"

CLUSTER_POOL: dict[str, Any] = {
    "kind": "IPPool",
    "apiVersion": "projectcalico.org/v3",
    "metadata": {
        "name": "default-pool",
        "uid": "2f1d9a0e-6c67-4b6a-9a3e-0d9b3f1c5a77",
        "creationTimestamp": "2021-04-08T06:30:46Z",
    },
    "spec": {
        "cidr": "10.233.64.0/18",
        "vxlanMode": "Never",
        "ipipMode": "Always",
        "natOutgoing": True,
        "blockSize": 24,
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
    },
}
"""As libcalico-go stores it: what is false or empty is left out."""

FABRIC_POOL: dict[str, Any] = {
    "kind": "IPPool",
    "apiVersion": "projectcalico.org/v3",
    "metadata": {
        "name": "fabric-pool",
        "uid": "7a0c8f54-9d55-4a30-8d5b-5f6f0d1a6b10",
        "creationTimestamp": "2021-04-27T08:31:16Z",
        "labels": {"team": "edge"},
    },
    "spec": {
        "cidr": "2.0.0.0/8",
        "vxlanMode": "Never",
        "ipipMode": "Always",
        "natOutgoing": True,
        "disabled": True,
        "blockSize": 26,
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
    },
}
"""Made by hand, as an operator may have done before."""


def uplink(fabric: Fabric) -> str:
    """By which link node2 reaches node1's pods, and so the edges."""
    return TUNNEL if fabric.ipip else "eth0"


def learned(fabric: Fabric) -> dict[str, Any]:
    return fabric.birds["node2"].learned()


def wait_route(fabric: Fabric, prefix: str) -> None:
    fabric.birds["node2"].wait_learned(prefix, timeout=SOON)


def wait_no_route(fabric: Fabric, prefix: str) -> None:
    wait_until(lambda: prefix not in learned(fabric), f"node2 forgets {prefix}", SOON)


@pytest.fixture(scope="module", autouse=True)
def configs(fabric: Fabric) -> None:
    """node2 gets a config, and nothing else of the fabric's; the cluster has its pool."""
    (fabric.run / "node2.toml").write_text(
        f'[node]\nname = "node2"\n[store]\nendpoints = ["{fabric.etcd.endpoint}"]\n'
    )
    fabric.etcd.put(f"{POOL_KEY}default-pool", CLUSTER_POOL)


def fabricctl(fabric: Fabric, node: str, *arguments: str, stdin: str | None = None) -> str:
    """Run it on any node; raises CommandError."""
    config = fabric.run / f"{node}.toml"
    argv = (*fabric.programs["fabricctl"], "--config", config, *arguments)
    return fabric.namespaces[node].run(*argv, stdin=stdin)


def refused(fabric: Fabric, node: str, *arguments: str) -> str:
    """What fabricctl says on stderr as it fails."""
    with pytest.raises(CommandError) as caught:
        fabricctl(fabric, node, *arguments)
    assert caught.value.status == 1
    return caught.value.errors


# ---------------------------------------------------------------- what BIRD does


def test_another_node_of_the_cluster_learns_the_way_to_the_edges(fabric: Fabric) -> None:
    print(fabric.namespaces["node2"].ip("route", "show", "proto", "bird"))
    route = learned(fabric)["2.0.0.0/8"]
    assert (route["gateway"], route["dev"]) == (UNDERLAY["node1"], uplink(fabric))
    assert "2.0.0.0/8" not in fabric.namespaces["node2"].ip("route", "show", "proto", "static")
    assert fabric.ping("pod-edge3", "pod-node2") == 0


@contextmanager
def fabricd_stopped(fabric: Fabric, name: str) -> Iterator[None]:
    fabric.stop_fabricd(name)
    try:
        yield
    finally:
        fabric.start_fabricd(name)
        wait_converged(fabric)


def test_the_blackhole_goes_and_comes_back_and_so_does_the_route(fabric: Fabric) -> None:
    with fabricd_stopped(fabric, "node1"):
        assert fabric.ping("pod-edge3", "pod-node2") == 0
        fabric.namespaces["node1"].ip("route", "del", "blackhole", "2.0.0.0/8")
        wait_no_route(fabric, "2.0.0.0/8")
        # The edges' own routes lead to them all the same.
        assert fabric.ping("pod-edge3", "pod-node2", 1) == 0
        assert fabric.ping("pod-node1", "pod-node2") == 0
    wait_route(fabric, "2.0.0.0/8")
    fabric.wait_ping("pod-edge3", "pod-node2")


def test_a_route_to_one_edge_is_handed_on_beside_the_blackhole(fabric: Fabric) -> None:
    gateway = fabric.namespaces["node1"]
    gateway.ip("route", "add", "2.2.2.64/27", "dev", "fabric0", "proto", "static")
    try:
        wait_route(fabric, "2.2.2.64/27")
        assert learned(fabric)["2.2.2.64/27"]["gateway"] == UNDERLAY["node1"]
        assert "2.0.0.0/8" in learned(fabric)
    finally:
        gateway.ip("route", "del", "2.2.2.64/27", "dev", "fabric0")
    wait_no_route(fabric, "2.2.2.64/27")


def test_without_the_pool_nothing_is_handed_on(fabric: Fabric) -> None:
    bird = fabric.birds["node1"]
    bird.configure([pool for pool in POOLS if pool != "2.0.0.0/8"])
    try:
        wait_no_route(fabric, "2.0.0.0/8")
    finally:
        bird.configure(POOLS)
    wait_route(fabric, "2.0.0.0/8")


# ---------------------------------------------------------------- apply


def stored(fabric: Fabric, name: str = "fabric-pool") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(fabric.etcd.get(POOL_KEY + name))
    return document


@pytest.fixture
def no_pool(fabric: Fabric) -> Iterator[None]:
    fabric.etcd.delete(f"{POOL_KEY}fabric-pool")
    yield
    fabric.etcd.delete(f"{POOL_KEY}fabric-pool")


def test_apply_creates_the_pool_and_then_leaves_it_alone(fabric: Fabric, no_pool: None) -> None:
    assert fabricctl(fabric, "node2", "calico", "apply") == "fabric-pool: created\n"
    pool = stored(fabric)
    assert pool["metadata"].keys() == {"name", "uid", "creationTimestamp"}
    assert pool["spec"] == {
        "cidr": "2.0.0.0/8",
        "blockSize": 24,
        "disabled": True,
        "ipipMode": "Always",
        "natOutgoing": False,
        "nodeSelector": "all()",
        "vxlanMode": "Never",
    }
    manifest = json.loads(fabricctl(fabric, "node2", "calico", "ippool", "-o", "json"))
    assert (manifest["kind"], manifest["spec"]) == (pool["kind"], pool["spec"])

    revision = fabric.etcd.revision()
    assert fabricctl(fabric, "node1", "calico", "apply") == "fabric-pool: unchanged\n"
    assert stored(fabric) == pool
    assert fabric.etcd.revision() >= revision


def test_apply_mends_what_is_wrong_and_keeps_what_is_not_its_own(
    fabric: Fabric, no_pool: None
) -> None:
    fabric.etcd.put(f"{POOL_KEY}fabric-pool", FABRIC_POOL)
    assert fabricctl(fabric, "node2", "calico", "apply") == "fabric-pool: updated\n"
    pool = stored(fabric)
    assert pool["metadata"] == FABRIC_POOL["metadata"]
    assert pool["spec"]["natOutgoing"] is False
    assert pool["spec"]["blockSize"] == 26
    assert pool["spec"]["allowedUses"] == ["Workload", "Tunnel"]
    assert fabricctl(fabric, "node2", "calico", "apply") == "fabric-pool: unchanged\n"


def test_apply_refuses_a_network_that_another_pool_has(fabric: Fabric, no_pool: None) -> None:
    other = {**FABRIC_POOL, "metadata": {"name": "by-hand"}}
    fabric.etcd.put(f"{POOL_KEY}by-hand", other)
    try:
        told = refused(fabric, "node2", "calico", "apply", "--force")
        assert "fabric-pool: 2.0.0.0/8 overlaps by-hand 2.0.0.0/8" in told
        assert fabric.etcd.get(f"{POOL_KEY}fabric-pool") == ""
    finally:
        fabric.etcd.delete(f"{POOL_KEY}by-hand")


def test_apply_replaces_a_pool_for_another_network_by_force_only(
    fabric: Fabric, no_pool: None
) -> None:
    elsewhere = {**FABRIC_POOL, "spec": {**FABRIC_POOL["spec"], "cidr": "3.0.0.0/8"}}
    fabric.etcd.put(f"{POOL_KEY}fabric-pool", elsewhere)
    told = refused(fabric, "node2", "calico", "apply")
    assert "fabric-pool: that pool is there for 3.0.0.0/8, not 2.0.0.0/8" in told
    assert stored(fabric)["spec"]["cidr"] == "3.0.0.0/8"
    assert fabricctl(fabric, "node2", "calico", "apply", "--force") == "fabric-pool: updated\n"
    assert stored(fabric)["spec"]["cidr"] == "2.0.0.0/8"
    assert stored(fabric)["metadata"]["uid"] != FABRIC_POOL["metadata"]["uid"]


async def test_a_pool_that_has_changed_meanwhile_is_not_written(etcd: Etcd) -> None:
    client = EtcdClient([parse_endpoint(etcd.endpoint)], Credentials(), random.Random(1), 5)
    async with aclosing(client):
        datastore = Datastore(client)
        assert await datastore.write("fabric-pool", {"first": 1}, 0)
        assert not await datastore.write("fabric-pool", {"second": 2}, 0)
        read = (await datastore.list())["fabric-pool"]
        etcd.put(f"{POOL_KEY}fabric-pool", {"third": 3})
        assert not await datastore.write("fabric-pool", {"second": 2}, read.revision)
        assert json.loads(etcd.get(f"{POOL_KEY}fabric-pool")) == {"third": 3}
        etcd.put(f"{POOL_KEY}broken", "not JSON")
        etcd.put(f"{POOL_KEY[:-1]}0", "{}")
        assert {name: p.document for name, p in (await datastore.list()).items()} == {
            "fabric-pool": {"third": 3}
        }


# ---------------------------------------------------------------- check


@pytest.fixture
def pool(fabric: Fabric) -> None:
    fabricctl(fabric, "node2", "calico", "apply")


def checked(fabric: Fabric, node: str, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The document of `calico check`, with the exit status that goes with it."""
    argv = ("calico", "check", "-o", "json", *arguments)
    try:
        document = json.loads(fabricctl(fabric, node, *argv, stdin=stdin))
        status = 0
    except CommandError as error:
        document, status = json.loads(error.output), int(error.status)
    assert status == (0 if all(row["ok"] for row in document["checks"]) else 1)
    return dict(document)


def faults(document: dict[str, Any]) -> dict[str, str]:
    assert all(row["todo"] for row in document["checks"] if not row["ok"])
    return {row["name"]: row["detail"] for row in document["checks"] if not row["ok"]}


def test_all_is_right_on_the_gateway(fabric: Fabric, pool: None) -> None:
    document = checked(fabric, "node1")
    assert (document["node"], document["gateway"], faults(document)) == ("node1", True, {})
    assert {row["name"]: row["detail"] for row in document["checks"]} == {
        "pool fabric-pool": "2.0.0.0/8, disabled",
        "blackhole 2.0.0.0/8": "blackhole 2.0.0.0/8 proto 198",
        "forwarding ipv4": "net.ipv4.ip_forward = 1",
        "snat": "no rule changes the source",
    }


def test_all_is_right_on_another_node(fabric: Fabric, pool: None) -> None:
    document = checked(fabric, "node2")
    assert (document["node"], document["gateway"], faults(document)) == ("node2", False, {})
    assert {row["name"]: row["detail"] for row in document["checks"]} == {
        "pool fabric-pool": "2.0.0.0/8, disabled",
        "route 2.0.0.0/8": f"2.0.0.0/8 via 10.20.8.141 dev {uplink(fabric)} proto bird",
        "forwarding ipv4": "net.ipv4.ip_forward = 1",
        "snat": "no rule changes the source",
    }


Breaking = Callable[[Fabric], AbstractContextManager[None]]


@contextmanager
def pool_gone(fabric: Fabric) -> Iterator[None]:
    fabric.etcd.delete(f"{POOL_KEY}fabric-pool")
    yield


@contextmanager
def pool_wrong(fabric: Fabric) -> Iterator[None]:
    fabric.etcd.put(f"{POOL_KEY}fabric-pool", FABRIC_POOL)
    try:
        yield
    finally:
        fabricctl(fabric, "node2", "calico", "apply")


@contextmanager
def overlap(fabric: Fabric) -> Iterator[None]:
    small: dict[str, Any] = {"metadata": {"name": "small"}, "spec": {"cidr": "2.2.0.0/16"}}
    fabric.etcd.put(f"{POOL_KEY}small", small)
    try:
        yield
    finally:
        fabric.etcd.delete(f"{POOL_KEY}small")


@contextmanager
def no_blackhole(fabric: Fabric) -> Iterator[None]:
    with fabricd_stopped(fabric, "node1"):
        fabric.namespaces["node1"].ip("route", "del", "blackhole", "2.0.0.0/8")
        wait_no_route(fabric, "2.0.0.0/8")
        yield
    wait_route(fabric, "2.0.0.0/8")


@contextmanager
def by_hand(fabric: Fabric) -> Iterator[None]:
    """A static route in the place of BIRD's."""
    with no_blackhole(fabric):
        route = ("2.0.0.0/8", "via", UNDERLAY["node1"])
        fabric.namespaces["node2"].ip("route", "add", *route)
        try:
            yield
        finally:
            fabric.namespaces["node2"].ip("route", "del", *route)


@contextmanager
def not_forwarding(fabric: Fabric, *, node: str) -> Iterator[None]:
    fabric.namespaces[node].run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        yield
    finally:
        fabric.namespaces[node].forward()


@contextmanager
def ruleset(fabric: Fabric, *rules: str, node: str = "node2") -> Iterator[None]:
    """A table of somebody's own for source NAT."""
    inside = partial(fabric.namespaces[node].run, "nft")
    inside("add", "table", "ip", "theirs")
    inside("add chain ip theirs out { type nat hook postrouting priority srcnat; }")
    for rule in rules:
        inside("add", "rule", "ip", "theirs", "out", rule)
    try:
        yield
    finally:
        inside("delete", "table", "ip", "theirs")


@pytest.mark.parametrize(
    ("node", "breaking", "row", "says"),
    [
        ("node2", pool_gone, "pool fabric-pool", "Calico has no such pool"),
        ("node2", pool_wrong, "pool fabric-pool", "natOutgoing is true, not false"),
        ("node1", overlap, "pool fabric-pool", "2.0.0.0/8 overlaps small 2.2.0.0/16"),
        ("node1", no_blackhole, "blackhole 2.0.0.0/8", "this gateway has none"),
        ("node2", no_blackhole, "route 2.0.0.0/8", "not learned from any gateway"),
        ("node2", by_hand, "route 2.0.0.0/8", "not from BIRD: 2.0.0.0/8 via 10.20.8.141"),
        ("node2", partial(not_forwarding, node="node2"), "forwarding ipv4", "is not 1"),
        (
            "node2",
            lambda fabric: ruleset(fabric, "oifname eth0 masquerade"),
            "snat",
            "pods to 2.0.0.0/8: nft table ip theirs: out handle",
        ),
        (
            "node1",
            lambda fabric: ruleset(fabric, "oifname eth0 masquerade", node="node1"),
            "snat",
            "pods to 2.0.0.0/8: nft table ip theirs: out handle",
        ),
        (
            "node1",
            lambda fabric: ruleset(fabric, "ip saddr 2.2.2.0/24 masquerade", node="node1"),
            "snat",
            "2.0.0.0/8 to pods: nft table ip theirs: out handle",
        ),
    ],
    ids=[
        "pool gone",
        "pool wrong",
        "overlap",
        "blackhole gone",
        "route gone",
        "route by hand",
        "no forwarding",
        "masquerade on a node",
        "masquerade on the gateway's uplink",
        "masquerade of edges",
    ],
)
def test_each_fault_is_told_by_its_own_row(
    fabric: Fabric, pool: None, node: str, breaking: Breaking, row: str, says: str
) -> None:
    with breaking(fabric):
        found = faults(checked(fabric, node))
        assert found.keys() == {row}
        assert says in found[row]
    if breaking is not pool_gone:
        assert faults(checked(fabric, node)) == {}


@pytest.mark.parametrize(
    "rules",
    [
        ("ip daddr 2.0.0.0/8 accept", "oifname eth0 masquerade"),
        ("ip daddr 192.0.2.0/24 masquerade",),
        ("ip daddr != { 2.0.0.0/8, 10.233.0.0/16 } masquerade",),
        ("oifname docker0 masquerade",),
    ],
    ids=["exempt", "elsewhere", "all but the pools", "another link"],
)
def test_a_masquerade_that_leaves_the_fabric_out_is_right(
    fabric: Fabric, pool: None, rules: tuple[str, ...]
) -> None:
    with ruleset(fabric, *rules):
        assert faults(checked(fabric, "node2")) == {}


def test_pools_can_be_given_where_calico_has_them_in_kubernetes(fabric: Fabric) -> None:
    fabric.etcd.delete(f"{POOL_KEY}fabric-pool")
    right = {**FABRIC_POOL, "spec": {**FABRIC_POOL["spec"], "natOutgoing": False}}
    listed = json.dumps({"kind": "List", "items": [CLUSTER_POOL, right]})
    assert faults(checked(fabric, "node2", "--pools", "-", stdin=listed)) == {}
    assert faults(checked(fabric, "node2", "--pools", "-", stdin=json.dumps(right))) == {}
    assert faults(checked(fabric, "node2")).keys() == {"pool fabric-pool"}


def test_without_its_store_it_says_what_it_could_not_see(fabric: Fabric, pool: None) -> None:
    config = fabric.run / "alone.toml"
    config.write_text('[node]\nname = "node2"\n[store]\nendpoints = ["http://127.0.0.1:1"]\n')
    with pytest.raises(CommandError) as caught:
        fabricctl(fabric, "node2", "--config", str(config), "calico", "check")
    assert caught.value.status == 1
    assert "can't be judged: http://127.0.0.1:1" in caught.value.output
    assert "2.0.0.0/8 via 10.20.8.141 dev eth0 proto bird" in caught.value.output
