"""charon's settings, judged: those that belong to charon as a whole, as its files have them.

VICI does not tell them. contrib/strongswan/fabricd.conf has what a node wants, large-gateway.conf
beside it what one with many peers wants. Names and defaults: strongswan.conf(5), the same in 5.9.8
and 6.0.1 but for make_before_break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fabricd.core.hop import Hop, Verdict

DEFAULTS: Final = {"retransmit_timeout": 4.0, "retransmit_base": 1.8, "retransmit_tries": 5.0}

PATIENCE: Final = 60.0
"""Seconds after which a silent peer should have been given up."""

MANY: Final = 250
"""With more peers than that, what is set for a large gateway counts."""

DO: Final = "fabricd's strongswan/fabricd.conf belongs into /etc/strongswan.d; restart charon"

DO_LARGE: Final = (
    "examples/large-gateway.conf below /usr/share/doc/fabricd or /usr/local/share/doc/fabricd "
    "belongs into /etc/strongswan.d; restart charon"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Charon's settings as its files have them: it read them when it started, perhaps others."""

    file: str
    """Where they begin: `/etc/strongswan.conf`."""
    values: Mapping[str, str]
    """By the names of strongswan.conf(5), without `charon.`: `plugins.vici.socket`."""


def settings_rows(
    settings: Settings, version: str, peers: int, *, other_routes: bool = False
) -> Iterator[Hop]:
    """A row for each setting that counts. `version`: as `Charon.version`; empty: not known.
    `peers`: how many this node has. `other_routes`: there are signs of charon's own routes.
    """
    yield _routes(settings.values, other_routes=other_routes)
    yield _retransmission(settings.values)
    if version:
        yield _make_before_break(version, settings.values)
    if peers > MANY:
        yield from (_limit(name, settings.values, peers) for name in LIMITS)


def settings_warnings(settings: Settings, version: str, peers: int) -> list[str]:
    """Its warnings as lines for people, those together for which the same has to be done."""
    found: dict[str, list[str]] = {}
    for row in settings_rows(settings, version, peers):
        if row.verdict is Verdict.WARNING:
            found.setdefault(row.do, []).append(f"{row.name}: {row.detail}")
    return [f"charon's settings: {'; '.join(rows)}. {do}" for do, rows in found.items()]


# ---------------------------------------------------------------- any node


def is_off(value: str) -> bool:
    """As settings_value_as_bool() of strongSwan reads it."""
    return value.lower() in {"0", "no", "false", "disabled"}


def _routes(values: Mapping[str, str], *, other_routes: bool) -> Hop:
    name = "install_routes"
    if not is_off(values.get(name, "yes")):
        return Hop.warn(name, "yes: charon makes routes of its own, beside fabricd's", DO)
    if other_routes:
        found = "no, but a rule leads to table 220: charon was started with other settings"
        return Hop.warn(name, found, "restart charon")
    return Hop.ok(name, "no: fabricd owns the routes")


def given_up(values: Mapping[str, str]) -> float:
    """Seconds until charon gives up a request without an answer: the sum of the waits after it and
    each of its retransmissions (strongswan.conf(5)). Raises ValueError for what is no number.
    """
    timeout, base, tries = (float(values.get(name, DEFAULTS[name])) for name in DEFAULTS)
    return float(sum(timeout * base**number for number in range(min(int(tries), 100) + 1)))


def _retransmission(values: Mapping[str, str]) -> Hop:
    name = "retransmission"
    try:
        seconds = given_up(values)
    except (ValueError, OverflowError):
        return Hop.unknown(name, "retransmit_timeout, …_base or …_tries is no number", DO)
    found = f"a dead peer is given up after {seconds:.0f} s"
    return Hop.warn(name, found, DO) if seconds > PATIENCE else Hop.ok(name, found)


def _make_before_break(version: str, values: Mapping[str, str]) -> Hop:
    name = "make_before_break"
    major = version.rpartition(" ")[2].partition(".")[0]
    default = "yes" if major.isdigit() and int(major) >= 6 else "no"
    if is_off(values.get(name, default)):
        return Hop.warn(name, "no: each reauthentication interrupts its tunnel", DO)
    return Hop.ok(name, "yes: reauthentication leaves no gap")


# ---------------------------------------------------------------- a node with many peers


@dataclass(frozen=True, slots=True)
class _Limit:
    """A setting whose default is for few peers."""

    default: int
    because: str
    """What is the matter with less than the least."""
    least: int = 0
    per_peer: float = 0
    """The least again, a peer: the larger of the two counts."""
    or_none: bool = False
    """0: without any limit."""


LIMITS: Final = {
    # Four IKE_SAs to look through are as good as one.
    "ikesa_table_size": _Limit(
        1, "charon looks through a list of many IKE_SAs for that of each packet", per_peer=1 / 4
    ),
    "ikesa_table_segments": _Limit(1, "charon's threads wait for one lock on all IKE_SAs", least=2),
    # After a restart all may come at once.
    "cookie_threshold": _Limit(
        30,
        "when more peers than that come at once, charon asks for cookies in the middle of their "
        "handshakes, and some have to begin anew",
        per_peer=1,
        or_none=True,
    ),
    # How many share an address nobody knows here: whoever has raised it has thought of it.
    "block_threshold": _Limit(
        5,
        "when more peers than that come at once from behind one address, charon ignores the others",
        least=6,
        or_none=True,
    ),
}
"""By name. The thresholds are of half-open IKE_SAs that peers have begun."""


def _limit(name: str, values: Mapping[str, str], peers: int) -> Hop:
    limit = LIMITS[name]
    try:
        value = int(values.get(name, limit.default))
    except ValueError:
        return Hop.unknown(name, f"{values[name]} is no number", DO_LARGE)
    least = max(limit.least, limit.per_peer * peers)
    if value < least and not (limit.or_none and value == 0):
        return Hop.warn(name, f"{value}, for {peers} peers: {limit.because}", DO_LARGE)
    return Hop.ok(name, f"{value}, for {peers} peers")
