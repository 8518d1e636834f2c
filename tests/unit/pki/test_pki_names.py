"""Identities and names: the octets are those that strongSwan's own tools make (tests/lab)."""

from __future__ import annotations

import pytest
from cryptography.x509 import DNSName, Name, NameAttribute, RFC822Name
from cryptography.x509.oid import NameOID

from fabricd.pki.names import alternative_of, identity_of, is_name, name_of

PRINTABLE, UTF8, IA5 = 0x13, 0x0C, 0x16


def string_types(name: Name) -> list[int]:
    """The ASN.1 tags of the values: each RDN is SET, SEQUENCE, OID, value."""
    der, found = name.public_bytes(), []
    at = 2
    while at < len(der):
        end = at + 2 + der[at + 1]
        oid_length = der[at + 5]
        found.append(der[at + 6 + oid_length])
        at = end
    return found


def test_the_seed_s_name() -> None:
    name = name_of("C=CN, O=StrongSwan, CN=edge2")
    assert name.public_bytes().hex() == (
        "3032310b300906035504061302434e3113301106035504 0a130a5374726f6e675377616e"
        "310e300c06035504031305 6564676532".replace(" ", "")
    )
    assert identity_of(name) == "C=CN, O=StrongSwan, CN=edge2"


@pytest.mark.parametrize(
    ("identity", "types", "printed"),
    [
        ("cn = edge2 ,o=A  B", [PRINTABLE, PRINTABLE], "CN=edge2, O=A  B"),
        ("O=Fabric & Co, CN=e_1", [UTF8, UTF8], "O=Fabric & Co, CN=e_1"),
        ("O=Übung, E=a@b.c", [UTF8, IA5], "O=??bung, E=a@b.c"),
        ("emailAddress=a@b.c, UN=x", [IA5, IA5], "E=a@b.c, unstructuredName=x"),
        ("DC=org, UID=7, EN=4", [PRINTABLE] * 3, "DC=org, UID=7, employeeNumber=4"),
        ("CN=a=b", [PRINTABLE], "CN=a=b"),
    ],
)
def test_string_types_are_charon_s(identity: str, types: list[int], printed: str) -> None:
    name = name_of(identity)
    assert string_types(name) == types
    assert identity_of(name) == printed


def test_order_is_kept() -> None:
    assert identity_of(name_of("CN=a, O=b, C=CN")) == "CN=a, O=b, C=CN"


def test_a_type_that_charon_has_no_name_for() -> None:
    other = Name([NameAttribute(NameOID.BUSINESS_CATEGORY, "x")])
    assert identity_of(other) == "55:04:0f=x"
    assert identity_of(Name([])) == ""


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ("edge2", "'edge2' is not TYPE=VALUE"),
        ("CN=", "'CN=' is not TYPE=VALUE"),
        ("CN=a,,O=b", "'' is not TYPE=VALUE"),
        ("XX=3", "charon knows no 'XX'"),
        ("C=CHN", "C has more than 2 characters"),
        ("C=C", "two letters"),
        (f"CN={65 * 'a'}", "CN has more than 64 characters"),
        ("E=ü@b.c", "E must be ASCII"),
        (", ".join(["OU=a"] * 21), "more than 20 parts"),
    ],
)
def test_what_charon_would_not_take(identity: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        name_of(identity)


@pytest.mark.parametrize(
    ("identity", "alternative"),
    [
        ("edge2.example.org", DNSName("edge2.example.org")),
        ("@edge2", DNSName("edge2")),
        ("edge2@example.org", RFC822Name("edge2@example.org")),
    ],
)
def test_an_identity_that_is_no_name(identity: str, alternative: DNSName | RFC822Name) -> None:
    assert not is_name(identity)
    assert alternative_of(identity) == alternative


@pytest.mark.parametrize("identity", ["CN=edge2", "", "@", "a@b@c", "é.org"])
def test_no_alternative(identity: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an e-mail address"):
        alternative_of(identity)
