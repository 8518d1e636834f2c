"""From what is attached to the links that should be there, and what is wrong with those found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabricd.core.desired import NOTHING
from fabricd.core.pods import (
    NO_PODS,
    Attachment,
    Pods,
    asked,
    differences,
    gateway,
    hardware_address,
    is_port,
    network_of,
    pod_of,
    port_name,
    ports,
    with_pods,
)
from fabricd.core.state import Link, Pod
from fabricd.model import Address, Prefix

ATTACHED = Attachment("pod1", "/run/netns/1", "eth0", ("2.2.2.9/27", "fd00:2::9/64"))
WANT = pod_of(ATTACHED, "br-edge", 1438)


def test_all_that_follows_from_an_attachment() -> None:
    assert pod_of(ATTACHED, "br-edge", 1438) == Pod(
        name="pod1",
        netns="/run/netns/1",
        ifname="eth0",
        addresses=("2.2.2.9/27", "fd00:2::9/64"),
        port=port_name("pod1"),
        bridge="br-edge",
        mtu=1438,
        gateways=(Address("2.2.2.1"), Address("fd00:2::1")),
        up=True,
    )


def test_the_way_out_is_the_bridge() -> None:
    assert gateway("2.2.2.9/27") == "2.2.2.1"
    assert gateway("2.2.2.9/31") == "2.2.2.8"  # RFC 3021: no address of the network's own
    assert network_of("2.2.2.45/27") == Prefix("2.2.2.32/27")


def test_names_of_ports_are_short_and_no_two_alike() -> None:
    names = {port_name(f"{number}.eth0") for number in range(1000)}
    assert len(names) == 1000
    assert all(len(name) < 16 and name.startswith("pod") for name in names)
    assert port_name("pod1") == port_name("pod1")


def test_an_address_always_has_the_same_hardware_address_and_no_makers() -> None:
    assert hardware_address("2.2.2.9/27") == hardware_address("2.2.2.9/27")
    assert hardware_address("2.2.2.9/27") != hardware_address("2.2.2.10/27")
    first = int(hardware_address("2.2.2.9/27").split(":")[0], 16)
    assert first & 0b11 == 0b10, "locally administered, of one station"


def test_the_desired_state_has_the_pods() -> None:
    wanted = replace(NOTHING, pod_mtu=1438)
    assert with_pods(wanted, NO_PODS, "br-edge") is wanted
    found = with_pods(wanted, Pods((ATTACHED,)), "br-edge")
    assert dict(found.kernel.pods) == {"pod1": WANT}
    assert not found.kept_ports
    assert ports(found.kernel.pods) == {port_name("pod1")}


def test_ports_are_kept_while_not_all_is_known() -> None:
    assert with_pods(NOTHING, Pods(all_known=False), "br-edge").kept_ports


def test_what_to_look_for() -> None:
    assert asked(Pods((ATTACHED,)), "br-edge") == {"pod1": replace(WANT, mtu=0)}


@pytest.mark.parametrize(
    ("link", "ours"),
    [
        (Link("pod0123", "veth", up=True, alias="fabricd"), True),
        (Link("pod0123", "veth", up=True), False),
        (Link("pod0123", "bridge", up=True, alias="fabricd"), False),
        (Link("br-edge", "bridge", up=True, alias="fabricd"), False),
    ],
)
def test_which_links_are_ports(link: Link, ours: bool) -> None:
    assert is_port(link) == ours


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "it is missing"),
        (replace(WANT, bridge=""), "it is off the bridge br-edge"),
        (replace(WANT, up=False), "it is down"),
        (replace(WANT, addresses=("2.2.2.9/27",)), "it lacks fd00:2::9/64"),
        (replace(WANT, gateways=()), "it lacks the default route via 2.2.2.1, fd00:2::1"),
        (replace(WANT, mtu=1500), "its MTU is 1500, not 1438"),
        (replace(WANT, mtu=0), "its MTU is not the same at both ends, not 1438"),
        (replace(WANT, netns="/run/netns/2"), "it is another"),
        (
            replace(WANT, up=False, bridge="cni0"),
            "it is off the bridge br-edge, it is down",
        ),
    ],
)
def test_what_is_wrong_in_words(found: Pod | None, words: str) -> None:
    assert differences(WANT, found) == words
