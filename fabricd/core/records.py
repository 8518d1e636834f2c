"""Wire JSON to model: one record in, a checked value or its faults out. Never raises.

A record comes from whoever can write to the store, so nothing in it is believed: what would
make charon or the kernel mean something else than the operator (a wildcard identity, a
prefix that swallows the default route) is a fault here, before anybody acts on it.

This file sees one record at a time: what several say to one another is `core.rib`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise
from typing import Any, Final, Literal, TypeVar

import msgspec

from fabricd.core.unreadable import UNREADABLE
from fabricd.model import (
    NAME_PATTERN,
    Community,
    Node,
    Prefix,
    Record,
    Rejection,
    Role,
    network,
)

MAX_LIST: Final = 256
"""Subnets or tokens in one record. Each subnet is a child in each peer's charon."""

# Whoever can write a record can make these work hard: no expression below may have two ways to
# match the same text, or one short value stops the daemon for years.

_NAME = re.compile(NAME_PATTERN)
_CIDR = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_TOKEN = re.compile(r"[\w.:/=+-]{1,63}")
# An identity in a form that charon can't take for a pattern (`%any`, `CN=*`) or for another
# type than it looks like (`keyid:…`, `@#…`): identification_create_from_string() of strongSwan.
# Without a letter it would be an address or a range of addresses, and `0.0.0.0` is anybody.
_RDN = r"[A-Za-z]+ *= *[^ ,=*%\x00-\x1f][^,=*%\x00-\x1f]*"
_DN = re.compile(rf"{_RDN}(, *{_RDN})*")
_FQDN_OR_EMAIL = re.compile(
    r"(?=.*[A-Za-z])@?[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?"
)

MAX_VALUE: Final = 65_536
"""Bytes of one record: several versions of each are kept in memory."""

MAX_WARNINGS: Final = 8
"""Warnings about one record; more are counted."""

SHORTEST: Final = {4: 8, 6: 16}
"""The shortest prefix that a node may have: a shorter one takes in most of what there is."""

_SPECIAL: Final = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",  # unspecified and loopback
    "::ffff:0:0/96",  # IPv4-mapped
    "fe80::/10",
    "ff00::/8",
)
"""Special-purpose address space (RFC 6890) that no pod lives in."""

