"""IP address blocks of a certificate (RFC 3779, 2): the addresses that its holder may use.

charon's plugin addrblock refuses a traffic selector that is not inside the blocks of the peer's
certificate, and a certificate whose blocks are not inside its issuer's. It compares with one
block at a time, and it does not follow `inherit`: nor does this file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from typing import Annotated, Any, Final, Literal

from cryptography.hazmat import asn1
from cryptography.x509 import (
    Certificate,
    DuplicateExtension,
    ExtensionNotFound,
    ObjectIdentifier,
    UnrecognizedExtension,
    UnsupportedGeneralNameType,
)

from fabricd.model import Prefix, network
from fabricd.pki.der import unwrapped, wrapped

ADDRESS_BLOCKS_OID: Final = ObjectIdentifier("1.3.6.1.5.5.7.1.7")
"""id-pe-ipAddrBlocks."""

Range = tuple[int, int]
"""The first and the last address of a block, as integers."""

INHERIT: Final = "inherit"
"""A family's blocks are those of the issuer, whatever they are."""

Ranges = tuple[Range, ...] | Literal["inherit"]

WIDTH: Final = {4: 32, 6: 128}
"""Bits of an address, by family."""

_AFI: Final = {4: b"\x00\x01", 6: b"\x00\x02"}
"""Address family identifiers, without a SAFI."""


@dataclass(frozen=True, slots=True)
class AddressBlocks:
    """The blocks of one certificate. A family without any is empty: nothing of it is allowed."""

    v4: Ranges = ()
    """Sorted; as they stand in the certificate, where neighbours may not have been merged."""
    v6: Ranges = ()

    @classmethod
    def of(cls, prefixes: Iterable[Prefix | str]) -> AddressBlocks:
        """The blocks that hold `prefixes` and nothing else: sorted and merged, as RFC 3779,
        2.2.3.6 wants them. Raises ValueError for what is no prefix.
        """
        ranges: dict[int, list[Range]] = {4: [], 6: []}
        for text in prefixes:
            net = network(text)
            ranges[net.version].append((int(net[0]), int(net[-1])))
        return cls(_merged(ranges[4]), _merged(ranges[6]))

    def family(self, version: int) -> Ranges:
        """The blocks of family 4 or 6."""
        return self.v6 if version == 6 else self.v4

    @property
    def inherits(self) -> bool:
        """Whether a family takes its blocks from the issuer."""
        return INHERIT in (self.v4, self.v6)

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The blocks as prefixes, IPv4 first; a range may take several. None for `inherit`."""
        return tuple(
            Prefix(str(net))
            for version in (4, 6)
            for block in self._ranges(version)
            for net in _networks(block, version)
        )

    def covers(self, prefix: Prefix | str) -> bool:
        """Whether one block holds all of `prefix`. Raises ValueError when it is no prefix."""
        net = network(prefix)
        return self._holds((int(net[0]), int(net[-1])), net.version)

    def uncovered(self, prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
        """Those of `prefixes` that no block covers, in their order."""
        return tuple(prefix for prefix in prefixes if not self.covers(prefix))

    def outside(self, issuer: AddressBlocks) -> AddressBlocks:
        """Those blocks that are in none of the issuer's: a certificate must have none."""
        return AddressBlocks(
            *(
                tuple(block for block in self._ranges(version) if not issuer._holds(block, version))
                for version in (4, 6)
            )
        )

    def texts(self) -> tuple[str, ...]:
        """A text for each block: `2.2.2.0/27`, `2.2.2.1-2.2.2.9`, `IPv6: inherit`."""
        result = []
        for version in (4, 6):
            if self.family(version) == INHERIT:
                result.append(f"IPv{version}: {INHERIT}")
            for block in self._ranges(version):
                nets = _networks(block, version)
                first, last = _addresses(block, version)
                result.append(str(nets[0]) if len(nets) == 1 else f"{first}-{last}")
        return tuple(result)

    def __str__(self) -> str:
        return ", ".join(self.texts()) or "none"

    def _ranges(self, version: int) -> tuple[Range, ...]:
        ranges = self.family(version)
        return () if ranges == INHERIT else ranges

    def _holds(self, inner: Range, version: int) -> bool:
        return any(first <= inner[0] and inner[1] <= last for first, last in self._ranges(version))


def blocks_of(certificate: Certificate) -> AddressBlocks | None:
    """The blocks of a certificate; None when it has no such extension. Raises ValueError."""
    try:
        extension = certificate.extensions.get_extension_for_oid(ADDRESS_BLOCKS_OID)
    except ExtensionNotFound:
        return None
    except (DuplicateExtension, UnsupportedGeneralNameType) as error:
        raise ValueError(f"extensions that can't be read: {error}") from error
    assert isinstance(extension.value, UnrecognizedExtension), "cryptography knows this OID now"
    return decode(extension.value.value)


