"""Certificates for an API server and its clients, and kubeconfig files that name them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SIGNS = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class KubePki:
    """A cluster's CA in a folder, which is made if it is not there: `ca.crt`, and what it issues as
    `NAME.crt` and `NAME.key`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        certificate = (
            _builder(self._name, self._name, self._key, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_SIGNS, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = _install(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *addresses: str) -> None:
        """`server.crt`, for these addresses."""
        self._issue("server", "kube-apiserver", ExtendedKeyUsageOID.SERVER_AUTH, addresses)

    def client(self, name: str, file: str = "") -> tuple[Path, Path]:
        """Certificate and key of a user, which are replaced if they are there."""
        return self._issue(file or name, name, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def kubeconfig(self, url: str, name: str = "kubeconfig", **user: Any) -> Path:
        """A kubeconfig for a server; `user` is what stands under `user`, with _ for -."""
        named = {key.replace("_", "-"): value for key, value in user.items()}
        named |= {"tokenFile": named.pop("token-file")} if "token-file" in named else {}
        return _install(
            self.folder / name,
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": url,
                                "certificate-authority-data": base64.b64encode(
                                    self.ca.read_bytes()
                                ).decode(),
                            },
                        }
                    ],
                    "users": [{"name": "me", "user": named}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
                }
            ).encode(),
        )

    def _issue(
        self, file: str, name: str, usage: x509.ObjectIdentifier, addresses: tuple[str, ...]
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, key, self._key).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if addresses:
            names = [x509.IPAddress(ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return (
            _install(
                self.folder / f"{file}.crt",
                certificate.public_bytes(serialization.Encoding.PEM),
            ),
            _install(self.folder / f"{file}.key", pem),
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        # Python 3.13 takes no certificate without, in the tests that are no client of ours.
        .add_extension(own, critical=False)
        .add_extension(above, critical=False)
    )


def _install(path: Path, content: bytes) -> Path:
    """Put a file in the place of the one that is there."""
    new = path.with_name(f".{path.name}")
    new.touch(mode=0o600)
    new.write_bytes(content)
    return new.replace(path)
