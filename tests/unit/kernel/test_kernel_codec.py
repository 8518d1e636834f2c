"""Links, addresses and rules survive the way to rtnetlink's bytes and back."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.core.state import IfAddress, Link, Rule
from fabricd.kernel import codec
from fabricd.kernel.netlink import HEADER, NLM_F_EXCL, NLM_F_REPLACE, Request

U32 = st.integers(1, 2**32 - 1)
NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True)


def as_message(request: Request) -> bytes:
    header = HEADER.pack(HEADER.size + len(request.body), request.kind, request.flags, 1, 0)
    return header + request.body


@st.composite
def addresses(draw: st.DrawFn) -> IfAddress:
    interface: IPv4Interface | IPv6Interface
    if draw(st.booleans()):
        interface = IPv4Interface((draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 32))))
    else:
        interface = IPv6Interface((draw(st.integers(0, 2**128 - 1)), draw(st.integers(0, 128))))
    return IfAddress("br-edge", str(interface), draw(st.integers(1, 255)))


@given(NAMES, st.booleans())
def test_a_link_is_made_in_two_steps(name: str, up: bool) -> None:
    link = Link(name, "bridge", up, alias="fabricd")
    assert codec.decode_link(as_message(codec.create_link(link))) == (
        0,
        Link(name, "bridge", up=False),
    )
    assert codec.decode_link(as_message(codec.finish_link(link))) == (
        0,
        Link(name, "", up, alias="fabricd"),
    )


@given(addresses(), U32)
def test_an_address_decodes_to_what_was_encoded(item: IfAddress, index: int) -> None:
    added = codec.add_address(item, index)
    assert added.flags & NLM_F_EXCL
    assert codec.decode_address(as_message(added)) == (index, item.address, item.protocol)
    replaced = codec.add_address(item, index, replace=True)
    assert replaced.flags & NLM_F_REPLACE
    assert codec.decode_address(as_message(replaced)) == (index, item.address, item.protocol)
    removed = codec.remove_address(item, index)
    assert codec.decode_address(as_message(removed)) == (index, item.address, 0)


@given(st.builds(Rule, family=st.sampled_from([4, 6]), priority=U32, table=U32))
def test_a_rule_decodes_to_what_was_encoded(rule: Rule) -> None:
    assert codec.decode_rule(as_message(codec.add_rule(rule))) == rule


def test_a_rule_of_another_protocol_is_not_ours() -> None:
    data = as_message(codec.add_rule(Rule(4, 198, 198)))
    protocol = bytes((5, 0, 21, 0))  # struct nlattr: 5 octets long, FRA_PROTOCOL
    assert protocol + bytes((ROUTE_PROTOCOL,)) in data
    foreign = data.replace(protocol + bytes((ROUTE_PROTOCOL,)), protocol + b"\4")
    assert codec.decode_rule(foreign) is None


def test_a_rule_with_a_selector_is_like_none_of_ours() -> None:
    data = bytearray(as_message(codec.add_rule(Rule(4, 198, 198))))
    data[HEADER.size + 2] = 32  # src_len
    assert codec.decode_rule(bytes(data)) == Rule(4, 198, table=0)


def test_a_bridges_word_about_its_port_is_not_a_link() -> None:
    data = bytearray(as_message(codec.finish_link(Link("veth0", "veth", up=True))))
    data[HEADER.size] = 7  # AF_BRIDGE
    assert codec.decode_link(bytes(data)) is None
