"""What leaves the fabric takes the node's address, what stays in it keeps its own; beside the rules
of Docker and Calico, at any size of packet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab.fabric import Fabric
from lab.netns import Namespace, veth
from lab.process import CommandError, wait_until
from lab.topology import ATTACHED, UNDERLAY
from tests.lab.attached import Attached, attach, call, listening, restart
from tests.lab.observe import SOON, Log, or_else, wait_converged, whole_fabric

ROUTER = "10.20.8.254"
INTERNET = "198.51.100.7"
"""A host that knows no way back but to the underlay."""

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with whole_fabric(ATTACHED) as whole:
        yield whole


@pytest.fixture(scope="module")
def pods(fabric: Fabric) -> dict[str, Attached]:
    """One on each edge, by edge."""
    return {node: attach(fabric, node, f"pod-{node}") for node in ("edge2", "edge3")}


@pytest.fixture(scope="module")
def internet(fabric: Fabric) -> Namespace:
    """A host behind a router on the underlay; the edges' default route leads there."""
    router = Namespace.create(fabric.prefix + "router", fabric.run)
    host = Namespace.create(fabric.prefix + "internet", fabric.run)
    wan = fabric.namespaces["wan"]
    veth(router, "eth0", wan, "p-router")
    wan.ip("link", "set", "p-router", "master", "br0", "up")
    veth(router, "eth1", host, "eth0")
    router.add_address("eth0", f"{ROUTER}/24")
    router.add_address("eth1", "198.51.100.1/24")
    host.add_address("eth0", f"{INTERNET}/24")
    host.add_route("10.20.8.0/24", "198.51.100.1")
    router.forward()
    for edge in ("edge2", "edge3"):
        fabric.namespaces[edge].add_route("default", ROUTER)
    return host


@pytest.fixture(scope="module")
def listeners(
    fabric: Fabric, pods: dict[str, Attached], internet: Namespace
) -> Iterator[dict[str, tuple[Namespace, str]]]:
    """Namespaces in which somebody listens, and their addresses: two pods of edges, two of the
    cluster, and the internet.
    """
    found = {pod.node: (pod.namespace, pod.ip) for pod in pods.values()}
    found |= {p.name: (fabric.namespaces[p.name], p.ip) for p in fabric.layout.pods}
    with (
        listening(internet),
        listening(pods["edge2"].namespace),
        listening(pods["edge3"].namespace),
        listening(fabric.namespaces["pod-node1"]),
        listening(fabric.namespaces["pod-node2"]),
    ):
        yield found


# ---------------------------------------------------------------- who is known by which address


def test_the_internet_knows_a_pod_by_its_nodes_address(
    fabric: Fabric, pods: dict[str, Attached], listeners: object
) -> None:
    for node, pod in pods.items():
        assert call(pod.namespace, INTERNET) == (UNDERLAY[node], 1)
        assert pod.namespace.lost(INTERNET) == 0


def test_within_the_fabric_everybody_keeps_its_source(
    listeners: dict[str, tuple[Namespace, str]],
) -> None:
    for source, own in listeners.values():
        for target, address in listeners.values():
            if target is not source:
                assert call(source, address) == (own, 1)


def test_neighbours_on_a_bridge_and_the_node_itself_keep_theirs(
    fabric: Fabric, pods: dict[str, Attached]
) -> None:
    neighbour = attach(fabric, "edge2", "neighbour")
    node = fabric.nodes["edge2"].namespace
    with listening(neighbour.namespace):
        assert call(pods["edge2"].namespace, neighbour.ip) == (pods["edge2"].ip, 1)
        assert call(node, neighbour.ip) == ("2.2.4.1", 1)
    fabric.fabricctl("edge2", "pod", "detach", "neighbour")


def test_where_masquerade_is_switched_off(
    fabric: Fabric, pods: dict[str, Attached], internet: Namespace, listeners: object
) -> None:
    router = Namespace(fabric.prefix + "router", fabric.run)
    router.add_route("2.2.5.0/24", UNDERLAY["edge3"])
    internet.add_route("2.2.5.0/24", "198.51.100.1")
    with or_else(lambda: restart(fabric, "edge3", "kernel", "masquerade", "true")):
        restart(fabric, "edge3", "kernel", "masquerade", "false")
        wait_converged(fabric)
        assert call(pods["edge3"].namespace, INTERNET) == (pods["edge3"].ip, 1)
        assert call(pods["edge2"].namespace, pods["edge3"].ip) == (pods["edge2"].ip, 1)
    restart(fabric, "edge3", "kernel", "masquerade", "true")
    wait_converged(fabric)
    assert call(pods["edge3"].namespace, INTERNET) == (UNDERLAY["edge3"], 1)


