"""Certificates that are the same in every run: by fixed keys, with signatures that know no chance.

What a node has on its disk is a `Credentials`, as the daemon would have read it from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fabricd.ike import Credentials, load_credentials
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, encode
from fabricd.pki.verify import is_issued_by

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When every simulation begins."""

YEARS: Final = timedelta(days=3650)


@lru_cache(maxsize=1024)
def credentials(
    node: str, issue: int = 1, ca: str = "Root CA", trusted: tuple[str, ...] = ("Root CA",)
) -> Credentials:
    """The `issue`-th certificate of a node by `ca`, and the CAs that it trusts."""
    authority = _key(ca)
    key = _key(f"{node} {issue}")
    own = _certificate(node, key, ca, authority, serial=issue)
    issuers = [_certificate(name, _key(name), name, _key(name), serial=1) for name in trusted]
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ca.crt", "node.crt", "node.key")]
        paths[0].write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in issuers))
        paths[1].write_bytes(own.public_bytes(Encoding.PEM))
        paths[2].touch(mode=0o600)
        paths[2].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return load_credentials([paths[0]], paths[1], paths[2], EPOCH.timestamp())


@lru_cache(maxsize=4096)
def trusts(authorities: tuple[bytes, ...], certificate: bytes) -> bool:
    """Whether one of the CA certificates (PEM) vouches for a certificate (PEM)."""
    own = x509.load_pem_x509_certificate(certificate)
    return any(is_issued_by(own, x509.load_pem_x509_certificate(ca)) for ca in authorities)


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def _certificate(
    name: str,
    key: Ed25519PrivateKey,
    issuer: str,
    authority: Ed25519PrivateKey,
    *,
    serial: int,
    blocks: Sequence[str] = (),
) -> x509.Certificate:
    is_ca = name == issuer
    builder = (
        x509.CertificateBuilder()
        .issuer_name(_dn(issuer))
        .subject_name(_dn(name))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(sha256(f"{name} {serial}".encode()).digest()[:8]))
        .not_valid_before(EPOCH - YEARS + timedelta(hours=serial))
        .not_valid_after(EPOCH + YEARS)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if blocks:
        extension = x509.UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(blocks))
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(authority, None)


def _dn(name: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(f"CN={name},O=StrongSwan,C=CN")
