"""Who claims what: prefixes, endpoints and identities that two nodes can't both have.

A set of claims with the rank of who makes them: of two that collide the lower rank has it. The
question "does anything here overlap this prefix?" takes one look-up for each prefix length in use,
and one search for what lies within.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Final, Generic, TypeVar

from fabricd.model import Node, Prefix, Role, network

_MAX: Final = {4: 32, 6: 128}

K = TypeVar("K")

Rank = tuple[int, str]
"""When a record was created, and its key: lower is older."""

FIRST: Final[Rank] = (-1, "")
LAST: Final[Rank] = (1 << 64, "")


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: Rank
    prefix: Prefix
    owner: Node


_by_rank = attrgetter("rank")


class _Ranked(Generic[K]):
    """Claims by what is claimed, the oldest first."""

    def __init__(self) -> None:
        self._claims: dict[K, list[_Claim]] = {}

    def of(self, key: K) -> Sequence[_Claim]:
        return self._claims.get(key, ())

    def add(self, key: K, claim: _Claim) -> bool:
        """Whether it is the first on this."""
        there = self._claims.setdefault(key, [])
        insort(there, claim, key=_by_rank)
        return len(there) == 1

    def remove(self, key: K, rank: Rank) -> bool:
        """Whether it was the last on this."""
        there = self._claims[key]
        del there[bisect_left(there, rank, key=_by_rank)]
        if not there:
            del self._claims[key]
        return not there


class _PrefixMap:
    """Prefixes with their owners, asked for overlaps."""

    def __init__(self) -> None:
        self._exact = _Ranked[tuple[int, int, int]]()
        """By family, prefix length and the network's leading bits."""
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        """How many different prefixes there are of each length."""
        self._starts: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        """First address and prefix length of each, sorted."""

    def add(self, prefix: Prefix, rank: Rank, owner: Node) -> None:
        family, length, start = _numbers(prefix)
        key = family, length, start >> (_MAX[family] - length)
        if self._exact.add(key, _Claim(rank, prefix, owner)):
            self._lengths[family][length] += 1
            insort(self._starts[family], (start, length))

    def remove(self, prefix: Prefix, rank: Rank) -> None:
        family, length, start = _numbers(prefix)
        key = family, length, start >> (_MAX[family] - length)
        if not self._exact.remove(key, rank):
            return
        starts, lengths = self._starts[family], self._lengths[family]
        del starts[bisect_left(starts, (start, length))]
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]

    def overlapping(self, prefix: Prefix) -> Iterator[_Claim]:
        """Claims on what contains `prefix`, equals it or lies within it."""
        family, length, start = _numbers(prefix)
        bits = _MAX[family]
        for shorter in sorted(self._lengths[family]):
            if shorter <= length:
                yield from self._exact.of((family, shorter, start >> (bits - shorter)))
        starts = self._starts[family]
        end = start + (1 << (bits - length))
        for first, longer in starts[
            bisect_left(starts, (start, 0)) : bisect_left(starts, (end, 0))
        ]:
            if longer > length:
                yield from self._exact.of((family, longer, first >> (bits - longer)))


@lru_cache(maxsize=4096)
def _numbers(prefix: Prefix) -> tuple[int, int, int]:
    """Family, prefix length, first address."""
    if ":" in prefix:
        net = network(prefix)
        return 6, net.prefixlen, int(net.network_address)
    first, _, length = prefix.partition("/")  # of nearly all: to parse what is parsed is dear
    one, two, three, four = map(int, first.split("."))
    return 4, int(length), one << 24 | two << 16 | three << 8 | four


def _holds(outer: Prefix, inner: Prefix) -> bool:
    family, length, start = _numbers(outer)
    other_family, other_length, other = _numbers(inner)
    bits = _MAX[family] - length
    return family == other_family and length <= other_length and start >> bits == other >> bits


class Claims:
    """What the nodes accepted so far have claimed."""

    def __init__(self) -> None:
        self._subnets = _PrefixMap()
        self._endpoints = _PrefixMap()
        self._identities = _Ranked[str]()

    def conflict(self, node: Node, rank: Rank = LAST) -> tuple[str, str] | None:
        """The first claim of `node` that somebody older has: field and reason; None if there is
        none.
        """
        for subnet in node.subnets:
            for claim in self._subnets.overlapping(subnet):
                if claim.rank < rank and not _both_gateways(node, claim.owner):
                    taken = f"{subnet} overlaps {claim.prefix} of nodes/{claim.owner.name}"
                    return "subnets", taken
            for claim in self._endpoints.overlapping(subnet):
                if claim.rank < rank:
                    reason = (
                        f"{subnet} contains {claim.owner.endpoint}, the endpoint of "
                        f"nodes/{claim.owner.name}, which has to stay reachable outside the tunnels"
                    )
                    return "subnets", reason
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            own = next((s for s in node.subnets if _holds(s, endpoint)), None)
            if own is not None:
                reason = f"{own} contains the node's own endpoint {node.endpoint}"
                return "subnets", reason
            for claim in self._subnets.overlapping(endpoint):
                if claim.rank < rank:
                    reason = f"{node.endpoint} lies in a subnet of nodes/{claim.owner.name}"
                    return "endpoint", reason
        for claim in self._identities.of(_identity_key(node.identity)):
            if claim.rank < rank:
                reason = f"{node.identity!r} is the identity of nodes/{claim.owner.name}"
                return "identity", reason
        return None

    def rivals(self, node: Node) -> set[Rank]:
        """Of whom something collides with what `node` claims, whoever is the older one."""
        found = list(self._identities.of(_identity_key(node.identity)))
        for subnet in node.subnets:
            found += (
                claim
                for claim in self._subnets.overlapping(subnet)
                if not _both_gateways(node, claim.owner)
            )
            found += self._endpoints.overlapping(subnet)
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            found += self._subnets.overlapping(endpoint)
        return {claim.rank for claim in found}

    def add(self, node: Node, rank: Rank = FIRST) -> None:
        """Accept all that `node` claims."""
        for subnet in node.subnets:
            self._subnets.add(subnet, rank, node)
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            self._endpoints.add(endpoint, rank, node)
        self._identities.add(_identity_key(node.identity), _Claim(rank, Prefix(""), node))

    def remove(self, node: Node, rank: Rank) -> None:
        """Take back what was added."""
        for subnet in node.subnets:
            self._subnets.remove(subnet, rank)
        endpoint = endpoint_prefix(node)
        if endpoint is not None:
            self._endpoints.remove(endpoint, rank)
        self._identities.remove(_identity_key(node.identity), rank)


def _both_gateways(one: Node, other: Node) -> bool:
    """They may share subnets: several doors to one cluster."""
    return one.role is Role.CLOUD and other.role is Role.CLOUD


def endpoint_prefix(node: Node) -> Prefix | None:
    """The endpoint as a prefix of one address; None when it is absent or a DNS name."""
    if node.endpoint is None:
        return None
    if ":" in node.endpoint:
        return Prefix(f"{node.endpoint}/{_MAX[6]}")
    # A name does not end in a number (`core.records`).
    if node.endpoint.rpartition(".")[2].isdecimal():
        return Prefix(f"{node.endpoint}/{_MAX[4]}")
    return None


def _identity_key(identity: str) -> str:
    """Spellings of one name that charon takes for the same are the same claim."""
    return ",".join(
        "=".join(part.strip() for part in rdn.split("=")) for rdn in identity.split(",")
    ).casefold()
