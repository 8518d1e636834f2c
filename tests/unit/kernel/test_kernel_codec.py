"""Addresses and rules survive the way to rtnetlink's bytes and back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.core.state import IfAddress, Rule
from fabricd.kernel import codec
from fabricd.kernel.netlink import HEADER, NLM_F_EXCL, NLM_F_REPLACE, Request
from fabricd.kernel.reading import UNREADABLE
from fabricd.model import Prefix

U32 = st.integers(1, 2**32 - 1)


def as_message(request: Request) -> bytes:
    header = HEADER.pack(HEADER.size + len(request.body), request.kind, request.flags, 1, 0)
    return header + request.body


def of_bytes(body: str, kind: int) -> bytes:
    """As a little-endian machine's kernel writes it."""
    return as_message(Request(kind, 0, bytes.fromhex(body)))


@st.composite
def addresses(draw: st.DrawFn) -> IfAddress:
    interface: IPv4Interface | IPv6Interface
    if draw(st.booleans()):
        interface = IPv4Interface((draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 32))))
    else:
        interface = IPv6Interface((draw(st.integers(0, 2**128 - 1)), draw(st.integers(0, 128))))
    return IfAddress("br-edge", str(interface), draw(st.integers(1, 255)))


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


def test_an_address_is_this_end_of_its_link_not_the_other() -> None:
    data = of_bytes(
        "02188000 03000000"  # AF_INET, /24, IFA_F_PERMANENT, everywhere, link 3
        "08000100 0a010109"  # IFA_ADDRESS 10.1.1.9
        "08000200 0a010101"  # IFA_LOCAL 10.1.1.1
        "08000800 80000000",  # IFA_FLAGS
        kind=codec.RTM_NEWADDR,
    )
    assert codec.decode_address(data) == (3, "10.1.1.1/24", 0)


def test_an_ipv6_address_has_no_other_end() -> None:
    data = of_bytes(
        "0a4080fd 03000000" + "14000100 fe80000000000000000000fffe000001" + "05000b00 03000000",
        kind=codec.RTM_NEWADDR,
    )
    assert codec.decode_address(data) == (3, "fe80::ff:fe00:1/64", 3)  # IFAPROT_KERNEL_LL


@pytest.mark.parametrize(
    "body",
    [
        "02218000 03000000" + "08000100 0a010101",
        "02188000 03000000" + "07000100 0a010100",
        "02188000 03000000" + "04000100",
        "02188000 03000000" + "08000100 0a010101" + "04000b00",
        "02188000",
    ],
    ids=["prefix too long", "three octets", "no octets", "no protocol", "cut off"],
)
def test_an_address_that_makes_no_sense_can_t_be_read(body: str) -> None:
    with pytest.raises(UNREADABLE):
        codec.decode_address(of_bytes(body, kind=codec.RTM_NEWADDR))


def test_a_rule_as_the_kernel_shows_it() -> None:
    body = (
        "020800 00 c6 0000 01 00000000"  # AF_INET, to /8, table 198, FR_ACT_TO_TBL
        "08000f00 c6000000"  # FRA_TABLE 198
        "08000e00 ffffffff"  # FRA_SUPPRESS_PREFIXLEN: none
        "08000600 c5000000"  # FRA_PRIORITY 197
        "05001500 c6000000"  # FRA_PROTOCOL 198
        "08000100 02000000"  # FRA_DST 2.0.0.0
    )
    shown = Rule(4, 197, 198, Prefix("2.0.0.0/8"))
    assert codec.decode_rule(of_bytes(body, kind=codec.RTM_NEWRULE)) == shown
    for more in ("08000a00 05000000", "0c001400 0100000005000000", "0400ff00"):
        # FRA_FWMARK, FRA_UID_RANGE, and what nobody knows yet
        narrowed = codec.decode_rule(of_bytes(body + more, kind=codec.RTM_NEWRULE))
        assert narrowed == replace(shown, table=0)


def test_a_rule_says_its_table_in_the_header_if_nowhere_else() -> None:
    body = "02000000 fe 0000 01 00000000" + "08000600 c6000000" + "05001500 c6000000"
    assert codec.decode_rule(of_bytes(body, kind=codec.RTM_NEWRULE)) == Rule(4, 198, 254)


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