# ---------------------------------------------------------------- any size


def test_a_large_transfer_through_each_tunnel(
    listeners: dict[str, tuple[Namespace, str]],
) -> None:
    for source, own in listeners.values():
        for target, address in listeners.values():
            if target is not source:
                assert call(source, address, 4 * MEGABYTE) == (own, 4 * MEGABYTE)


def test_a_large_transfer_to_the_internet(pods: dict[str, Attached], listeners: object) -> None:
    for node, pod in pods.items():
        assert call(pod.namespace, INTERNET, 4 * MEGABYTE) == (UNDERLAY[node], 4 * MEGABYTE)


def test_a_packet_that_is_too_large_is_told_so(
    fabric: Fabric, pods: dict[str, Attached], listeners: dict[str, tuple[Namespace, str]]
) -> None:
    """1,500 octets, not to be fragmented: a pod of ours can't even send them, one of the cluster's
    can, and hears of it from the gateway.
    """
    for source, own in listeners.values():
        for target, address in listeners.values():
            if target is source or not ("2.2." in own or "2.2." in address):
                continue
            said = ping(source, address, 1500)
            if own.startswith("2.2."):
                assert "essage too long" in said
            else:
                assert "Frag needed" in said or "essage too long" in said
            assert " 0% packet loss" not in said


def test_the_largest_packet_passes_and_the_next_larger_one_does_not(
    pods: dict[str, Attached],
) -> None:
    pod, other = pods["edge2"], pods["edge3"]
    [link] = json.loads(pod.namespace.ip("-j", "link", "show", "dev", "eth0"))
    mtu = link["mtu"]
    assert 1280 <= mtu <= 1438
    assert " 0% packet loss" in ping(pod.namespace, other.ip, mtu)
    assert "essage too long" in ping(pod.namespace, other.ip, mtu + 1)


def test_tcp_is_fit_to_the_path_where_nobody_hears_of_it(fabric: Fabric, listeners: object) -> None:
    """Between two pods with Ethernet's MTU, none of them ours, that drop "fragmentation needed"."""
    node, cluster = fabric.nodes["edge2"].namespace, fabric.namespaces["pod-node1"]
    wide = Namespace.create(fabric.prefix + "wide", fabric.run)
    veth(node, "v-wide", wide, "eth0")
    node.ip("link", "set", "v-wide", "master", "br-edge", "up")
    wide.add_address("eth0", "2.2.4.222/24")
    wide.add_route("default", "2.2.4.1")
    assert "Frag needed" in ping(wide, "10.233.96.2", 1500)
    wide.ip("route", "flush", "cache")
    for end in (wide, cluster):
        end.run("nft", "-f", "-", stdin=DEAF)
    try:
        assert call(wide, "10.233.96.2", 4 * MEGABYTE) == ("2.2.4.222", 4 * MEGABYTE)
        with listening(wide):
            assert call(cluster, "2.2.4.222", 4 * MEGABYTE) == ("10.233.96.2", 4 * MEGABYTE)
    finally:
        cluster.run("nft", "delete", "table", "inet", "deaf")
    node.ip("link", "delete", "v-wide")
    wide.delete()


DEAF = """\
table inet deaf {
  chain input {
    type filter hook input priority filter;
    icmp type destination-unreachable drop
  }
}
"""


def ping(source: Namespace, address: str, size: int) -> str:
    """What ping says of an IPv4 packet of this many octets that must not be fragmented."""
    argv = ("ping", "-n", "-M", "do", "-c", "2", "-W", "5", "-s", str(size - 28), address)
    try:
        return source.run(*argv)
    except CommandError as error:
        return error.output + error.errors


# ---------------------------------------------------------------- the table, and others' tables


def table(fabric: Fabric, node: str) -> str:
    """Ours, as nft shows it; empty while there is none."""
    try:
        return fabric.nodes[node].namespace.run("nft", "list", "table", "inet", "fabricd")
    except CommandError:
        return ""


