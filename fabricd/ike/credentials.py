"""The node's certificate, private key and CA certificates: read from files, checked, named.

What is wrong with them is found here, before charon is asked, in words that name the file.
It knows nothing of charon but how it names a key; and not what time it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    ExtensionNotFound,
    SubjectKeyIdentifier,
    load_pem_x509_certificate,
    load_pem_x509_certificates,
)

from fabricd.core.ownership import AUTHORITY_PREFIX
from fabricd.ike.crl import Crl
from fabricd.pki.certificate import ODD, Description, describe
from fabricd.pki.names import identity_of
from fabricd.pki.pem import READABLE_BY_OTHERS, first_line
from fabricd.pki.verify import is_issued_by


class CredentialError(Exception):
    """Files that charon could not use: `faults` has a line for each fault, with its file."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


@dataclass(frozen=True)
class Credentials:
    """What charon needs to authenticate this node and its peers."""

    authorities: Mapping[str, bytes]
    """PEM of each CA certificate, by its name in charon: `fabric-ca-` and the first 12 hex
    digits of the SHA-256 of its DER."""
    certificate: bytes
    """PEM, the node's own."""
    key: bytes = field(repr=False)
    """PEM, the private key, as it stands in its file."""
    key_id: str
    """Hex SHA-1 of the public key (RFC 5280, 4.2.1.2, method 1): charon's name for the key."""
    digest: str
    """Of certificate and CA certificates: part of `Conn.digest`."""
    subject: str
    """The certificate's, as RFC 4514 writes it."""
    expiry: Mapping[str, float]
    """The end of validity, Unix seconds, by subject: the node's certificate and the CAs'."""
    crls: tuple[Crl, ...] = ()
    """The latest revocation list of each issuer."""

    @cached_property
    def own(self) -> Certificate:
        """The node's certificate."""
        return load_pem_x509_certificate(self.certificate)

    @cached_property
    def issuers(self) -> tuple[Certificate, ...]:
        """The CA certificates."""
        return tuple(map(load_pem_x509_certificate, self.authorities.values()))

    @cached_property
    def about(self) -> Description:
        """What is in the node's certificate."""
        return describe(self.own)

    @cached_property
    def about_issuers(self) -> tuple[tuple[str, Description], ...]:
        """What is in each CA certificate, with its subject as RFC 4514 writes it."""
        return tuple((identity_of(ca.subject), describe(ca)) for ca in self.issuers)


def load_credentials(ca: Sequence[Path], cert: Path, key: Path, now: float) -> Credentials:
    """Read and check the files; `now` is Unix time.

    A CA file may hold several certificates. A CA that is outdated is only a fault when it issued
    the node's certificate: others may stay for the length of a change of CAs. Raises
    CredentialError.
    """
    faults = _Faults()
    issuers = [found for path in ca for found in faults.certificates(path)]
    chain = faults.certificates(cert)
    private = faults.private_key(key)
    own = chain[0] if chain else None
    if own is not None:
        faults.check_issued(cert, own, ca, issuers, now)
    if own is not None and private is not None and _spki(own) != _spki(private[1]):
        faults.append(f"{key}: does not belong to the certificate in {cert}")
    if faults or own is None or private is None:
        raise CredentialError(faults)

    authorities = {_authority_name(item): item.public_bytes(Encoding.PEM) for item in issuers}
    expiry: dict[str, float] = {}
    for item in (*issuers, own):
        subject = identity_of(item.subject)
        end = item.not_valid_after_utc.timestamp()
        expiry[subject] = max(end, expiry.get(subject, end))  # a CA renewed under its old name
    digest = hashlib.sha256(own.public_bytes(Encoding.DER))
    digest.update("".join(sorted(authorities)).encode())
    return Credentials(
        authorities=MappingProxyType(authorities),
        certificate=own.public_bytes(Encoding.PEM),
        key=private[0],
        key_id=SubjectKeyIdentifier.from_public_key(own.public_key()).digest.hex(),
        digest=digest.hexdigest()[:8],
        subject=identity_of(own.subject),
        expiry=MappingProxyType(expiry),
    )


class _Faults(list[str]):
    """The faults found so far, and the checks that find them."""

    def read(self, path: Path, *, secret: bool = False) -> bytes | None:
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read()
        except OSError as error:
            self.append(f"{path}: {error.strerror}")
            return None
        if secret and mode & READABLE_BY_OTHERS:
            self.append(f"{path}: others may read the private key: chmod 600 {path}")
        return content

    def certificates(self, path: Path) -> list[Certificate]:
        content = self.read(path)
        if content is None:
            return []
        try:
            found = load_pem_x509_certificates(content)
            for item in found:
                item.public_key()  # is of a kind that can be read
                describe(item)  # and so are its extensions
        except ODD as error:
            self.append(f"{path}: no certificate in PEM form: {first_line(error)}")
            return []
        return found

    def private_key(self, path: Path) -> tuple[bytes, PrivateKeyTypes] | None:
        """The file's content and the key in it."""
        content = self.read(path, secret=True)
        if content is None:
            return None
        try:
            return content, load_pem_private_key(content, password=None)
        except TypeError:
            self.append(f"{path}: the private key is encrypted; it must be in clear, mode 600")
        except (ValueError, UnsupportedAlgorithm) as error:
            self.append(f"{path}: no private key in PEM form: {first_line(error)}")
        return None

    def check_issued(
        self,
        cert: Path,
        own: Certificate,
        ca: Sequence[Path],
        issuers: list[Certificate],
        now: float,
    ) -> None:
        """The node's certificate is valid, and by a CA of ours that is valid too."""
        self.check_validity(f"{cert}: the certificate", own, now)
        if not ca:
            self.append("no file with a CA certificate is named")
        for issuer in issuers:
            if not _is_ca(issuer):
                subject = identity_of(issuer.subject)
                self.append(f"{_names(ca)}: {subject} is no CA certificate (basicConstraints)")
        issued_by = [issuer for issuer in issuers if is_issued_by(own, issuer)]
        if issuers and not issued_by:
            issuer_name = identity_of(own.issuer)
            self.append(
                f"{cert}: issued by {issuer_name}, which is none of the CAs in {_names(ca)}"
            )
        if issued_by and not any(_valid(issuer, now) for issuer in issued_by):
            self.check_validity(f"{_names(ca)}: the CA of {cert}", issued_by[0], now)

    def check_validity(self, what: str, certificate: Certificate, now: float) -> None:
        moment = datetime.fromtimestamp(now, UTC)
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if moment < start:
            self.append(
                f"{what} is not valid before {start:%Y-%m-%d %H:%M:%S} UTC: is the clock right?"
            )
        elif moment > end:
            self.append(f"{what} expired {end:%Y-%m-%d %H:%M:%S} UTC")


def _valid(certificate: Certificate, now: float) -> bool:
    moment = datetime.fromtimestamp(now, UTC)
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def _is_ca(certificate: Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except (ExtensionNotFound, ValueError):
        return False


def _spki(holder: Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _authority_name(certificate: Certificate) -> str:
    der = certificate.public_bytes(Encoding.DER)
    return AUTHORITY_PREFIX + hashlib.sha256(der).hexdigest()[:12]


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
