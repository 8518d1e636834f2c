"""Names, and prefixes and addresses in the one form in which they compare."""

from __future__ import annotations

import re

import pytest

from fabricd.model import NAME_PATTERN, Prefix, Rejection, address, family, first_host, prefix


@pytest.mark.parametrize("name", ["a", "7", "edge2", "edge-2.site9", "x" * 63, "a..b", "0-0"])
def test_a_name(name: str) -> None:
    assert re.fullmatch(NAME_PATTERN, name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", ".a", "a.", "Edge", "a_b", "a/b", "a b", "x" * 64, "a\n", "é"]
)
def test_no_name(name: str) -> None:
    assert not re.fullmatch(NAME_PATTERN, name)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2.2.2.0/27", "2.2.2.0/27"),
        ("2.2.2.0/255.255.255.224", "2.2.2.0/27"),
        ("2.2.2.7", "2.2.2.7/32"),
        ("FD00:0:0:0::/64", "fd00::/64"),
    ],
)
def test_prefixes_have_one_form(written: str, canonical: str) -> None:
    assert prefix(written) == canonical


@pytest.mark.parametrize("text", ["", "2.2.2.1/27", "2.2.2.0/33", "fd00::1/64", "2.2.2/24", "all"])
def test_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        prefix(text)


def test_addresses_have_one_form() -> None:
    assert address("FD00:0::0:1") == "fd00::1"
    with pytest.raises(ValueError, match=r"."):
        address("10.20.8.4/24")


def test_family() -> None:
    assert [family(text) for text in ("2.2.2.0/27", "10.0.0.1", "fd00::/64", "::1")] == [4, 4, 6, 6]


@pytest.mark.parametrize(
    ("subnet", "host"),
    [
        ("2.2.2.32/27", "2.2.2.33"),
        ("2.2.2.4/30", "2.2.2.5"),
        ("2.2.2.4/31", "2.2.2.4"),  # RFC 3021: no network address to skip
        ("2.2.2.4/32", "2.2.2.4"),
        ("fd00:2::/64", "fd00:2::1"),
        ("fd00:2::2/127", "fd00:2::2"),  # RFC 6164
        ("fd00:2::9/128", "fd00:2::9"),
    ],
)
def test_first_host_is_the_gateway_address(subnet: str, host: str) -> None:
    assert first_host(Prefix(subnet)) == host


def test_a_rejection_names_key_field_and_reason() -> None:
    assert str(Rejection("nodes/a", "subnets", "is required")) == "nodes/a: subnets: is required"
    assert str(Rejection("nodes/a", "", "not a JSON object")) == "nodes/a: not a JSON object"
