"""Certificates and keys: made by strongSwan's `pki` as the proof of concept did, and by hand."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fabricd.ike import CredentialError, Credentials, load_credentials

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

NOW = datetime(2025, 6, 1, tzinfo=UTC)
START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Pki:
    """Files of certificates and keys in a directory."""

    directory: Path

    def certificate(
        self,
        name: str,
        key: Key,
        issuer: tuple[str, Key] | None = None,
        *,
        ca: bool = False,
        start: datetime = START,
        end: datetime = END,
    ) -> Path:
        issuer_name, issuer_key = issuer or (name, key)
        builder = x509.CertificateBuilder(
            issuer_name=_dn(issuer_name),
            subject_name=_dn(name),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=start,
            not_valid_after=end,
        ).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        made = builder.sign(issuer_key, algorithm)
        path = self.directory / f"{name}.crt"
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path

    def key(
        self,
        name: str,
        key: Key,
        mode: int = 0o600,
        form: PrivateFormat = PrivateFormat.PKCS8,
        password: bytes | None = None,
    ) -> Path:
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        path = self.directory / f"{name}.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption))
        path.chmod(mode)
        return path


def _dn(name: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(f"CN={name},O=StrongSwan,C=CN")


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


CA_KEY = ec.generate_private_key(ec.SECP256R1())
NODE_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
CA = ("Root CA", CA_KEY)


def load(ca: Path | list[Path], cert: Path, key: Path, now: datetime = NOW) -> Credentials:
    return load_credentials(ca if isinstance(ca, list) else [ca], cert, key, now.timestamp())


def faults(ca: Path | list[Path], cert: Path, key: Path, now: datetime = NOW) -> list[str]:
    with pytest.raises(CredentialError) as caught:
        load(ca, cert, key, now)
    return caught.value.faults


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "ecdsa", "ed25519"],
)
def test_any_type_of_key(pki: Pki, key: Key) -> None:
    ca = pki.certificate("Root CA", key, ca=True)
    cert, private = pki.certificate("edge2", key, ("Root CA", key)), pki.key("edge2", key)
    found = load(ca, cert, private)
    assert found.subject == "C=CN, O=StrongSwan, CN=edge2"
    assert found.key == private.read_bytes()
    assert x509.load_pem_x509_certificate(found.certificate).subject == _dn("edge2")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_either_form_of_pem(pki: Pki, form: PrivateFormat) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY, form=form)
    assert load(ca, cert, key).key == key.read_bytes()


def test_authorities_are_named_by_their_der(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    der = x509.load_pem_x509_certificate(ca.read_bytes()).public_bytes(Encoding.DER)
    name = "fabric-ca-" + sha256(der).hexdigest()[:12]
    assert load(ca, cert, key).authorities == {name: ca.read_bytes()}


def test_one_file_may_hold_several_cas_and_several_files_may_be_named(pki: Pki) -> None:
    one = pki.certificate("Root CA", CA_KEY, ca=True)
    two = pki.certificate("Next CA", OTHER_KEY, ca=True)
    both = pki.directory / "both.crt"
    both.write_bytes(b"a comment\n" + two.read_bytes() + one.read_bytes())
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    found = load(both, cert, key)
    assert sorted(found.authorities.values()) == sorted([one.read_bytes(), two.read_bytes()])
    assert found == load([one, two], cert, key) == load([two, one, both], cert, key)
    assert found.digest != load(one, cert, key).digest


def test_another_certificate_is_another_digest(pki: Pki) -> None:
    ca, key = pki.certificate("Root CA", CA_KEY, ca=True), pki.key("edge2", NODE_KEY)
    first = load(ca, pki.certificate("edge2", NODE_KEY, CA), key)
    second = load(ca, pki.certificate("edge2", NODE_KEY, CA), key)
    assert first.digest != second.digest
    assert first.key_id == second.key_id


def test_expiry_of_everything_in_unix_seconds(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True, end=END + timedelta(days=9))
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert load(ca, cert, key).expiry == {
        "C=CN, O=StrongSwan, CN=edge2": END.timestamp(),
        "C=CN, O=StrongSwan, CN=Root CA": (END + timedelta(days=9)).timestamp(),
    }


def test_the_private_key_is_not_printed(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert "PRIVATE KEY" not in repr(load(ca, cert, key))


def test_missing_files_are_all_named_at_once(tmp_path: Path) -> None:
    ca, cert, key = tmp_path / "ca.crt", tmp_path / "node.crt", tmp_path / "node.key"
    assert faults(ca, cert, key) == [
        f"{ca}: No such file or directory",
        f"{cert}: No such file or directory",
        f"{key}: No such file or directory",
    ]


def test_files_that_are_not_pem(pki: Pki) -> None:
    ca, cert, key = (pki.directory / name for name in ("ca.crt", "node.crt", "node.key"))
    for path in (ca, cert, key):
        path.write_bytes(b"\x30\x82\x01")
        path.chmod(0o600)
    first, second, third = faults(ca, cert, key)
    assert first.startswith(f"{ca}: no certificate in PEM form: ")
    assert second.startswith(f"{cert}: no certificate in PEM form: ")
    assert third.startswith(f"{key}: no private key in PEM form: ")


def test_damaged_pem(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    for path in (cert, key):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *lines[2:]]))
    first, second = faults(ca, cert, key)
    assert first.startswith(f"{cert}: no certificate in PEM form: ")
    assert second.startswith(f"{key}: no private key in PEM form: ")


def test_a_key_of_another_certificate(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", OTHER_KEY)
    assert faults(ca, cert, key) == [f"{key}: does not belong to the certificate in {cert}"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644])
def test_a_key_that_others_may_read(pki: Pki, mode: int) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY, mode)
    assert faults(ca, cert, key) == [f"{key}: others may read the private key: chmod 600 {key}"]


def test_an_encrypted_key(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("e", NODE_KEY, password=b"x")
    assert faults(ca, cert, key) == [
        f"{key}: the private key is encrypted; it must be in clear, mode 600"
    ]


def test_an_issuer_that_is_none_of_the_cas(pki: Pki) -> None:
    same_name = pki.certificate("Root CA", OTHER_KEY, ca=True)
    other_name = pki.certificate("Other CA", CA_KEY, ca=True)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert faults([same_name, other_name], cert, key) == [
        f"{cert}: issued by C=CN, O=StrongSwan, CN=Root CA, which is none of the CAs in "
        f"{same_name}, {other_name}"
    ]


def test_no_ca_at_all(pki: Pki) -> None:
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert faults([], cert, key) == ["no file with a CA certificate is named"]


def test_a_ca_that_is_none(pki: Pki) -> None:
    ca = pki.certificate("Root CA", CA_KEY)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert faults(ca, cert, key) == [
        f"{ca}: C=CN, O=StrongSwan, CN=Root CA is no CA certificate (basicConstraints)"
    ]


def test_the_certificate_in_time(pki: Pki) -> None:
    late, early = END + timedelta(days=99), START - timedelta(days=99)
    ca = pki.certificate("Root CA", CA_KEY, ca=True, start=early, end=late)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert load(ca, cert, key, START) == load(ca, cert, key, END)
    assert faults(ca, cert, key, END + timedelta(seconds=1)) == [
        f"{cert}: the certificate expired 2026-01-01 00:00:00 UTC"
    ]
    assert faults(ca, cert, key, START - timedelta(seconds=1)) == [
        f"{cert}: the certificate is not valid before 2025-01-01 00:00:00 UTC: is the clock right?"
    ]


def test_the_ca_in_time_but_only_the_one_that_matters(pki: Pki) -> None:
    past = START + timedelta(days=1)
    old = pki.certificate("Old CA", OTHER_KEY, ca=True, end=past)
    ca = pki.certificate("Root CA", CA_KEY, ca=True, end=past)
    cert, key = pki.certificate("edge2", NODE_KEY, CA), pki.key("edge2", NODE_KEY)
    assert faults([ca, old], cert, key) == [
        f"{ca}, {old}: the CA of {cert} expired 2025-01-02 00:00:00 UTC"
    ]
    expired = ca.rename(pki.directory / "expired.crt")
    renewed = pki.certificate("Root CA", CA_KEY, ca=True)  # with the same key
    assert len(load([expired, old, renewed], cert, key).authorities) == 3


def test_several_faults_are_all_told(pki: Pki) -> None:
    ca = pki.certificate("Other CA", OTHER_KEY, ca=True)
    cert = pki.certificate("edge2", NODE_KEY, CA)
    key = pki.key("edge2", OTHER_KEY, 0o644)
    assert len(faults(ca, cert, key, END + timedelta(days=1))) == 4


@pytest.mark.skipif(shutil.which("pki") is None, reason="needs strongSwan's pki")
@pytest.mark.parametrize(
    ("ca", "node"),
    [
        (["rsa", "--size", "4096"], ["rsa", "--size", "2048"]),
        (["ecdsa", "--size", "256"], ["ecdsa", "--size", "256"]),
        (["ed25519"], ["ed25519"]),
    ],
    ids=["rsa", "ecdsa", "ed25519"],
)
def test_what_strongswan_pki_makes(tmp_path: Path, ca: list[str], node: list[str]) -> None:
    """The commands of the proof of concept, `ipsec pki` being `pki`."""
    script = f"""
        umask 077
        pki --gen --type {" ".join(ca)} --outform pem > ca.key
        pki --self --ca --lifetime 3650 --in ca.key --type {ca[0]} \
            --dn "C=CN, O=StrongSwan, CN=Root CA" --outform pem > ca.crt
        pki --gen --type {" ".join(node)} --outform pem > edge2.key
        pki --pub --in edge2.key --type {"priv" if node[0] == "ed25519" else node[0]} |
            pki --issue --lifetime 730 --cacert ca.crt --cakey ca.key \
            --dn "C=CN, O=StrongSwan, CN=edge2" --san edge2 \
            --flag serverAuth --flag ikeIntermediate --outform pem > edge2.crt
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    key = tmp_path / "edge2.key"
    now = datetime.now(UTC)
    found = load(tmp_path / "ca.crt", tmp_path / "edge2.crt", key, now)
    assert found.subject == "C=CN, O=StrongSwan, CN=edge2"
    assert len(found.expiry) == 2
    printed = subprocess.run(
        ["pki", "--print", "--type", "priv", "--in", key],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.key_id in printed.replace(":", "")
