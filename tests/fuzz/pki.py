"""Certificates, requests, revocation lists, keys, names and address blocks, whoever made them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fabricd.ike.crl import listed_crl, read_crls
from fabricd.model import Prefix
from fabricd.pki import pem
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, blocks_of, decode, encode
from fabricd.pki.certificate import describe, read
from fabricd.pki.fault import PkiError
from fabricd.pki.names import alternative_of, identity_of, is_name, name_of
from fabricd.pki.request import requested_key, requested_name
from tests.fuzz.harness import Target

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECT: Final = name_of("C=CN, O=StrongSwan, CN=edge2")


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(7, ec.SECP256R1())


@functools.cache
def _certificate() -> x509.Certificate:
    blocks = x509.UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(["2.2.2.0/27", "fd00:2::/64"]))
    names = x509.SubjectAlternativeName([x509.DNSName("edge2"), x509.RFC822Name("a@b.example")])
    return (
        x509.CertificateBuilder(SUBJECT, SUBJECT, _key().public_key(), 77)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(blocks, critical=True)
        .sign(_key(), hashes.SHA256())
    )


@functools.cache
def _list() -> x509.CertificateRevocationList:
    revoked = x509.RevokedCertificateBuilder(9, START).build()
    return (
        x509.CertificateRevocationListBuilder(SUBJECT, START, START + timedelta(days=1))
        .add_revoked_certificate(revoked)
        .add_extension(x509.CRLNumber(3), critical=False)
        .sign(_key(), hashes.SHA256())
    )


@functools.cache
def _request() -> x509.CertificateSigningRequest:
    names = x509.SubjectAlternativeName([x509.DNSName("edge2")])
    builder = x509.CertificateSigningRequestBuilder(SUBJECT).add_extension(names, critical=False)
    return builder.sign(_key(), hashes.SHA256())


class _File:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __str__(self) -> str:
        return "file.pem"

    def read_bytes(self) -> bytes:
        return self._data


def _of_file(read_file: Callable[[Any], object]) -> Callable[[bytes], object]:
    def feed(data: bytes) -> object:
        try:
            return read_file(_File(data))
        except PkiError as error:
            faults = error.faults
        assert all(fault.startswith("file.pem: ") and "\n" not in fault for fault in faults), faults
        return "; ".join(faults)

    return feed


def _certificates(path: Any) -> object:
    said = []
    for certificate in pem.read_certificates(path):
        try:
            said.append(repr(describe(certificate)))
        except ValueError as error:
            said.append(_line(error))
    return said


def _requested(path: Any) -> object:
    request = pem.read_request(path)
    said = []
    for ask in (requested_name, requested_key):
        try:
            said.append(repr(ask(request)))
        except PkiError as error:
            said.append(str(error))
    return said


def _der(data: bytes) -> object:
    certificate, about = read(data)
    blocks_of(certificate)
    about.validity(0.0)
    return about


def _crl_of_charon(data: bytes) -> object:
    listed_crl.cache_clear()
    return listed_crl(data).revoked


def _crl_file(data: bytes) -> object:
    return [found.number for found in read_crls(data, [_certificate()])]


def _blocks(data: bytes) -> object:
    found = decode(data)
    found.covers(Prefix("2.2.2.0/27"))
    found.outside(decode(encode(["2.0.0.0/8"])))
    return found.texts()


def _name(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    if not is_name(text):
        return alternative_of(text).value
    made = name_of(text)
    again = name_of(identity_of(made)) if identity_of(made).isascii() else made
    return again.rfc4514_string()


def _line(error: Exception) -> str:
    said = str(error)
    assert "\n" not in said, said
    return said


def _one_line(feed: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """The error is one line."""

    def checked(data: bytes) -> object:
        try:
            return feed(data)
        except ValueError as error:
            return _line(error)

    return checked


def _both(item: Any) -> Iterator[bytes]:
    yield item.public_bytes(Encoding.PEM)
    yield item.public_bytes(Encoding.PEM) * 2


def _keys() -> Iterator[bytes]:
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        yield _key().private_bytes(Encoding.PEM, form, NoEncryption())


TARGETS: Final = (
    Target("certificate", _one_line(_der), lambda: [_certificate().public_bytes(Encoding.DER)]),
    Target("certificate-pem", _of_file(_certificates), lambda: _both(_certificate())),
    Target("request-pem", _of_file(_requested), lambda: _both(_request())),
    Target("key-pem", _of_file(pem.read_private_key), _keys),
    Target("crl-pem", _of_file(pem.read_crls), lambda: _both(_list())),
    Target("crl", _one_line(_crl_of_charon), lambda: [_list().public_bytes(Encoding.DER)]),
    Target("crl-file", _one_line(_crl_file), lambda: _both(_list())),
    Target(
        "blocks",
        _one_line(_blocks),
        lambda: [encode(["2.2.2.0/27", "2.2.2.32/28"]), encode(["fd00::/8", "10.0.0.0/9"])],
    ),
    Target("name", _one_line(_name), lambda: [b"C=CN, O=StrongSwan, CN=edge2", b"@edge2", b"a@b"]),
)