_NO_PODS: Final = {
    number: [net for net in map(ip_network, _SPECIAL) if net.version == number] for number in (4, 6)
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of one record: a value, or the faults that keep it out of force."""

    record: Record | None
    faults: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()


class _FieldFault(ValueError):
    """Carries a reason from a field's check to the loop below; never leaves this file."""


def decode(key: str, value: bytes, identity_template: str) -> Decoded:
    """Read the record under `key` (`nodes/NAME` or `communities/NAME`).

    `identity_template` gives the identity of a node whose record names none; `{name}` in it
    stands for the node's name.
    """
    folder, _, name = key.partition("/")
    if not _NAME.fullmatch(name):
        reason = (
            f"{name[:80]!r} is no name: 1 to 63 of a-z 0-9 - ., starting and ending with a "
            "letter or digit"
        )
        return Decoded(None, (Rejection(key, "name", reason),))
    if len(value) > MAX_VALUE:
        reason = f"has {len(value)} bytes: at most {MAX_VALUE}"
        return Decoded(None, (Rejection(key, "", reason),))
    try:
        raw = msgspec.json.decode(value, type=dict[str, Any])
    except UNREADABLE as error:
        reason = f"not a JSON object: {str(error)[:200]}"
        return Decoded(None, (Rejection(key, "", reason),))
    reader = _Reader(key, raw)
    record: Record | None = (
        _node(reader, name, identity_template) if folder == "nodes" else _community(reader, name)
    )
    reader.warn_of_the_rest()
    return Decoded(None if reader.faults else record, tuple(reader.faults), tuple(reader.warnings))


class _Reader:
    """Takes field after field out of a decoded object and collects what is wrong with them."""

    def __init__(self, key: str, raw: Mapping[str, Any]) -> None:
        self.key = key
        self.raw = raw
        self.taken: set[str] = set()
        self.faults: list[Rejection] = []
        self.warnings: list[str] = []

    def take(self, field: str, kind: Any, check: Callable[[Any], T], default: T) -> T:
        """The field's checked value; `default` where it is absent, null or wrong."""
        self.taken.add(field)
        if self.raw.get(field) is None:
            return default
        try:
            return check(msgspec.convert(self.raw[field], kind))
        except (msgspec.ValidationError, _FieldFault, RecursionError) as error:
            self.faults.append(Rejection(self.key, field, str(error)))
            return default

    def require(self, field: str) -> None:
        """Note a fault if the field is absent."""
        if self.raw.get(field) is None:
            self.faults.append(Rejection(self.key, field, "is required"))

    def warn(self, text: str) -> None:
        self.warnings.append(f"{self.key}: {text}")

    def warn_of_the_rest(self) -> None:
        """A field that nobody knows is kept in the store and reported."""
        unknown = sorted(self.raw.keys() - self.taken)
        for field in unknown[:MAX_WARNINGS]:
            self.warn(f"unknown field {field[:63]!r} is ignored")
        if len(unknown) > MAX_WARNINGS:
            self.warn(f"{len(unknown) - MAX_WARNINGS} more unknown fields are ignored")


def _node(reader: _Reader, name: str, identity_template: str) -> Node:
    reader.require("subnets")
    role = reader.take("role", Literal["edge", "cloud"], Role, Role.EDGE)
    for field in ("priority", "drained"):
        if role is Role.EDGE and reader.raw.get(field) is not None:
            reader.warn(f"{field} means something only for role cloud")
    return Node(
        name=name,
        role=role,
        endpoint=reader.take("endpoint", str, _endpoint, None),
        subnets=reader.take("subnets", list[str], _subnets, ()),
        communities=reader.take("community", str | list[str], _tokens, frozenset()),
        identity=reader.take(
            "identity", str, check_identity, identity_template.replace("{name}", name)
        ),
        priority=reader.take("priority", int, int, 100),
        drained=reader.take("drained", bool, bool, False),
    )


def _community(reader: _Reader, name: str) -> Community:
    reader.require("members")
    return Community(name, reader.take("members", list[str], _members, frozenset()))


def _endpoint(text: str) -> str:
    if len(text) > 253:
        raise _FieldFault("is longer than a DNS name can be")
    if re.fullmatch(r"[0-9a-fA-F.]*:[0-9a-fA-F:.]*|[0-9.]+", text):
        try:
            host = ip_address(text)
        except ValueError as error:
            raise _FieldFault(f"{text!r} is no IP address") from error
        if host.is_multicast or host.is_unspecified or str(host) == "255.255.255.255":
            raise _FieldFault(f"{text} is not the address of a host")
        return str(host)
    if not _DNS.fullmatch(text) or text.rstrip(".").rpartition(".")[2].isdigit():
        raise _FieldFault(
            f"{text[:80]!r} is neither an IP address nor a DNS name (leave the field out for a "
            "node behind NAT)"
        )
    return text.lower()


def _subnets(texts: list[str]) -> tuple[Prefix, ...]:
    if not texts:
        raise _FieldFault("is empty: a node has at least one subnet")
    if len(texts) > MAX_LIST:
        raise _FieldFault(f"has {len(texts)} entries: at most {MAX_LIST}")
    nets = {_subnet(text) for text in texts}
    ordered = sorted(nets, key=lambda p: (":" in p, network(p).network_address.packed, p))
    for one, other in pairwise(ordered):
        if (":" in one) == (":" in other) and network(one).overlaps(network(other)):
            raise _FieldFault(f"{one} and {other} overlap")
    return tuple(ordered)


def _subnet(text: str) -> Prefix:
    if len(text) > 80 or not _CIDR.fullmatch(text):
        raise _FieldFault(f"{text[:80]!r} is not in CIDR notation, such as 2.2.2.0/27")
    try:
        net = network(text)
    except ValueError as error:
        raise _FieldFault(f"{text!r}: {_cidr_fault(text, error)}") from error
    if net.prefixlen == 0:
        raise _FieldFault(f"{text} is the whole address space")
    if (taken := _special(net)) is not None:
        raise _FieldFault(f"{text}: pods can't live in {taken}, which has another purpose")
    if net.prefixlen < SHORTEST[net.version]:
        raise _FieldFault(f"{text} is too much for one node: /{SHORTEST[net.version]} at most")
    return Prefix(str(net))


def _special(net: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network | None:
    for space in _NO_PODS[net.version]:
        # As `overlaps`, which takes four times as long: two networks overlap when one holds the
        # other's first address.
        if net.network_address in space or space.network_address in net:
            return space
    return None


def _cidr_fault(text: str, error: ValueError) -> str:
    if "host bits" in str(error):
        return f"has host bits set; the network is {ip_network(text, strict=False)}"
    return "is no network"


def _tokens(value: str | list[str]) -> frozenset[str]:
    texts = value.split(";") if isinstance(value, str) else value
    if len(texts) > MAX_LIST:
        raise _FieldFault(f"has {len(texts)} tokens: at most {MAX_LIST}")
    tokens = {text.strip() for text in texts} - {""}
    for token in sorted(tokens):
        if not _TOKEN.fullmatch(token):
            raise _FieldFault(
                f"{token[:80]!r} is no token: 1 to 63 letters, digits or any of _ . : / = + -"
            )
    return frozenset(tokens)


def _members(names: list[str]) -> frozenset[str]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise _FieldFault(f"{name[:80]!r} is no node's name")
    return frozenset(names)


def check_identity(text: str) -> str:
    """The identity without the blanks around it; ValueError when charon could read more into it
    than one name.
    """
    stripped = text.strip()
    if len(stripped) > 255 or not (_DN.fullmatch(stripped) or _FQDN_OR_EMAIL.fullmatch(stripped)):
        raise _FieldFault(
            f"{text[:80]!r} is neither a distinguished name such as 'C=CN, O=Org, CN=edge2' nor "
            "a host name or e-mail address; wildcards are not taken"
        )
    return stripped
