"""Does a rule of the node's packet filter change the source of what goes between pods and edges?

Rules are followed as the kernel would, but for whole networks at once, and as far as they can
be read: a condition holds for all of the traffic, for some of it, for none, or it can't be
judged. Pure; where rules come from and how they are written is `nftables` and `iptables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final

Net = IPv4Network | IPv6Network


class Holds(Enum):
    """For how much of the traffic a condition holds, the least first."""

    NONE = "none"
    UNKNOWN = "unknown"
    SOME = "some"
    ALL = "all"

    def __invert__(self) -> Holds:
        return {Holds.NONE: Holds.ALL, Holds.ALL: Holds.NONE}.get(self, self)

    def __and__(self, other: Holds) -> Holds:
        return min(self, other, key=list(Holds).index)

    def __or__(self, other: Holds) -> Holds:
        return max(self, other, key=list(Holds).index)


@dataclass(frozen=True, slots=True)
class Flow:
    """Traffic of one address family, in one direction."""

    name: str
    """For people: `pods to 2.0.0.0/8`."""
    sources: tuple[Net, ...]
    """Empty: not known."""
    destinations: tuple[Net, ...]
    links: frozenset[str] = frozenset()
    """Where it may leave the node. Empty: not known."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return (self.destinations or self.sources)[0].version


@dataclass(frozen=True, slots=True)
class Addresses:
    """A condition on an address."""

    destination: bool
    """Otherwise: the source."""
    networks: tuple[Net, ...]
    negated: bool = False

    def holds(self, flow: Flow) -> Holds:
        """Whether the addresses lie in the networks."""
        traffic = flow.destinations if self.destination else flow.sources
        if not traffic:
            return Holds.UNKNOWN
        found = _share(traffic, self.networks)
        return ~found if self.negated else found


@dataclass(frozen=True, slots=True)
class OutLink:
    """A condition on the interface by which packets leave; `patterns` may end in `*`."""

    patterns: tuple[str, ...]
    negated: bool = False

    def holds(self, flow: Flow) -> Holds:
        """Whether the traffic leaves there."""
        if not flow.links:
            return Holds.UNKNOWN
        among = [any(fnmatchcase(link, p) for p in self.patterns) for link in flow.links]
        found = Holds.ALL if all(among) else Holds.SOME if any(among) else Holds.NONE
        return ~found if self.negated else found


@dataclass(frozen=True, slots=True)
class Always:
    """A condition that is the same for any traffic of pods: a protocol, a mark, one unreadable."""

    share: Holds

    def holds(self, _: Flow) -> Holds:
        """What was said."""
        return self.share


Condition = Addresses | OutLink | Always

UNREADABLE: Final = Always(Holds.UNKNOWN)


class Verdict(Enum):
    """What happens to a packet that meets all conditions."""

    SNAT = "snat"
    """It gets another source."""
    END = "end"
    """No later rule sees it."""
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    NEXT = "next"
    """Nothing that matters here."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, read."""

    text: str
    """As its own program shows it, on one line."""
    conditions: tuple[Condition, ...]
    verdict: Verdict
    target: str = ""
    """The chain to go to, with JUMP and GOTO."""

    def holds(self, flow: Flow) -> Holds:
        """For how much of the traffic all conditions hold."""
        share = Holds.ALL
        for condition in self.conditions:
            share &= condition.holds(flow)
        return share


@dataclass(frozen=True, slots=True)
class Table:
    """What hangs together: chains that can jump to one another."""

    name: str
    """For people: `nft table ip nat`."""
    versions: frozenset[int]
    """The address families it sees: 4, 6."""
    chains: Mapping[str, Sequence[Rule]]
    hooks: tuple[str, ...]
    """The chains that the kernel enters for source NAT."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that gives the flow another source, or might."""

    flow: str
    table: str
    rule: str
    certain: bool


def findings(tables: Iterable[Table], flows: Iterable[Flow]) -> list[Finding]:
    """Every rule that changes the source of one of these flows, or that might."""
    found: list[Finding] = []
    for flow in flows:
        for table in tables:
            if flow.version in table.versions:
                for hook in table.hooks:
                    _Walk(table, flow, found).chain(hook, Holds.ALL, ())
    return found


class _Walk:
    """One flow on its way through one table."""

    def __init__(self, table: Table, flow: Flow, found: list[Finding]) -> None:
        self.table = table
        self.flow = flow
        self.found = found

    def chain(self, name: str, entering: Holds, path: tuple[str, ...]) -> Holds:
        """Follow a chain; how much of what enters goes on behind it."""
        if name in path:  # a loop, which the kernel does not take
            return entering
        here, returned = entering, Holds.NONE
        for rule in self.table.chains.get(name, ()):
            holds = rule.holds(self.flow)
            share, rest = here & holds, here & ~holds
            if share is Holds.NONE:
                continue
            match rule.verdict:
                case Verdict.SNAT:
                    self._report(rule, share)
                    here = rest
                case Verdict.END:
                    here = rest
                case Verdict.RETURN:
                    here, returned = rest, returned | share
                case Verdict.JUMP:
                    here = rest | self.chain(rule.target, share, (*path, name))
                case Verdict.GOTO:
                    here, returned = rest, returned | self.chain(rule.target, share, (*path, name))
                case Verdict.NEXT:
                    pass
        return here | returned

    def _report(self, rule: Rule, share: Holds) -> None:
        self.found.append(
            Finding(self.flow.name, self.table.name, rule.text, share is not Holds.UNKNOWN)
        )


def _share(traffic: Sequence[Net], networks: Sequence[Net]) -> Holds:
    same = [net for net in networks if net.version == traffic[0].version]
    merged = list(collapse_addresses(same))  # type: ignore[type-var]  # of one family
    inside = [any(net.subnet_of(outer) for outer in merged) for net in traffic]  # type: ignore[arg-type]
    if all(inside):
        return Holds.ALL
    touched = any(net.overlaps(outer) for net in traffic for outer in merged)
    return Holds.SOME if any(inside) or touched else Holds.NONE
