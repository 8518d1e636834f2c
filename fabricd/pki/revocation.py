"""Lists of revoked certificates (RFC 5280, 5): made by a CA, and asked about a certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import (
    Certificate,
    CertificateRevocationList,
    CertificateRevocationListBuilder,
    CRLNumber,
    CRLReason,
    ExtensionNotFound,
    ReasonFlags,
    RevokedCertificate,
    RevokedCertificateBuilder,
)

from fabricd.pki.authority import BACKDATE, Authority
from fabricd.pki.keys import hash_for

REASONS: Final = tuple(reason.value for reason in ReasonFlags if reason.value != "removeFromCRL")
"""CRLReason, by the names of RFC 5280; removeFromCRL is for lists of differences only."""


def updated(
    authority: Authority,
    before: CertificateRevocationList | None,
    serials: Mapping[int, str],
    *,
    days: int,
    now: float,
) -> CertificateRevocationList:
    """The CA's next list: all that was revoked `before`, and `serials` with their reasons.

    A serial that is revoked already stays as it is.
    """
    moment = datetime.fromtimestamp(int(now), UTC)
    builder = (
        CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(moment - BACKDATE)
        .next_update(moment + timedelta(days=days))
        .add_extension(authority.key_identifier, critical=False)
        .add_extension(CRLNumber(number_of(before) + 1), critical=False)
    )
    known = {entry.serial_number: entry for entry in before or ()}
    for entry in known.values():
        builder = builder.add_revoked_certificate(entry)
    for serial, reason in serials.items():
        if serial not in known:
            builder = builder.add_revoked_certificate(_entry(serial, reason, moment))
    return builder.sign(authority.key, hash_for(authority.key))


def number_of(crl: CertificateRevocationList | None) -> int:
    """The CRL number; 0 for a list without one, and for none."""
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(CRLNumber).value.crl_number
    except ExtensionNotFound:
        return 0


def reason_of(entry: RevokedCertificate) -> str:
    """Why it was revoked, by the names of RFC 5280."""
    try:
        return str(entry.extensions.get_extension_for_class(CRLReason).value.reason.value)
    except ExtensionNotFound:
        return "unspecified"


def is_by(crl: CertificateRevocationList, issuer: Certificate) -> bool:
    """Whether a CA signed this list."""
    try:
        return crl.issuer == issuer.subject and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def revocation_of(
    certificate: Certificate, crls: Iterable[CertificateRevocationList]
) -> RevokedCertificate | None:
    """The entry that revokes a certificate in one of its issuer's lists. Whether the issuer
    signed them is asked elsewhere: `is_by()`.
    """
    for crl in crls:
        if crl.issuer == certificate.issuer:
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                return entry
    return None


def _entry(serial: int, reason: str, moment: datetime) -> RevokedCertificate:
    builder = RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
    if reason != "unspecified":  # which is said by silence (RFC 5280, 5.3.1)
        builder = builder.add_extension(CRLReason(ReasonFlags(reason)), critical=False)
    return builder.build()
