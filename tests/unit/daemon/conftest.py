"""Credentials in real files, and a keyring that has read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fabricd.daemon.keyring import Keyring
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, encode

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Pki:
    """A CA whose certificates last 30 days, and the files of one node."""

    folder: Path

    def __post_init__(self) -> None:
        self.ca, self.cert, self.key = (
            self.folder / name for name in ("ca.crt", "node.crt", "node.key")
        )
        self.now = NOW.timestamp()
        self._authority = ec.generate_private_key(ec.SECP256R1())
        self._write_certificate(self.ca, "Root CA", self._authority, NOW)
        self.issue()

    def issue(self, days: int = 0) -> None:
        """A new key and certificate, `days` after now."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write_certificate(self.cert, "edge2", key, NOW + timedelta(days=days))
        self.key.touch(mode=0o600)
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def peer(
        self,
        name: str,
        *,
        days: int = 0,
        blocks: Sequence[str] = (),
        issuer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        """A certificate of another node, made `days` after now, valid for 30."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = NOW + timedelta(days=days)
        return _certificate(name, key, start, issuer or self._authority, blocks=blocks)

    def trust(self, *others: ec.EllipticCurvePrivateKey) -> None:
        """Write the CA file anew: the CA, and others by the same name."""
        keys = (self._authority, *others)
        made = [_certificate("Root CA", key, NOW, key) for key in keys]
        self.ca.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in made))

    def revoke(self, *certificates: x509.Certificate, number: int = 1) -> None:
        """The CA's revocation list, beside its certificate."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_dn("Root CA"))
            .last_update(NOW)
            .next_update(NOW + timedelta(days=30))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for certificate in certificates:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(NOW)
                .build()
            )
        crl = builder.sign(self._authority, hashes.SHA256())
        self.ca.with_suffix(".crl").write_bytes(crl.public_bytes(Encoding.PEM))

    def keyring(self) -> Keyring:
        return Keyring([self.ca], self.cert, self.key, lambda: self.now)

    def _write_certificate(
        self, path: Path, name: str, key: ec.EllipticCurvePrivateKey, start: datetime
    ) -> None:
        certificate = _certificate(name, key, start, self._authority)
        path.write_bytes(certificate.public_bytes(Encoding.PEM))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    start: datetime,
    issuer: ec.EllipticCurvePrivateKey,
    *,
    blocks: Sequence[str] = (),
) -> x509.Certificate:
    ca = key is issuer
    builder = (
        x509.CertificateBuilder()
        .issuer_name(_dn("Root CA"))
        .subject_name(_dn(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=300 if ca else 30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if blocks:
        extension = x509.UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(blocks))
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(issuer, hashes.SHA256())


def _dn(name: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(f"CN={name},O=StrongSwan,C=CN")


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    folder = tmp_path / "pki"
    folder.mkdir()
    return Pki(folder)


@pytest.fixture
def keyring(pki: Pki) -> Keyring:
    return pki.keyring()
