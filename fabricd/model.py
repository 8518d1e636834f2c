"""The nouns of the fabric: what an operator writes down, once it is known to be right.

Standard library only. Nothing here knows how a record is encoded (`core.records`), which
records are in force (`core.rib`) or what follows from them (`core.topology`).

Prefixes and addresses are strings in canonical form, as the kernel and charon print them
(`2.2.2.0/27`, `fd00:2::/64`): they compare with ==, sort, and cost nothing to show.
`prefix()` and `address()` are the only doors into that form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NewType

NAME_PATTERN: Final = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
"""NAME in a record's key: 1 to 63 of `a-z 0-9 - .`, starting and ending with a letter or digit.
For `re.fullmatch`: `$` would let a newline pass."""

Prefix = NewType("Prefix", str)
"""A network in CIDR notation, canonical, without host bits."""

Address = NewType("Address", str)
"""One IPv4 or IPv6 address, canonical, without a prefix length."""


class Role(StrEnum):
    """What a node is to the fabric."""

    EDGE = "edge"
    CLOUD = "cloud"
    """A gateway of the cloud cluster."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node record, checked."""

    name: str
    role: Role
    subnets: tuple[Prefix, ...]
    """Prefixes of the pods behind the node: at least one, sorted, none inside another."""
    identity: str
    """IKE identity: the subject DN of the node's certificate."""
    endpoint: str | None = None
    """Underlay address or DNS name; None: behind NAT, the node can only initiate."""
    communities: frozenset[str] = frozenset()
    """Tokens that the node's own record names."""
    priority: int = 100
    """Cloud only: edges prefer the higher one."""
    drained: bool = False
    """Cloud only: edges use any other one."""


@dataclass(frozen=True, slots=True)
class Community:
    """One community record, checked."""

    name: str
    members: frozenset[str]
    """Names of nodes."""


Record = Node | Community


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """Why a record is not in force: bad input is a value, never an exception."""

    key: str
    """The record's key below the prefix: `nodes/edge2`."""
    field: str
    """The field at fault; empty when it is the whole value."""
    reason: str

    def shown(self, prefix: str) -> dict[str, str]:
        """As documents have it; `prefix` is that of the keys in the store."""
        return {"key": f"{prefix}/{self.key}", "field": self.field, "reason": self.reason}

    def __str__(self) -> str:
        where = f"{self.key}: {self.field}" if self.field else self.key
        return f"{where}: {self.reason}"


@lru_cache(maxsize=4096)
def network(text: str) -> IPv4Network | IPv6Network:
    """Parse CIDR notation; raises ValueError for anything else, host bits included."""
    return ip_network(text, strict=True)


def prefix(text: str) -> Prefix:
    """The canonical form of `text`; raises ValueError when it is no network."""
    return Prefix(str(network(text)))


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """The canonical form of `text`; raises ValueError when it is no address."""
    return Address(str(ip_address(text)))


def family(text: Prefix | Address | str) -> int:
    """4 or 6, for a canonical prefix or address."""
    return 6 if ":" in text else 4


def within(subnet: Prefix, networks: Iterable[Prefix]) -> bool:
    """Whether one of `networks` holds all of `subnet`."""
    inner = network(subnet)
    return any(
        family(outer) == family(subnet) and inner.subnet_of(network(outer))  # type: ignore[arg-type]
        for outer in networks
    )


@lru_cache(maxsize=4096)
def holders(subnet: Prefix) -> tuple[Prefix, ...]:
    """All prefixes that hold all of it, itself among them."""
    net = network(subnet)
    return tuple(
        Prefix(str(net.supernet(new_prefix=length))) for length in range(net.prefixlen + 1)
    )


def is_link_name(text: str) -> bool:
    """Whether a link can have this name: 1 to 15 octets, no / : % blank. IFNAMSIZ of linux/if.h
    counts octets; dev_valid_name() and dev_alloc_name() of the kernel.
    """
    fits = len(text.encode("utf-8", "surrogatepass")) <= 15
    return fits and re.fullmatch(r"[^/\s:%]+", text) is not None and text not in {".", ".."}


def first_host(subnet: Prefix) -> Address:
    """The first host of a subnet: its gateway address on the bridge.

    A /31 or /127 (RFC 3021, RFC 6164) and a single address have no network address to skip.
    """
    net = network(subnet)
    offset = 0 if net.prefixlen >= net.max_prefixlen - 1 else 1
    return Address(str(net[offset]))