CHANGES = (
    "delete table inet fabricd",
    "flush table inet fabricd",
    "flush chain inet fabricd postrouting",
    "insert rule inet fabricd forward drop",
    "add element inet fabricd fabric4 { 198.51.100.0/24 }",
    "flush set inet fabricd pods4",
    "add chain inet fabricd mine",
    "flush ruleset",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_our_table_is_undone_soon(
    fabric: Fabric, pods: dict[str, Attached], listeners: object, change: str
) -> None:
    before = table(fabric, "edge2")
    log = Log(fabric, "edge2")
    fabric.nodes["edge2"].namespace.run("nft", *change.split())
    wait_until(lambda: table(fabric, "edge2") == before, f"{change}: undone", SOON)
    line = log.wait("action")
    assert (line["kind"], line["cause"]) == ("filter.set", "drift")
    assert call(pods["edge2"].namespace, INTERNET) == (UNDERLAY["edge2"], 1)


def test_a_restart_finds_the_table_right(fabric: Fabric) -> None:
    log = Log(fabric, "edge2")
    fabric.kill_fabricd("edge2")
    fabric.start_fabricd("edge2")
    wait_converged(fabric)
    assert [line["kind"] for line in log.lines("action")] == []


# As `iptables-save` has them on a node with Docker, and one with Calico (chains shortened).
DOCKER = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""

CALICO = """\
*nat
:POSTROUTING ACCEPT [0:0]
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:cali-FORWARD - [0:0]
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A cali-FORWARD -i cali+ -j ACCEPT
-A cali-FORWARD -o cali+ -j ACCEPT
COMMIT
"""

OTHERS = """\
table inet filter {
  chain input { type filter hook input priority filter; policy accept; }
  chain forward { type filter hook forward priority filter; policy accept; }
}
table ip fabricd {
  chain mine { type nat hook postrouting priority srcnat; }
}
table inet fabricd2 {
  set pods4 { type ipv4_addr; elements = { 2.2.4.2 }; }
}
"""
"""An administrator's own, some with names like ours."""


def test_others_rules_stay_to_the_byte(
    fabric: Fabric, pods: dict[str, Attached], listeners: object
) -> None:
    node = fabric.nodes["edge2"].namespace
    node.run("iptables-restore", "--noflush", stdin=DOCKER)
    node.run("iptables-restore", "--noflush", stdin=CALICO)
    node.run("nft", "-f", "-", stdin=OTHERS)
    foreign, saved = theirs(node), iptables(node)
    assert foreign.count("table") > 4

    fabric.kill_fabricd("edge2")
    fabric.start_fabricd("edge2")
    node.run("nft", "delete", "table", "inet", "fabricd")
    wait_until(lambda: table(fabric, "edge2"), "our table is back", SOON)
    with or_else(lambda: restart(fabric, "edge2", "kernel", "masquerade", "true")):
        restart(fabric, "edge2", "kernel", "masquerade", "false")
        wait_converged(fabric)
    restart(fabric, "edge2", "kernel", "masquerade", "true")
    wait_converged(fabric)
    assert call(pods["edge2"].namespace, INTERNET) == (UNDERLAY["edge2"], 1)
    assert call(pods["edge2"].namespace, pods["edge3"].ip) == (pods["edge2"].ip, 1)

    fabric.stop_fabricd("edge2")
    fabric.fabricctl("edge2", "purge")
    assert table(fabric, "edge2") == ""
    assert theirs(node) == foreign
    assert iptables(node) == saved
    fabric.start_fabricd("edge2")
    wait_converged(fabric)
    assert theirs(node) == foreign


def theirs(node: Namespace) -> str:
    """Every table but ours, without counters, as nft shows it."""
    listed = node.run("nft", "-j", "list", "tables")
    tables = [item["table"] for item in json.loads(listed)["nftables"] if "table" in item]
    names = sorted((t["family"], t["name"]) for t in tables)
    return "".join(
        node.run("nft", "-s", "list", "table", *name)
        for name in names
        if name != ("inet", "fabricd")
    )


def iptables(node: Namespace) -> list[str]:
    """The rules as iptables saves them, without counters and dates."""
    lines = node.run("iptables-save").splitlines()
    return [line.partition(" [")[0] for line in lines if not line.startswith("#")]
