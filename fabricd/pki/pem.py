"""Certificates, keys, requests and CRLs read from PEM files, each fault with its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import (
    Certificate,
    CertificateRevocationList,
    CertificateSigningRequest,
    load_pem_x509_certificates,
    load_pem_x509_crl,
    load_pem_x509_csr,
)

from fabricd.pki.certificate import ODD
from fabricd.pki.fault import PkiError
from fabricd.pki.keys import PrivateKey

READABLE_BY_OTHERS: Final = 0o077

CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def read_certificates(path: Path) -> list[Certificate]:
    """At least one certificate. Raises PkiError."""
    content = _read(path)
    try:
        return load_pem_x509_certificates(content)
    except ODD as error:
        raise _unreadable(path, "no certificate in PEM form", error) from error


def read_private_key(path: Path) -> PrivateKey:
    """A key in clear that can sign. Raises PkiError."""
    content = _read(path)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise PkiError(f"{path}: the key is encrypted: it must be in clear, mode 600") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable(path, "no private key in PEM form", error) from error
    if not isinstance(key, PrivateKey):
        raise PkiError(f"{path}: not a key that charon can sign with: ECDSA, RSA or EdDSA")
    return key


def read_request(path: Path) -> CertificateSigningRequest:
    """A PKCS#10 request. Raises PkiError."""
    content = _read(path)
    try:
        return load_pem_x509_csr(content)
    except ODD as error:
        raise _unreadable(path, "no certificate request in PEM form", error) from error


def read_crls(path: Path) -> list[CertificateRevocationList]:
    """At least one CRL: during a change of CAs there is one of each. Raises PkiError."""
    found = CRL.findall(_read(path))
    if not found:
        raise PkiError(f"{path}: no CRL in PEM form")
    try:
        return [load_pem_x509_crl(pem) for pem in found]
    except ODD as error:
        raise _unreadable(path, "no CRL in PEM form", error) from error


def readable_by_others(path: Path) -> bool:
    """Whether a key's file lets group or others in. Raises PkiError."""
    try:
        return bool(path.stat().st_mode & READABLE_BY_OTHERS)
    except OSError as error:
        raise PkiError(f"{path}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PkiError(f"{path}: {error.strerror}") from error


def _unreadable(path: Path, what: str, error: Exception) -> PkiError:
    return PkiError(f"{path}: {what}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What a library says, without the hints that follow it."""
    return str(error).partition("\n")[0] or type(error).__name__
