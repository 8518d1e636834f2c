"""Pods attached by fabricd: in numbers, damaged, interrupted, with daemons killed meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest

from lab.fabric import Fabric
from lab.process import CommandError, wait_until
from lab.topology import ATTACHED
from tests.lab.attached import (
    Attached,
    attach,
    attach_quickly,
    is_whole,
    known_to_the_layout,
    leases,
    looks,
    namespace,
    nothing_half_made,
    ports,
    post,
    seen,
    supplant,
)
from tests.lab.observe import SOON, Log, or_else, revive, wait_converged, whole_fabric
from tests.lab.pings import Pings, answered

QUICKLY = 10
"""Seconds until damage that the kernel tells of is repaired, on a machine that does much else; a
sweep would take longer."""

MANY = 100


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with whole_fabric(ATTACHED) as whole:
        yield whole


@pytest.fixture(scope="module")
def far(fabric: Fabric) -> Attached:
    """A pod on edge3."""
    return attach(fabric, "edge3", "far")


@pytest.fixture(scope="module")
def near(fabric: Fabric) -> Attached:
    """A pod on edge2."""
    return attach(fabric, "edge2", "near")


# ---------------------------------------------------------------- by hand


def test_attached_listed_and_detached(fabric: Fabric, far: Attached) -> None:
    pod = attach(fabric, "edge2", "by-hand", "--address", "2.2.4.77", "--ifname", "net1")
    assert pod.document["addresses"] == ["2.2.4.77/24"]
    assert pod.namespace.lost(far.ip) == 0
    assert far.namespace.lost(pod.ip) == 0
    listed = fabric.fabricctl("edge2", "pod", "list")
    assert [line.split()[:3] for line in listed.splitlines() if "by-hand" in line] == [
        ["by-hand", "attached", "2.2.4.77/24"]
    ]
    fabric.fabricctl("edge2", "pod", "detach", "by-hand")
    assert not pod.namespace.has_link("net1")
    assert "2.2.4.77" not in leases(fabric, "edge2")
    nothing_half_made(fabric, "edge2")
    with pytest.raises(CommandError, match="there is no pod by-hand here"):
        fabric.fabricctl("edge2", "pod", "detach", "by-hand")


def test_what_cannot_be_attached_leaves_nothing(fabric: Fabric) -> None:
    inside = namespace(fabric, "odd")
    inside.ip("link", "add", "eth0", "type", "bridge")
    argv = ("pod", "attach", "odd", "--netns", str(inside.path))
    with pytest.raises(CommandError, match="the namespace has another interface eth0"):
        fabric.fabricctl("edge2", *argv)
    nothing_half_made(fabric, "edge2")

    inside.ip("link", "delete", "eth0")
    inside.ip("link", "add", "other", "type", "bridge")
    inside.add_address("other", "192.0.2.1/24")
    inside.add_route("default", "192.0.2.2")
    with pytest.raises(CommandError, match="has another default route already: remove that"):
        fabric.fabricctl("edge2", *argv)
    assert not inside.has_link("eth0")
    nothing_half_made(fabric, "edge2")

    own = str(fabric.nodes["edge2"].namespace.path)
    with pytest.raises(CommandError, match="the node's own network namespace"):
        fabric.fabricctl("edge2", "pod", "attach", "own", "--netns", own)
    nothing_half_made(fabric, "edge2")
    with pytest.raises(CommandError, match="this node is a gateway: its pods are the cluster's"):
        fabric.fabricctl("node1", *argv)


def test_a_hundred_in_parallel_and_all_of_them_ping_across_a_tunnel(
    fabric: Fabric, far: Attached
) -> None:
    inside = {f"many{number}": namespace(fabric, f"many{number}") for number in range(MANY)}
    with ThreadPoolExecutor(MANY) as threads:
        pods = list(
            threads.map(lambda name: attach_quickly(fabric, "edge2", name, inside[name]), inside)
        )
    assert len({pod.ip for pod in pods}) == MANY
    nothing_half_made(fabric, "edge2")
    with ThreadPoolExecutor(4) as threads:
        lost = list(threads.map(lambda pod: pod.namespace.lost(far.ip, 2, wait=5), pods))
    assert lost == [0] * MANY

    gone, detached = pods[: MANY // 2], pods[MANY // 2 :]
    for pod in gone:
        pod.namespace.delete()
    with ThreadPoolExecutor(MANY) as threads:
        list(
            threads.map(
                lambda pod: post(fabric, "edge2", "/pods/detach", {"name": pod.name}), detached
            )
        )
    wait_until(
        lambda: not {pod.ip for pod in pods} & set(leases(fabric, "edge2")),
        "what belongs to namespaces that are gone is collected",
        SOON,
    )
    wait_until(lambda: is_whole(fabric, "edge2"), "nothing is half made", SOON)
    for pod in detached:
        assert not pod.namespace.has_link("eth0")
        pod.namespace.delete()


# ---------------------------------------------------------------- damage

Hand = Callable[[Fabric, Attached], object]


def on_the_node(words: str) -> Hand:
    """`PORT` is the pod's end on the bridge."""
    return lambda fabric, pod: fabric.nodes[pod.node].namespace.ip(
        *words.replace("PORT", pod.port).split()
    )


