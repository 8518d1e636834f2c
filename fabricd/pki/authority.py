"""The CA: makes itself, and certificates for nodes that are bound to their subnets.

charon's plugin addrblock decides what may be issued: with address blocks in the CA's certificate
it refuses certificates without, and without them it refuses certificates that have some. It
knows no files; what time it is, it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.x509 import (
    AuthorityKeyIdentifier,
    BasicConstraints,
    Certificate,
    CertificateBuilder,
    DNSName,
    ExtendedKeyUsage,
    ExtensionNotFound,
    GeneralName,
    KeyUsage,
    Name,
    ObjectIdentifier,
    SubjectAlternativeName,
    SubjectKeyIdentifier,
    UnrecognizedExtension,
    random_serial_number,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from fabricd.model import Prefix
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, AddressBlocks, encode
from fabricd.pki.certificate import Description, Validity, describe
from fabricd.pki.fault import PkiError
from fabricd.pki.keys import PrivateKey, PublicKey, hash_for
from fabricd.pki.names import alternative_of, is_name, name_of

BACKDATE: Final = timedelta(minutes=5)
"""What is made is valid this much earlier: clocks of nodes may be behind."""

IKE_INTERMEDIATE: Final = ObjectIdentifier("1.3.6.1.5.5.8.2.2")

EVERYWHERE: Final = (Prefix("0.0.0.0/0"), Prefix("::/0"))
"""A CA for all addresses: that it has blocks at all makes charon ask for those of the node."""


@dataclass(frozen=True)
class Grant:
    """What a node's certificate says of it."""

    subject: Name
    alternatives: Sequence[GeneralName]
    prefixes: Sequence[Prefix]
    """Without any the certificate has no address blocks."""

    @classmethod
    def of(cls, name: str, identity: str, prefixes: Sequence[Prefix] = ()) -> Grant:
        """For the node `name`. An identity that is no distinguished name is an alternative
        name of its certificate; the subject is `CN=name` then. Raises ValueError.
        """
        alternatives: list[GeneralName] = [DNSName(name)]
        if is_name(identity):
            return cls(name_of(identity), alternatives, prefixes)
        other = alternative_of(identity)
        return cls(name_of(f"CN={name}"), list(dict.fromkeys([*alternatives, other])), prefixes)

    @classmethod
    def again(cls, certificate: Certificate) -> Grant:
        """What a certificate says already, to the byte. Raises PkiError."""
        own = describe(certificate)
        if own.blocks is not None and own.blocks.inherits:
            raise PkiError("inherits its address blocks, which charon does not support: issue anew")
        try:
            names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        except ExtensionNotFound:
            names = SubjectAlternativeName([])
        prefixes = own.blocks.prefixes if own.blocks is not None else ()
        return cls(certificate.subject, list(names), prefixes)


@dataclass(frozen=True)
class Authority:
    """A CA's certificate and key; they belong together."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def create(
        cls,
        subject: Name,
        key: PrivateKey,
        prefixes: Sequence[Prefix],
        *,
        days: int,
        now: float,
    ) -> Authority:
        """A new CA with a certificate signed by itself, which issues to nodes only."""
        start, end = _validity(now, days)
        certificate = (
            CertificateBuilder(subject, subject, key.public_key(), random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_blocks(prefixes), critical=True)
            .sign(key, hash_for(key))
        )
        return cls(certificate, key)

    @property
    def key_identifier(self) -> AuthorityKeyIdentifier:
        """What points from certificates and CRLs to this CA's certificate."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(SubjectKeyIdentifier)
        except ExtensionNotFound:
            return AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)

    def issue(self, grant: Grant, key: PublicKey, *, days: int, now: float) -> Certificate:
        """A certificate for a node; it ends when the CA does, if that is earlier.

        Raises PkiError for what charon would refuse.
        """
        own = describe(self.certificate)
        faults = [*_expiry_faults(own, now), *_block_faults(own.blocks, grant.prefixes)]
        if faults:
            raise PkiError(*faults)
        start, end = _validity(now, days)
        builder = (
            CertificateBuilder(self.certificate.subject, grant.subject, key, random_serial_number())
            .not_valid_before(max(start, self.certificate.not_valid_before_utc))
            .not_valid_after(min(end, self.certificate.not_valid_after_utc))
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, IKE_INTERMEDIATE]),
                critical=False,
            )
            .add_extension(SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self.key_identifier, critical=False)
        )
        if grant.alternatives:
            names = SubjectAlternativeName(grant.alternatives)
            builder = builder.add_extension(names, critical=False)
        if grant.prefixes:
            builder = builder.add_extension(_blocks(grant.prefixes), critical=True)
        return builder.sign(self.key, hash_for(self.key))


def _expiry_faults(own: Description, now: float) -> list[str]:
    if own.validity(now) in {Validity.NOT_YET, Validity.EXPIRED}:
        return [f"the CA {own.subject} is {own.validity(now)}: is the clock right?"]
    return []


def _block_faults(own: AddressBlocks | None, prefixes: Sequence[Prefix]) -> list[str]:
    if own is None and prefixes:
        return [
            "the CA has no address blocks, and charon refuses a certificate with blocks from "
            "such a CA: leave the subnets out, or make a new CA"
        ]
    if own is None:
        return []
    if not prefixes:
        return [
            "the CA has address blocks, and charon refuses certificates without: name the "
            "node's subnets"
        ]
    return [
        f"{prefix}: is outside the CA's address blocks: {own}" for prefix in own.uncovered(prefixes)
    ]


def _validity(now: float, days: int) -> tuple[datetime, datetime]:
    start = datetime.fromtimestamp(int(now), UTC)
    try:
        return start - BACKDATE, start + timedelta(days=days)
    except OverflowError as error:
        raise PkiError(f"{days} days: no date is that late") from error


def _blocks(prefixes: Sequence[Prefix]) -> UnrecognizedExtension:
    return UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(prefixes))


def _usage(*, ca: bool) -> KeyUsage:
    return KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
