"""Requests for certificates (PKCS#10): a node makes its key itself, the CA sees the public half."""

from __future__ import annotations

import re

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import (
    CertificateSigningRequest,
    CertificateSigningRequestBuilder,
    DNSName,
    ExtensionNotFound,
    SubjectAlternativeName,
)
from cryptography.x509.oid import NameOID

from fabricd.model import NAME_PATTERN
from fabricd.pki.authority import Grant
from fabricd.pki.certificate import ODD
from fabricd.pki.fault import PkiError
from fabricd.pki.keys import PrivateKey, PublicKey, hash_for, usable


def make_request(grant: Grant, key: PrivateKey) -> CertificateSigningRequest:
    """Ask for a certificate. Which subnets are in it is not asked for: the CA says that."""
    names = SubjectAlternativeName(grant.alternatives)
    return (
        CertificateSigningRequestBuilder(grant.subject)
        .add_extension(names, critical=False)
        .sign(key, hash_for(key))
    )


def requested_name(request: CertificateSigningRequest) -> str:
    """The node that asks: a host name among the subjectAltNames, else the CN. Raises PkiError."""
    try:
        extension = request.extensions.get_extension_for_class(SubjectAlternativeName)
        names = extension.value.get_values_for_type(DNSName)
    except ExtensionNotFound:
        names = []
    except ODD as error:
        raise PkiError(f"extensions that can't be read: {error}") from error
    try:
        subject = request.subject
    except ODD as error:
        raise PkiError(f"a subject that can't be read: {error}") from error
    names += [str(cn.value) for cn in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    for name in names:
        if re.fullmatch(NAME_PATTERN, name):
            return name
    raise PkiError("names no node, neither in a subjectAltName nor as CN")


def requested_key(request: CertificateSigningRequest) -> PublicKey:
    """The public key, once the request proves that the private one is had. Raises PkiError."""
    try:
        if not request.is_signature_valid:
            raise PkiError("is not signed with the key that is in it")
        return usable(request.public_key())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise PkiError(f"can't be signed: {error}") from error
