"""Whether charon will take a certificate, and if not, everything that is wrong with it.

The questions are charon's: by whom, since when and until when, revoked, address blocks (see
`authority`). What belongs to whom on the disk is asked where files are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import (
    Certificate,
    CertificateRevocationList,
    ExtensionNotFound,
    KeyUsage,
    RevokedCertificate,
)

from fabricd.pki.blocks import AddressBlocks
from fabricd.pki.certificate import Description, Validity, describe
from fabricd.pki.keys import usable
from fabricd.pki.names import identity_of
from fabricd.pki.revocation import is_by, reason_of, revocation_of


@dataclass(frozen=True)
class Trust:
    """The CAs, their lists of revoked certificates, and the time (Unix seconds)."""

    authorities: Sequence[Certificate]
    crls: Sequence[CertificateRevocationList]
    now: float

    def revocation(self, certificate: Certificate) -> RevokedCertificate | None:
        """The entry that revokes a certificate, in a list that a CA of ours signed."""
        signed = [crl for crl in self.crls if any(is_by(crl, ca) for ca in self.authorities)]
        return revocation_of(certificate, signed)

    def faults(self, certificate: Certificate) -> list[str]:
        """What is wrong with a node's certificate, a line each; none if charon will take it."""
        try:
            own = _read(certificate)
        except (ValueError, UnsupportedAlgorithm) as error:
            return [str(error)]
        faults = _clock_faults("", own, self.now)
        entry = self.revocation(certificate)
        if entry is not None:
            faults.append(f"revoked {_utc(entry.revocation_date_utc)} ({reason_of(entry)})")
        issuers = [ca for ca in self.authorities if is_issued_by(certificate, ca)]
        if not issuers:
            return [*faults, f"issued by {own.issuer}, which is none of the CAs"]
        by_issuer = [self._issuer_faults(own.blocks, ca) for ca in issuers]
        return faults + min(by_issuer, key=len)

    def authority_faults(self, certificate: Certificate) -> list[str]:
        """What is wrong with a CA's certificate."""
        try:
            own = _read(certificate)
        except (ValueError, UnsupportedAlgorithm) as error:
            return [str(error)]
        faults = _clock_faults("", own, self.now)
        if not own.authority:
            faults.append("is no CA certificate (basicConstraints)")
        if not _may_sign(certificate):
            faults.append("may not sign certificates (keyUsage)")
        if own.subject == own.issuer and not is_issued_by(certificate, certificate):
            faults.append("its signature is wrong")
        if own.blocks is not None and own.blocks.inherits:
            faults.append("inherits its address blocks, which charon does not support")
        return faults

    def crl_faults(self, crl: CertificateRevocationList) -> list[str]:
        """What is wrong with a list of revoked certificates."""
        faults = []
        if not any(is_by(crl, ca) for ca in self.authorities):
            faults.append(f"signed by {identity_of(crl.issuer)}, which is none of the CAs")
        end = crl.next_update_utc
        if end is not None and end.timestamp() < self.now:
            faults.append(f"out of date since {_utc(end)}: fabricctl pki crl")
        return faults

    def _issuer_faults(self, blocks: AddressBlocks | None, ca: Certificate) -> list[str]:
        try:
            issuer = describe(ca)
        except ValueError as error:
            return [f"the CA's certificate: {error}"]
        faults = _clock_faults("the CA's certificate ", issuer, self.now)
        if not issuer.authority:
            faults.append("its issuer is no CA (basicConstraints)")
        return faults + block_faults(blocks, issuer.blocks)


def block_faults(own: AddressBlocks | None, issuer: AddressBlocks | None) -> list[str]:
    """What charon's plugin addrblock has against a certificate's blocks under its issuer's."""
    if own is None and issuer is None:
        return []
    if own is None:
        return ["has no address blocks, but its CA has: charon refuses it"]
    if issuer is None:
        return ["has address blocks, but its CA has none: charon refuses it"]
    if own.inherits:
        return ["inherits its address blocks, which charon does not support"]
    outside = own.outside(issuer)
    return [f"{text}: is outside the CA's address blocks: {issuer}" for text in outside.texts()]


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether name and signature are the issuer's."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def _read(certificate: Certificate) -> Description:
    """A certificate whose key charon can use. Raises ValueError, UnsupportedAlgorithm."""
    own = describe(certificate)
    usable(certificate.public_key())
    return own


def _clock_faults(what: str, certificate: Description, now: float) -> list[str]:
    match certificate.validity(now):
        case Validity.NOT_YET:
            start = datetime.fromtimestamp(certificate.not_before, UTC)
            return [f"{what}is not valid before {_utc(start)}"]
        case Validity.EXPIRED:
            return [f"{what}expired {_utc(datetime.fromtimestamp(certificate.not_after, UTC))}"]
    return []


def _may_sign(certificate: Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(KeyUsage).value.key_cert_sign
    except ExtensionNotFound:
        return True


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