def inside(words: str) -> Hand:
    """`ADDRESS` is the pod's."""
    return lambda fabric, pod: pod.namespace.ip(
        *words.replace("ADDRESS", pod.document["addresses"][0]).split()
    )


@dataclass(frozen=True)
class Damage:
    what: str
    by_hand: Hand


DAMAGE = (
    Damage("off the bridge", on_the_node("link set PORT nomaster")),
    Damage("host end down", on_the_node("link set PORT down")),
    Damage("inner end down", inside("link set eth0 down")),
    Damage("address deleted", inside("address delete ADDRESS dev eth0")),
    Damage("addresses flushed", inside("address flush dev eth0")),
    Damage("default route deleted", inside("route delete default")),
    Damage("another MTU at the host end", on_the_node("link set PORT mtu 1300")),
    Damage("another MTU at the inner end", inside("link set eth0 mtu 1300")),
    Damage("pair deleted at the host end", on_the_node("link delete PORT")),
    Damage("pair deleted at the inner end", inside("link delete eth0")),
    Damage("off the bridge and down", on_the_node("link set PORT nomaster down")),
)


@pytest.mark.parametrize("damage", DAMAGE, ids=[damage.what for damage in DAMAGE])
def test_damage_is_repaired_soon(
    fabric: Fabric, near: Attached, far: Attached, damage: Damage
) -> None:
    before = seen(fabric, near)
    began = time.monotonic()
    damage.by_hand(fabric, near)
    wait_until(lambda: looks(fabric, near) == before, f"{damage.what}: repaired", SOON)
    took = time.monotonic() - began
    print(f"{damage.what}: repaired after {took:.2f} s")
    assert near.namespace.lost(far.ip, 1, wait=5) == 0
    assert took < QUICKLY
    wait_until(lambda: is_whole(fabric, "edge2"), "nothing is half made", SOON)


def test_an_interface_that_was_renamed_is_there_again(
    fabric: Fabric, near: Attached, far: Attached
) -> None:
    before = seen(fabric, near)
    near.namespace.ip("link", "set", "eth0", "down")
    near.namespace.ip("link", "set", "eth0", "name", "net9")
    wait_until(lambda: looks(fabric, near) == before, "repaired", SOON)
    assert not near.namespace.has_link("net9")
    assert near.namespace.lost(far.ip, 1, wait=5) == 0


def test_a_link_in_the_place_of_ours_stays_and_is_told_of(
    fabric: Fabric, near: Attached, far: Attached
) -> None:
    before = seen(fabric, near)
    supplant(fabric, near)

    def state() -> str:
        [found] = [p for p in fabric.ask("edge2", "/pods")["pods"] if p["name"] == "near"]
        return f"{found['state']}: {found['reason']}"

    wait_until(lambda: "another interface eth0" in state(), "it is told of", SOON)
    assert state().startswith("failed: ")
    assert near.namespace.has_link("eth0")
    near.namespace.ip("link", "delete", "eth0")
    wait_until(lambda: looks(fabric, near) == before, "repaired", SOON)
    wait_until(lambda: state() == "attached: ", "all is well", SOON)
    assert near.namespace.lost(far.ip, 1, wait=5) == 0


def test_the_bridge_comes_back_with_its_ports(
    fabric: Fabric, near: Attached, far: Attached
) -> None:
    before = seen(fabric, near)
    fabric.nodes["edge2"].namespace.ip("link", "delete", "br-edge")
    wait_until(lambda: looks(fabric, near) == before, "repaired", SOON)
    wait_until(lambda: near.namespace.lost(far.ip, 1) == 0, "it is answered", SOON)


