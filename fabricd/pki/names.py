"""IKE identities as charon writes them, and the names in certificates that charon finds equal.

`C=CN, O=StrongSwan, CN=edge2` is a distinguished name (ID_DER_ASN1_DN); without a `=` it is a
host name or an e-mail address, which charon looks for among the subjectAltNames. The rules are
those of identification.c of strongSwan: order is kept, each RDN holds one value, a value is a
PrintableString where it can be one, else a UTF8String, and an IA5String for e-mail addresses.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography.hazmat import asn1
from cryptography.x509 import DNSName, GeneralName, Name, ObjectIdentifier, RFC822Name

from fabricd.pki.der import unwrapped, wrapped

_TYPES: Final = {
    "ND": "0.2.262.1.10.7.20",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "T": "2.5.4.12",
    "D": "2.5.4.13",
    "postalAddress": "2.5.4.16",
    "postalCode": "2.5.4.17",
    "N": "2.5.4.41",
    "G": "2.5.4.42",
    "I": "2.5.4.43",
    "ID": "2.5.4.45",
    "dnQualifier": "2.5.4.46",
    "dmdName": "2.5.4.54",
    "pseudonym": "2.5.4.65",
    "employeeNumber": "2.16.840.1.113730.3.1.3",
    "E": "1.2.840.113549.1.9.1",
    "unstructuredName": "1.2.840.113549.1.9.2",
    "unstructuredAddress": "1.2.840.113549.1.9.8",
    "TCGID": "1.3.6.1.4.1.1201.1.1.2.2.75",
}
"""Attribute types by the name that charon prints (oid.txt)."""

_ALIASES: Final = {
    "EN": "employeeNumber",
    "Email": "E",
    "emailAddress": "E",
    "UN": "unstructuredName",
    "UA": "unstructuredAddress",
}
"""More names that charon takes."""

_IA5: Final = frozenset({"E", "unstructuredName"})

_BY_NAME: Final = {name.lower(): name for name in _TYPES} | {
    alias.lower(): name for alias, name in _ALIASES.items()
}
_BY_OID: Final = {oid: name for name, oid in _TYPES.items()} | {
    "2.5.4.36": "userCertificate",
    "2.5.4.72": "role",
}

_PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*")

MAX_RDNS: Final = 20
"""Of what is longer charon makes a key id, not a name."""

MAX_LENGTH: Final = {"C": 2, "CN": 64, "O": 64, "OU": 64, "L": 128, "ST": 128, "serialNumber": 64}
"""Characters (RFC 5280, appendix A.1)."""


@asn1.sequence
class _Attribute:
    """AttributeTypeAndValue, with the strings that charon makes."""

    type: ObjectIdentifier
    value: asn1.PrintableString | str | asn1.IA5String


@asn1.sequence
class _Name:
    rdns: list[asn1.SetOf[_Attribute]]


@asn1.sequence
class _AnyAttribute:
    type: ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _AnyName:
    rdns: list[asn1.SetOf[_AnyAttribute]]


def is_name(identity: str) -> bool:
    """Whether charon takes it for a distinguished name."""
    return "=" in identity


def name_of(identity: str) -> Name:
    """The name that charon makes of `identity`, to the byte. Raises ValueError, one line."""
    rdns = [_attribute(part, identity) for part in identity.split(",")]
    if len(rdns) > MAX_RDNS:
        raise ValueError(f"{identity!r}: has more than {MAX_RDNS} parts, charon takes no more")
    der = asn1.encode_der(_Name(rdns=[asn1.SetOf([rdn]) for rdn in rdns]))
    return Name.from_bytes(unwrapped(der))


def alternative_of(identity: str) -> GeneralName:
    """The subjectAltName that charon finds equal to an `identity` that is no distinguished name:
    a host name, with or without a leading @, or an e-mail address. Raises ValueError.
    """
    host = identity.removeprefix("@")
    if is_name(identity) or not host or not identity.isascii() or identity.count("@") > 1:
        raise ValueError(f"{identity!r} is neither a host name nor an e-mail address")
    return RFC822Name(identity) if "@" in host else DNSName(host)


def identity_of(name: Name) -> str:
    """A name as charon prints it: with `?` for each octet that is not printable ASCII."""
    rdns = asn1.decode_der(_AnyName, wrapped(name.public_bytes())).rdns
    return ", ".join(
        f"{_type_name(attribute.type)}={_printed(bytes(attribute.value.data))}"
        for rdn in rdns
        for attribute in rdn.as_list()
    )


def _attribute(part: str, identity: str) -> _Attribute:
    key, equals, rest = part.partition("=")
    name = _BY_NAME.get(key.strip(" ").lower())
    value = rest.strip(" ")
    if not equals or not value:
        raise ValueError(f"{identity!r}: {part.strip()!r} is not TYPE=VALUE, as CN=edge2")
    if name is None:
        raise ValueError(
            f"{identity!r}: charon knows no {key.strip()!r} in a name (it knows C, ST, L, O, OU, "
            "CN, E and some more)"
        )
    if len(value) > MAX_LENGTH.get(name, len(value)):
        raise ValueError(f"{identity!r}: {name} has more than {MAX_LENGTH[name]} characters")
    if name == "C" and len(value) != 2:
        raise ValueError(f"{identity!r}: C is a country code of two letters, as C=CN")
    return _Attribute(type=ObjectIdentifier(_TYPES[name]), value=_string(name, value, identity))


def _string(name: str, value: str, identity: str) -> asn1.PrintableString | str | asn1.IA5String:
    if name in _IA5:
        if not value.isascii():
            raise ValueError(f"{identity!r}: {name} must be ASCII")
        return asn1.IA5String(value)
    return asn1.PrintableString(value) if _PRINTABLE.fullmatch(value) else value


def _type_name(oid: ObjectIdentifier) -> str:
    """What charon calls an attribute type: its octets in hex when it has no name for it."""
    known = _BY_OID.get(oid.dotted_string)
    return known or bytes(asn1.decode_der(asn1.TLV, asn1.encode_der(oid)).data).hex(":")


def _printed(octets: bytes) -> str:
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in octets)
