"""RFC 3779 address blocks: octets as in the RFC, sets of addresses as ipaddress sees them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricd.model import Prefix
from fabricd.pki.blocks import INHERIT, AddressBlocks, blocks_of, decode, encode
from tests.unit.pki.conftest import Ca

# ---------------------------------------------------------------- octets

AFI_IPV4, AFI_IPV6 = "0402 0001", "0402 0002"


def seq(*elements: str | bytes) -> bytes:
    """A SEQUENCE of elements, given in hex or as octets."""
    content = b"".join(e if isinstance(e, bytes) else bytes.fromhex(e) for e in elements)
    return bytes([0x30, len(content)]) + content


@pytest.mark.parametrize(
    ("prefixes", "der"),
    [
        ("0.0.0.0/0", seq(seq(AFI_IPV4, seq("0301 00")))),
        ("10.0.32.0/20", seq(seq(AFI_IPV4, seq("0304 04 0a0020")))),
        ("192.0.2.7/32", seq(seq(AFI_IPV4, seq("0305 00 c0000207")))),
        ("fd00:2::/64", seq(seq(AFI_IPV6, seq("0309 00 fd00000200000000")))),
        (
            "10.3.0.0/16 10.1.0.0/16",
            seq(seq(AFI_IPV4, seq("0303 00 0a01", "0303 00 0a03"))),
        ),
        # A range: zeros at the end of the first address and ones at that of the last are left
        # out (2.2.3.9).
        (
            "10.2.48.0/20 10.2.64.0/24",
            seq(seq(AFI_IPV4, seq(seq("0304 04 0a0230", "0304 00 0a0240")))),
        ),
        ("64.0.0.0/2 128.0.0.0/1", seq(seq(AFI_IPV4, seq(seq("0302 06 40", "0301 00"))))),
        ("0.0.0.0/1 128.0.0.0/2", seq(seq(AFI_IPV4, seq(seq("0301 00", "0302 06 80"))))),
    ],
)
def test_octets(prefixes: str, der: bytes) -> None:
    assert encode(prefixes.split()).hex(" ") == der.hex(" ")
    assert decode(der) == AddressBlocks.of(prefixes.split())


def test_ipv4_stands_before_ipv6_and_neighbours_are_one() -> None:
    blocks = decode(encode(["fd00::/64", "2.2.2.32/27", "2.2.2.0/27", "2.2.2.0/28"]))
    assert blocks.texts() == ("2.2.2.0/26", "fd00::/64")
    assert str(blocks) == "2.2.2.0/26, fd00::/64"
    assert blocks.prefixes == ("2.2.2.0/26", "fd00::/64")


def test_a_range_that_is_no_prefix() -> None:
    blocks = decode(encode(["2.2.2.0/27", "2.2.2.32/28"]))
    assert str(blocks) == "2.2.2.0-2.2.2.47"
    assert blocks.prefixes == ("2.2.2.0/27", "2.2.2.32/28")
    assert blocks.covers("2.2.2.16/28")
    assert not blocks.covers("2.2.2.0/26")


def test_nothing() -> None:
    assert decode(encode([])) == AddressBlocks()
    assert str(AddressBlocks()) == "none"
    assert AddressBlocks().uncovered((Prefix("2.2.2.0/27"),)) == ("2.2.2.0/27",)


# ---------------------------------------------------------------- what others write

NULL = "0500"


def test_inherit_is_read_and_covers_nothing() -> None:
    blocks = decode(seq(seq(AFI_IPV4, NULL)))
    assert blocks == AddressBlocks(v4=INHERIT)
    assert blocks.inherits
    assert str(blocks) == "IPv4: inherit"
    assert not blocks.covers("2.2.2.0/27")
    assert blocks.prefixes == ()


def test_unknown_families_and_single_safis_allow_nothing() -> None:
    everything = seq("0301 00")
    multicast, other = seq("0403 0001 02", everything), seq("0402 4007", everything)
    blocks = decode(seq(multicast, other, seq(AFI_IPV4, seq("0304 00 020202"))))
    assert str(blocks) == "2.2.2.0/24"


def test_neighbours_that_were_not_merged_stay_two() -> None:
    # charon too compares with one block at a time: 2.2.2.0/24 as a whole is in neither.
    blocks = decode(seq(seq(AFI_IPV4, seq("0305 07 02020280", "0305 07 02020200"))))
    assert blocks.texts() == ("2.2.2.0/25", "2.2.2.128/25")
    assert blocks.covers("2.2.2.128/25")
    assert not blocks.covers("2.2.2.0/24")


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (b"", "no IPAddrBlocks of RFC 3779"),
        (b"0", "no IPAddrBlocks of RFC 3779"),
        (seq() + b"0", "no IPAddrBlocks of RFC 3779"),
        (bytes.fromhex(NULL), "no IPAddrBlocks of RFC 3779"),
        (seq(seq("0401 01", NULL)), "no IPAddrBlocks of RFC 3779"),
        (seq(seq(AFI_IPV4, seq("0302 07 ff"))), "no IPAddrBlocks of RFC 3779"),
        (seq(seq(AFI_IPV4)), "neither addresses nor inherit"),
        (seq(seq(AFI_IPV4, NULL, seq())), "neither addresses nor inherit, or both"),
        (seq(seq(AFI_IPV4, seq("0306 00 0202020200"))), "longer than IPv4 has bits"),
        (seq(seq(AFI_IPV4, NULL), seq(AFI_IPV4, NULL)), "IPv4 is there twice"),
        (seq(seq(AFI_IPV4, seq(seq("0302 00 03", "0302 00 02")))), "ends before it begins"),
    ],
)
def test_what_is_wrong_is_one_line(der: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        decode(der)
    assert "\n" not in str(caught.value)


def test_no_prefix_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="host bits"):
        encode(["2.2.2.1/27"])


# ---------------------------------------------------------------- certificates


def test_blocks_of_a_certificate() -> None:
    ca = Ca.create("2.0.0.0/8")
    blocks = blocks_of(ca.issue("edge2", "2.2.2.0/27"))
    assert blocks is not None
    assert str(blocks) == "2.2.2.0/27"


def test_blocks_outside_the_issuer_s() -> None:
    issuer = AddressBlocks.of(["2.2.2.0/24", "fd00::/48"])
    node = AddressBlocks.of(["2.2.2.0/27", "2.2.3.0/27", "fd00::/64", "fd01::/64"])
    assert str(node.outside(issuer)) == "2.2.3.0/27, fd01::/64"
    assert node.outside(AddressBlocks.of(["0.0.0.0/0", "::/0"])) == AddressBlocks()


# ---------------------------------------------------------------- as ipaddress sees it

Net = IPv4Network | IPv6Network


@st.composite
def networks(draw: st.DrawFn) -> Net:
    """Networks close to one another, so that they touch and overlap, and far ones."""
    version = draw(st.sampled_from([4, 6]))
    width = 32 if version == 4 else 128
    length = draw(st.integers(0, width) | st.integers(width - 6, width))
    base = draw(st.sampled_from([0, 2 << width - 8, (1 << width) - 256]))
    address = (base + draw(st.integers(0, 255))) % (1 << width)
    masked = address >> (width - length) << (width - length)
    return IPv4Network((masked, length)) if version == 4 else IPv6Network((masked, length))


many = st.lists(networks(), max_size=8)


@given(many)
@settings(deadline=None, max_examples=300)
def test_what_is_encoded_is_decoded_again_and_is_canonical(nets: list[Net]) -> None:
    der = encode([str(net) for net in nets])
    blocks = decode(der)
    assert list(blocks.prefixes) == [str(net) for net in collapsed(nets)]
    assert encode(blocks.prefixes) == der
    assert encode([str(net) for net in reversed(nets)]) == der


@given(many, networks())
@settings(deadline=None, max_examples=300)
def test_covers_is_what_ipaddress_says(nets: list[Net], asked: Net) -> None:
    blocks = decode(encode([str(net) for net in nets]))
    inside = {str(net) for net in collapsed([*nets, asked])} == {
        str(net) for net in collapsed(nets)
    }
    assert blocks.covers(str(asked)) == inside
    assert blocks.uncovered((Prefix(str(asked)),)) == (() if inside else (str(asked),))


@given(many, many)
@settings(deadline=None, max_examples=300)
def test_nothing_is_outside_exactly_if_the_issuer_covers_all(
    nets: list[Net], more: list[Net]
) -> None:
    own, issuer = (AddressBlocks.of(map(str, some)) for some in (nets, more))
    all_covered = not issuer.uncovered(tuple(Prefix(str(net)) for net in collapsed(nets)))
    assert (own.outside(issuer) == AddressBlocks()) == all_covered


@given(st.binary(max_size=64))
@settings(deadline=None, max_examples=300)
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    try:
        decode(octets)
    except ValueError:
        return


def collapsed(nets: list[Net]) -> list[Net]:
    """The fewest networks for the same addresses, IPv4 first."""
    v4 = [net for net in nets if isinstance(net, IPv4Network)]
    v6 = [net for net in nets if isinstance(net, IPv6Network)]
    return [*collapse_addresses(v4), *collapse_addresses(v6)]