def test_what_is_not_a_pod_of_ours_is_left_alone(fabric: Fabric, near: Attached) -> None:
    node, other = fabric.nodes["edge2"].namespace, namespace(fabric, "foreign")
    node.ip("link", "add", "pod1234567890", "type", "veth", "peer", "eth0", "netns", other.name)
    try:
        node.ip("link", "set", "pod1234567890", "master", "br-edge", "up")
        other.add_address("eth0", "2.2.4.200/24")
        pod = attach(fabric, "edge2", "beside")
        fabric.fabricctl("edge2", "pod", "detach", "beside")
        wait_converged(fabric)
        assert node.has_link("pod1234567890")
        assert other.lost(near.ip, 1) == 0
    finally:
        node.ip("link", "delete", "pod1234567890")
    pod.namespace.delete()
    other.delete()


# ---------------------------------------------------------------- lives and deaths of the daemon


def test_a_restart_touches_no_pod_and_loses_no_ping(
    fabric: Fabric, near: Attached, far: Attached
) -> None:
    for pod in (near, far):
        known_to_the_layout(fabric, pod)
    before = {pod.name: seen(fabric, pod) for pod in (near, far)}
    pings = [Pings(fabric, "near", "far", 0.01), Pings(fabric, "far", "near", 0.01)]
    logs = {name: Log(fabric, name) for name in ("edge2", "edge3")}
    try:
        with or_else(lambda: revive(fabric)), answered(pings):
            for name in logs:
                fabric.kill_fabricd(name)
                fabric.start_fabricd(name)
                fabric.stop_fabricd(name)
                fabric.start_fabricd(name)
            wait_converged(fabric)
    finally:
        lost = [each.stop() for each in pings]
    assert lost == [[], []]
    for log in logs.values():
        assert [line["kind"] for line in log.lines("action")] == []
    assert {pod.name: seen(fabric, pod) for pod in (near, far)} == before


def test_killed_in_the_middle_of_an_attach_nothing_half_made_is_left(fabric: Fabric) -> None:
    dice = random.Random(198)
    spaces = [namespace(fabric, f"killed{number}") for number in range(12)]
    found = set()
    for number, space in enumerate(spaces):
        name = f"killed{number}"

        def ask_for_it(name: str = name, netns: str = str(space.path)) -> None:
            with suppress(CommandError):  # the daemon dies meanwhile
                post(fabric, "edge2", "/pods/attach", {"name": name, "netns": netns})

        asking = threading.Thread(target=ask_for_it)
        asking.start()
        time.sleep(dice.uniform(0, 0.12))
        fabric.kill_fabricd("edge2")
        asking.join()
        if number % 3 == 2:
            space.delete()  # while nobody looks
        fabric.start_fabricd("edge2")
        wait_until(lambda: is_whole(fabric, "edge2"), "nothing is half made", SOON)
        pods = {item["name"]: item for item in fabric.ask("edge2", "/pods")["pods"]}
        assert (name in pods) <= space.exists
        if space.exists:
            assert space.has_link("eth0") == (name in pods)
            found.add(name in pods)
    wait_converged(fabric)
    for number, space in enumerate(spaces):
        post(fabric, "edge2", "/pods/detach", {"name": f"killed{number}"})
        space.delete()
    nothing_half_made(fabric, "edge2")
    assert len(ports(fabric, "edge2")) == len(fabric.ask("edge2", "/pods")["pods"])
    assert found, "some were asked for and some were not"


def test_pods_come_and_go_while_the_store_is_down(fabric: Fabric, far: Attached) -> None:
    fabric.etcd.kill()
    try:
        pod = attach(fabric, "edge2", "storeless")
        assert pod.namespace.lost(far.ip) == 0
        fabric.kill_fabricd("edge2")
        fabric.start_fabricd("edge2")
        wait_until(lambda: is_whole(fabric, "edge2"), "it is known again", SOON)
        assert pod.namespace.lost(far.ip) == 0
        fabric.fabricctl("edge2", "pod", "detach", "storeless")
        assert not pod.namespace.has_link("eth0")
    finally:
        fabric.etcd.start()
    wait_converged(fabric)
    wait_until(lambda: is_whole(fabric, "edge2"), "nothing is half made", SOON)
