"""Credentials in real files, and a keyring that has read them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fabricd.daemon.keyring import Keyring

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

    def keyring(self) -> Keyring:
        return Keyring([self.ca], self.cert, self.key, lambda: self.now)

    def _write_certificate(
        self, path: Path, name: str, key: ec.EllipticCurvePrivateKey, start: datetime
    ) -> None:
        ca = key is self._authority
        certificate = (
            x509.CertificateBuilder()
            .issuer_name(_dn("Root CA"))
            .subject_name(_dn(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=300 if ca else 30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self._authority, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(Encoding.PEM))


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
