"""Links survive the way to rtnetlink's bytes and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.state import Link
from fabricd.kernel import links
from fabricd.kernel.netlink import HEADER, attribute, attributes
from tests.unit.kernel.test_kernel_codec import as_message

NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True)
U16 = st.integers(68, 65535)


@given(NAMES, st.booleans(), st.just(0) | U16)
def test_a_link_is_made_in_two_steps(name: str, up: bool, mtu: int) -> None:
    link = Link(name, "bridge", up, alias="fabricd", mtu=mtu)
    created = links.decode(as_message(links.create(link)))
    assert created is not None
    assert created.link == Link(name, "bridge", up=False)
    finished = links.decode(as_message(links.finish(link)))
    assert finished is not None
    assert finished.link == Link(name, "", up, alias="fabricd", mtu=mtu)


@given(U16, U16)
def test_a_port_of_a_bridge_has_its_master(index: int, master: int) -> None:
    port = Link("pod0", "veth", up=True, mtu=1400)
    request = links.change(index, port, master)
    named = request._replace(body=request.body + attribute(3, b"pod0\0"))  # IFLA_IFNAME
    changed = links.decode(as_message(named))
    assert changed is not None
    assert (changed.index, changed.master) == (index, master)
    assert changed.link == Link("pod0", "", up=True, mtu=1400)


def test_the_other_end_of_a_pair_is_described_within() -> None:
    port, peer = Link("pod0", "veth", up=True, mtu=1400), Link("eth0", "veth", up=True, mtu=1400)
    data = as_message(links.create_pair(port, 7, peer, 5, "0a:01:02:03:04:05"))
    here = links.decode(data)
    assert here is not None
    assert (here.link, here.master) == (Link("pod0", "veth", up=True, mtu=1400), 7)
    outer = dict(attributes(data, HEADER.size + 16))
    info = dict(attributes(outer[18], 0))  # IFLA_LINKINFO
    inner = dict(attributes(info[2], 0))[1]  # IFLA_INFO_DATA, VETH_INFO_PEER
    there = dict(attributes(inner, 16))
    assert there[3] == b"eth0\0"
    assert there[1] == bytes([10, 1, 2, 3, 4, 5])  # IFLA_ADDRESS
    assert there[28] == (5).to_bytes(4, "little")  # IFLA_NET_NS_FD


def test_a_bridges_word_about_its_port_is_not_a_link() -> None:
    data = bytearray(as_message(links.finish(Link("veth0", "veth", up=True))))
    data[HEADER.size] = 7  # AF_BRIDGE
    assert links.decode(bytes(data)) is None
