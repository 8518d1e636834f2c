"""What is worth telling of a certificate, in charon's words: for people and for the status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    DirectoryName,
    DuplicateExtension,
    ExtensionNotFound,
    GeneralName,
    InvalidVersion,
    OtherName,
    SubjectAlternativeName,
    UnsupportedGeneralNameType,
    load_der_x509_certificate,
)

from fabricd.pki.blocks import AddressBlocks, blocks_of
from fabricd.pki.names import identity_of

RENEWAL_DUE: Final = 2 / 3
"""The share of its lifetime after which a certificate should be renewed."""


class Validity(StrEnum):
    """A certificate's state by the clock alone."""

    NOT_YET = "not yet valid"
    VALID = "valid"
    EXPIRING = "expiring"
    """Valid, but renewal is due."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Description:
    """A certificate's contents. Times are Unix seconds."""

    subject: str
    """As charon prints it: `C=CN, O=StrongSwan, CN=edge2`."""
    issuer: str
    serial: str
    """Hex, an even number of digits."""
    not_before: float
    not_after: float
    """The last second in which it is valid."""
    blocks: AddressBlocks | None
    """None: it has no such extension."""
    alternatives: tuple[str, ...]
    """subjectAltNames, without their types."""
    key_type: str
    """`ECDSA P-256`, `RSA 4096`, `Ed25519`."""
    authority: bool
    """Whether it is a CA's."""

    def lifetime_used(self, now: float) -> float:
        """The share of its lifetime that is over: below 0 before it begins, above 1 after it."""
        length = self.not_after - self.not_before
        return (now - self.not_before) / length if length > 0 else 1.0

    def validity(self, now: float) -> Validity:
        """Its state by the clock."""
        if now < self.not_before:
            return Validity.NOT_YET
        if now > self.not_after:
            return Validity.EXPIRED
        due = self.lifetime_used(now) >= RENEWAL_DUE
        return Validity.EXPIRING if due else Validity.VALID


ODD: Final = (
    ValueError,
    TypeError,  # a name with a BIT STRING in it
    InvalidVersion,
    DuplicateExtension,
    UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What the package raises for certificates and lists that charon may well take."""


def read(der: bytes) -> tuple[Certificate, Description]:
    """Parse and read a certificate, whoever made it. Raises ValueError, one line."""
    try:
        certificate = load_der_x509_certificate(der)
        return certificate, describe(certificate)
    except ODD as error:
        raise ValueError(f"a certificate that can't be read: {error}") from error


def describe(certificate: Certificate) -> Description:
    """Read a certificate. Raises ValueError, one line, for one that can't be read."""
    try:
        return _describe(certificate)
    except ODD as error:
        raise ValueError(f"contents that can't be read: {error}") from error


def _describe(certificate: Certificate) -> Description:
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(SubjectAlternativeName).value
        alternatives = tuple(_text(name) for name in names)
    except ExtensionNotFound:
        alternatives = ()
    try:
        authority = extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound:
        authority = False
    digits = f"{certificate.serial_number:x}"
    return Description(
        subject=identity_of(certificate.subject),
        issuer=identity_of(certificate.issuer),
        serial=digits.zfill(len(digits) + len(digits) % 2),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        blocks=blocks_of(certificate),
        alternatives=alternatives,
        key_type=key_type(certificate),
        authority=authority,
    )


def utc(seconds: float) -> str:
    """A moment, Unix seconds, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def key_type(certificate: Certificate) -> str:
    """The sort and size of the public key; `unknown` for one that can't be read."""
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return "unknown"
    match key:
        case EllipticCurvePublicKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
        case RSAPublicKey():
            return f"RSA {key.key_size}"
        case Ed25519PublicKey():
            return "Ed25519"
        case Ed448PublicKey():
            return "Ed448"
    return "unknown"


_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def _text(name: GeneralName) -> str:
    if isinstance(name, DirectoryName):
        return identity_of(name.value)
    if isinstance(name, OtherName):
        return name.type_id.dotted_string
    return str(name.value)
