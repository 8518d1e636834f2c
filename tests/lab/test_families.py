"""A fabric without IPv4, and one with both families: pods talk in what they share, and nothing else
gets out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from lab.fabric import Fabric
from lab.netns import Namespace, veth
from lab.process import CommandError
from lab.topology import BOTH_FAMILIES, IPV6_ALONE, Layout
from tests.lab.attached import Attached, attach, call, listening, nothing_half_made
from tests.lab.observe import wait_converged, whole_fabric

INTERNET = "2001:db8:7::7"
MEGABYTE = 1 << 20


def add_cluster_bridge(fabric: Fabric) -> None:
    fabric.namespaces["node1"].add_bridge("cni0", "fd00:c::1/64", "10.233.96.1/24")


def of(layout: Layout) -> Callable[[], Iterator[Fabric]]:
    def fabric() -> Iterator[Fabric]:
        with whole_fabric(layout, before_fabricd=add_cluster_bridge) as whole:
            yield whole

    return fabric


six = pytest.fixture(scope="module")(of(IPV6_ALONE))
both = pytest.fixture(scope="module")(of(BOTH_FAMILIES))


def attach_to_edges(fabric: Fabric) -> dict[str, Attached]:
    return {node: attach(fabric, node, f"p-{node}") for node in fabric.nodes if "edge" in node}


@pytest.fixture(scope="module")
def pods(six: Fabric) -> dict[str, Attached]:
    return attach_to_edges(six)


@pytest.fixture(scope="module")
def mixed(both: Fabric) -> dict[str, Attached]:
    return attach_to_edges(both)


# ---------------------------------------------------------------- IPv6 alone


def test_pods_of_a_fabric_without_ipv4(six: Fabric, pods: dict[str, Attached]) -> None:
    assert pods["edge2"].addresses == ["fd00:2:0:1::2"]
    assert pods["edge3"].addresses == ["fd00:2:0:2::2"]
    for here, there in (("edge2", "edge3"), ("edge3", "edge2")):
        assert pods[here].namespace.lost(pods[there].ip) == 0
        assert pods[here].namespace.lost("fd00:c::1") == 0, "the cluster"
        assert six.namespaces["node1"].ip("-4", "route").count("10.20") == 0
        nothing_half_made(six, here)
    wait_converged(six)


def test_large_transfers_by_ipv6(six: Fabric, pods: dict[str, Attached]) -> None:
    here, there = pods["edge2"], pods["edge3"]
    with listening(there.namespace):
        assert call(here.namespace, there.ip, 4 * MEGABYTE) == (here.ip, 4 * MEGABYTE)
    [link] = json.loads(here.namespace.ip("-j", "link", "show", "dev", "eth0"))
    assert 1280 <= link["mtu"] <= 1418
    assert "essage too long" in ping(here.namespace, there.ip, 1500)
    assert " 0% packet loss" in ping(here.namespace, there.ip, link["mtu"])


def ping(source: Namespace, address: str, size: int) -> str:
    """What ping says of an IPv6 packet of so many octets that its sender must not fragment."""
    argv = ("ping", "-n", "-M", "do", "-c", "2", "-W", "5", "-s", str(size - 48), address)
    try:
        return source.run(*argv)
    except CommandError as error:
        return error.output + error.errors


def test_nothing_of_the_fabric_gets_out_without_a_tunnel(
    six: Fabric, pods: dict[str, Attached]
) -> None:
    node1 = six.namespaces["node1"]
    assert "blackhole fd00:2::/32" in node1.ip("-6", "route", "show", "type", "blackhole")
    for edge in ("edge2", "edge3"):
        shown = six.namespaces[edge].ip("-6", "route", "show", "table", "198")
        assert "unreachable fd00:2::/32" in shown
        assert "unreachable fd00:c::/48" in shown
    said = ping(pods["edge2"].namespace, "fd00:2:0:99::1", 100)
    assert "No route" in said or "unreachable" in said


def test_the_internet_knows_a_pod_by_its_nodes_ipv6_address(
    six: Fabric, pods: dict[str, Attached]
) -> None:
    host = internet(six)
    with listening(host), listening(pods["edge3"].namespace):
        assert call(pods["edge2"].namespace, INTERNET) == (six.layout.underlay["edge2"], 1)
        assert call(pods["edge2"].namespace, pods["edge3"].ip) == (pods["edge2"].ip, 1)


def internet(fabric: Fabric) -> Namespace:
    """On the underlay, where edge2's default route leads; it knows no way back to any pod."""
    host, wan = Namespace.create(fabric.prefix + "internet", fabric.run), fabric.namespaces["wan"]
    veth(host, "eth0", wan, "p-internet")
    wan.ip("link", "set", "p-internet", "master", "br0", "up")
    host.add_address("eth0", "fd00:20:8::99/64")
    host.add_address("lo", f"{INTERNET}/128")
    fabric.namespaces["edge2"].ip("-6", "route", "add", "default", "via", "fd00:20:8::99")
    return host


# ---------------------------------------------------------------- both


def test_pods_have_an_address_of_each_family_of_their_node(
    both: Fabric, mixed: dict[str, Attached]
) -> None:
    assert {node: pod.addresses for node, pod in mixed.items()} == {
        "edge2": ["2.2.4.2", "fd00:2:0:1::2"],
        "edge3": ["2.2.5.2"],
        "edge4": ["2.2.6.2", "fd00:2:0:3::2"],
    }
    for node in mixed:
        nothing_half_made(both, node)
    wait_converged(both)


def test_they_talk_in_what_they_share(both: Fabric, mixed: dict[str, Attached]) -> None:
    two, three, four = (mixed[node] for node in ("edge2", "edge3", "edge4"))
    for here, there in ((two, three), (three, two), (two, four), (four, two)):
        assert here.namespace.lost(there.addresses[0]) == 0
    for here, there in ((two, four), (four, two)):
        assert here.namespace.lost(there.addresses[1]) == 0
    for here in (two, four):
        assert here.namespace.lost("fd00:c::1") == 0
    for here in (two, three, four):
        assert here.namespace.lost("10.233.96.1") == 0
    assert three.namespace.lost(four.addresses[0], 1) == 1, "they have nothing in common"
    assert two.namespace.run("ping", "-c", "1", "-W", "5", four.addresses[1])


def test_large_transfers_by_both(both: Fabric, mixed: dict[str, Attached]) -> None:
    two, four = mixed["edge2"], mixed["edge4"]
    with listening(four.namespace):
        for own, other in zip(two.addresses, four.addresses, strict=True):
            assert call(two.namespace, other, 4 * MEGABYTE) == (own, 4 * MEGABYTE)


def test_one_address_alone_may_be_asked_for(both: Fabric, mixed: dict[str, Attached]) -> None:
    pod = attach(both, "edge2", "one", "--address", "fd00:2:0:1::77")
    assert pod.addresses == ["fd00:2:0:1::77"]
    assert pod.namespace.lost(mixed["edge4"].addresses[1]) == 0
    both.fabricctl("edge2", "pod", "detach", "one")
    pair = ("--address", "fd00:2:0:1::78", "--address", "2.2.4.78")
    pod = attach(both, "edge2", "two", *pair)
    assert pod.addresses == ["2.2.4.78", "fd00:2:0:1::78"]
    both.fabricctl("edge2", "pod", "detach", "two")
    nothing_half_made(both, "edge2")