# ---------------------------------------------------------------- DER


@asn1.sequence
class _AddressRange:
    low: asn1.BitString
    high: asn1.BitString


@asn1.sequence
class _AddressFamily:
    """IPAddressFamily. Of the CHOICE in it one is there; a list can't stand in a union."""

    address_family: Annotated[bytes, asn1.Size(min=2, max=3)]
    inherit: asn1.Null | None = None
    addresses: list[asn1.BitString | _AddressRange] | None = None


@asn1.sequence
class _AddressBlocks:
    families: list[_AddressFamily]


def encode(prefixes: Iterable[Prefix | str]) -> bytes:
    """The DER of IPAddrBlocks that holds `prefixes`, in the one form that RFC 3779 (2.2.3.3 to
    2.2.3.9) allows: sorted, merged, a prefix where a range is one. Raises ValueError.
    """
    blocks = AddressBlocks.of(prefixes)
    families = [
        _AddressFamily(
            address_family=_AFI[version],
            addresses=[_encoded(block, version) for block in ranges],
        )
        for version in (4, 6)
        if (ranges := blocks._ranges(version))
    ]
    return unwrapped(asn1.encode_der(_AddressBlocks(families=families)))


def decode(der: bytes) -> AddressBlocks:
    """Read the DER of IPAddrBlocks; raises ValueError, one line.

    Blocks of another family than IPv4 and IPv6, and those for one SAFI (multicast, say), are
    passed over: they allow nothing that concerns us.
    """
    try:
        found = asn1.decode_der(_AddressBlocks, wrapped(der)).families
    except ValueError as error:
        raise ValueError(f"address blocks: no IPAddrBlocks of RFC 3779: {error}") from error
    versions = {afi: version for version, afi in _AFI.items()}
    families: dict[int, Ranges] = {}
    for item in found:
        if (item.inherit is None) == (item.addresses is None):
            raise ValueError("address blocks: a family has neither addresses nor inherit, or both")
        version = versions.get(item.address_family)
        if version is None:
            continue
        if version in families:
            raise ValueError(f"address blocks: IPv{version} is there twice")
        families[version] = (
            INHERIT
            if item.addresses is None
            else tuple(sorted(_decoded(element, version) for element in item.addresses))
        )
    return AddressBlocks(families.get(4, ()), families.get(6, ()))


def _encoded(block: Range, version: int) -> asn1.BitString | _AddressRange:
    nets = _networks(block, version)
    if len(nets) == 1:
        return _bits(block[0], nets[0].prefixlen, version)
    first, last = block
    width = WIDTH[version]
    # Trailing zeros of the first and trailing ones of the last address are left out (2.2.3.9).
    zeros = (first & -first).bit_length() - 1 if first else width
    ones = (~last & (last + 1)).bit_length() - 1
    return _AddressRange(
        low=_bits(first, width - zeros, version), high=_bits(last, width - ones, version)
    )


def _bits(address: int, length: int, version: int) -> asn1.BitString:
    """The first `length` bits of an address."""
    octets = -(-length // 8)
    padding = octets * 8 - length
    value = address >> (WIDTH[version] - length) << padding
    return asn1.BitString(value.to_bytes(octets, "big"), padding)


def _decoded(element: asn1.BitString | _AddressRange, version: int) -> Range:
    if isinstance(element, asn1.BitString):
        return _span(element, version)
    first, last = _span(element.low, version)[0], _span(element.high, version)[1]
    if first > last:
        raise ValueError("address blocks: a range ends before it begins")
    return first, last


def _span(bits: asn1.BitString, version: int) -> Range:
    """The first and the last address that begin with these bits."""
    octets, padding = bits.as_bytes(), bits.padding_bits()
    rest = WIDTH[version] - (len(octets) * 8 - padding)
    if rest < 0:
        raise ValueError(f"address blocks: an address is longer than IPv{version} has bits")
    first = int.from_bytes(octets, "big") >> padding << rest
    return first, first | ((1 << rest) - 1)


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return tuple(result)


def _addresses(
    block: Range, version: int
) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]:
    if version == 6:
        return IPv6Address(block[0]), IPv6Address(block[1])
    return IPv4Address(block[0]), IPv4Address(block[1])


def _networks(block: Range, version: int) -> list[Any]:
    """The fewest networks that make up a block, sorted."""
    return list(summarize_address_range(*_addresses(block, version)))
