"""Certificate revocation lists: read from files and from what charon lists, named alike.

Of two lists by one issuer charon keeps the one with the higher number, and forgets none: so a
list is known by its issuer, and compared by its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    AuthorityKeyIdentifier,
    Certificate,
    CertificateRevocationList,
    CRLNumber,
    ExtensionNotFound,
    load_der_x509_crl,
    load_pem_x509_crl,
)

from fabricd.pki.certificate import ODD
from fabricd.pki.pem import CRL
from fabricd.pki.revocation import is_by


@dataclass(frozen=True)
class Crl:
    """One list."""

    issuer: str
    """The issuer's subject and, if the list tells it, 12 hex digits of its key identifier: CAs that
    follow one another may share a name."""
    number: int
    """RFC 5280, 5.2.3; of a list without one, when it was made, Unix seconds."""
    revoked: Mapping[int, float]
    """Serial number to when it was revoked, Unix seconds."""
    next_update: float | None
    """Unix seconds by which another list was promised."""
    der: bytes = field(repr=False)

    def revokes(self, certificate: Certificate) -> float | None:
        """When this list revoked a certificate, Unix seconds; None: it does not."""
        if _issuer_of(certificate) != self.issuer:
            return None
        return self.revoked.get(certificate.serial_number)


def read_crls(content: bytes, issuers: Sequence[Certificate]) -> list[Crl]:
    """The lists in a PEM or DER file, each signed by one of `issuers`.

    Raises ValueError with one line.
    """
    blocks = CRL.findall(content)
    try:
        lists = [load_pem_x509_crl(block) for block in blocks] or [load_der_x509_crl(content)]
    except ODD as error:
        raise ValueError("no certificate revocation list in PEM or DER form") from error
    try:
        strangers = [
            item.issuer.rfc4514_string()
            for item in lists
            if not any(is_by(item, issuer) for issuer in issuers)
        ]
        found = [_crl(item) for item in lists]
    except ODD as error:
        raise ValueError(f"a revocation list that can't be read: {error}") from error
    for name in strangers:
        raise ValueError(f"the revocation list by {name} is signed by none of the CAs")
    return found


@lru_cache(maxsize=64)
def listed_crl(der: bytes) -> Crl:
    """A list that charon has, whoever made it. Raises ValueError."""
    try:
        return _crl(load_der_x509_crl(der))
    except ODD as error:
        raise ValueError(f"a revocation list that can't be read: {error}") from error


def _crl(item: CertificateRevocationList) -> Crl:
    update = item.next_update_utc
    return Crl(
        issuer=_issuer(item),
        number=_number(item),
        revoked=MappingProxyType(
            {entry.serial_number: entry.revocation_date_utc.timestamp() for entry in item}
        ),
        next_update=update.timestamp() if update else None,
        der=item.public_bytes(Encoding.DER),
    )


@lru_cache(maxsize=16384)
def _issuer_of(certificate: Certificate) -> str:
    return _issuer(certificate)


def _issuer(item: Certificate | CertificateRevocationList) -> str:
    """The issuer of a certificate or a list, as `Crl.issuer`."""
    name = item.issuer.rfc4514_string()
    try:
        found = item.extensions.get_extension_for_class(AuthorityKeyIdentifier).value
    except (ExtensionNotFound, *ODD):
        return name
    key = (found.key_identifier or b"").hex()[:12]
    return f"{name} {key}".rstrip()


def _number(item: CertificateRevocationList) -> int:
    try:
        return item.extensions.get_extension_for_class(CRLNumber).value.crl_number
    except ExtensionNotFound:
        return int(item.last_update_utc.timestamp())
