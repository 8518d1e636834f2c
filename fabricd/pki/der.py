"""DER of types that are a list and have no name of their own: `SEQUENCE OF` at the root.

cryptography's declarative ASN.1 takes a list as a field of a SEQUENCE only, not by itself. So a
root that is a list is put into a SEQUENCE of one, and taken out of it again.
"""

from __future__ import annotations

from cryptography.hazmat import asn1


@asn1.sequence
class _SequenceOfOne:
    element: asn1.TLV


def wrapped(der: bytes) -> bytes:
    """DER of a SEQUENCE whose only element is `der`. Raises ValueError when that is no DER."""
    return asn1.encode_der(_SequenceOfOne(element=asn1.decode_der(asn1.TLV, der)))


def unwrapped(der: bytes) -> bytes:
    """The inverse of `wrapped()`."""
    return asn1.encode_der(asn1.decode_der(_SequenceOfOne, der).element)
