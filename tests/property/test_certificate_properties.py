"""Whatever charon has met and lists: a certificate or a list is read, or refused in one way."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricd.ike.crl import listed_crl
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, encode
from fabricd.pki.certificate import read

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name.from_rfc4514_string("CN=edge3,O=StrongSwan,C=CN")

CERTIFICATE = (
    x509.CertificateBuilder()
    .issuer_name(NAME)
    .subject_name(NAME)
    .public_key(KEY.public_key())
    .serial_number(77)
    .not_valid_before(NOW)
    .not_valid_after(NOW + timedelta(days=9))
    .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("edge3")]), critical=False)
    .add_extension(
        x509.UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(["2.2.2.32/27"])), critical=True
    )
    .sign(KEY, hashes.SHA256())
    .public_bytes(Encoding.DER)
)
CRL = (
    x509.CertificateRevocationListBuilder()
    .issuer_name(NAME)
    .last_update(NOW)
    .next_update(NOW + timedelta(days=9))
    .add_extension(x509.CRLNumber(3), critical=False)
    .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key()), False)
    .add_revoked_certificate(
        x509.RevokedCertificateBuilder().serial_number(77).revocation_date(NOW).build()
    )
    .sign(KEY, hashes.SHA256())
    .public_bytes(Encoding.DER)
)

changes = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)


def damaged(der: bytes, places: list[tuple[int, int]]) -> bytes:
    octets = bytearray(der)
    for place, value in places:
        octets[place % len(octets)] = value
    return bytes(octets)


@settings(max_examples=1500)
@given(changes)
def test_an_odd_certificate_is_a_value_error_or_none(places: list[tuple[int, int]]) -> None:
    with suppress(ValueError):
        read(damaged(CERTIFICATE, places))


@settings(max_examples=1500)
@given(changes)
def test_an_odd_list_is_a_value_error_or_none(places: list[tuple[int, int]]) -> None:
    with suppress(ValueError):
        listed_crl(damaged(CRL, places))


@given(st.binary(max_size=200))
def test_rubbish_is_a_value_error(octets: bytes) -> None:
    for parse in (read, listed_crl):
        with suppress(ValueError):
            parse(octets)
