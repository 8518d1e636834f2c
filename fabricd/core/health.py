"""Whether anything comes out of a tunnel that charon calls installed: judged by probes that are
answered or not, and by the byte counters.

    a probe is answered, or bytes came in ──► it is alive
    MISSES probes in a row, and no bytes   ──► it is silent, from now on its CHILD_SA is made anew,
                                               after ever longer pauses, until it is alive again

Whatever comes in overrules a probe: a peer that does not answer is not silent while it sends. And
one that has never answered, but has sent something, is not judged by its answers: its firewall may
be in the way. What a probe is, and how one is sent, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

MISSES: Final = 4
"""Probes in a row that nothing follows."""

PAUSES: Final = (30.0, 600.0)
"""Seconds from one attempt to make a CHILD_SA anew to the next: at first, and in the long run."""

LOST: Final = "packets go in, none come out, and no probe is answered"
DEAF: Final = "the peer says that nothing comes out at its end"

DOUBT: Final = 300.0
"""Seconds in which only this side sends, after which that is worth a word."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is known of one pair of subnets that has a CHILD_SA. Times are seconds of one clock."""

    started: float
    counters: Mapping[int, tuple[int, int]]
    """Bytes in and out by the CHILD_SA's id, as last seen."""
    heard: float | None = None
    """When something came out last, since `started`; None: nothing has."""
    sent: int = 0
    """Bytes that went in since something came out."""
    answered: bool = False
    """A probe has been answered."""
    misses: int = 0
    deaf_until: float = 0.0
    """Until then the peer is believed that nothing of ours comes out at its end."""
    silent_since: float | None = None
    repairs: int = 0
    """How often its CHILD_SA has been made anew since then."""
    repair_at: float = 0.0

    @property
    def judged(self) -> bool:
        """Whether probes that go unanswered mean something."""
        return self.answered or self.heard is None

    @property
    def unsettled(self) -> bool:
        """Whether time alone may change what is thought of it."""
        return self.silent_since is not None or self.deaf_until > 0.0

    @property
    def lost(self) -> bool:
        """Nothing comes out here."""
        return self.judged and self.misses >= MISSES


def begun(counters: Mapping[int, tuple[int, int]], now: float) -> Pulse:
    """The first look at a pair. What came in before that does not count."""
    return Pulse(now, counters)


def observed(pulse: Pulse, counters: Mapping[int, tuple[int, int]], now: float) -> Pulse:
    """Another look at the counters of the pair's CHILD_SAs, those of a new one among them."""
    before = pulse.counters
    came = sum(max(n - before.get(sa, (0, 0))[0], 0) for sa, (n, _) in counters.items())
    went = sum(max(n - before.get(sa, (0, 0))[1], 0) for sa, (_, n) in counters.items())
    pulse = replace(pulse, counters=counters)
    if came:
        pulse = replace(pulse, heard=now, sent=0, misses=0)
    else:
        pulse = replace(pulse, sent=pulse.sent + went)
    return _judged(pulse, now)


def answered(pulse: Pulse, now: float) -> Pulse:
    """A probe was answered: packets come through both ways."""
    return _judged(replace(pulse, heard=now, sent=0, answered=True, misses=0, deaf_until=0.0), now)


def missed(pulse: Pulse, sent: float, now: float) -> Pulse:
    """A probe was not answered, and `observed` has seen the counters since it was sent."""
    if pulse.heard is not None and pulse.heard > sent:
        return pulse
    return _judged(replace(pulse, misses=pulse.misses + 1), now)


def told(pulse: Pulse, deaf_until: float, now: float) -> Pulse:
    """The peer says that nothing of ours comes out at its end, which holds until then; 0: that
    something does.
    """
    return _judged(replace(pulse, deaf_until=deaf_until), now)


def repaired(pulse: Pulse, now: float) -> Pulse:
    """Its CHILD_SA is being made anew."""
    first, last = PAUSES
    pause = min(first * 2.0 ** min(pulse.repairs, 16), last)
    return replace(pulse, repairs=pulse.repairs + 1, repair_at=now + pause)


def due(pulse: Pulse, now: float) -> bool:
    """Whether its CHILD_SA is to be made anew now."""
    return pulse.silent_since is not None and now >= pulse.repair_at


def complaint(pulse: Pulse) -> str:
    """Why the tunnel is not up, though its CHILD_SA is: one line, or ""."""
    if pulse.silent_since is None:
        return ""
    if pulse.lost:
        return LOST
    return DEAF


def doubt(pulse: Pulse, now: float) -> str:
    """What is odd about a tunnel that is not called silent: one line, or ""."""
    quiet = now - (pulse.started if pulse.heard is None else pulse.heard)
    if pulse.silent_since is not None or not pulse.sent or quiet < DOUBT:
        return ""
    return f"packets go in, none have come out for more than {DOUBT // 60:.0f} min"


def _judged(pulse: Pulse, now: float) -> Pulse:
    silent = pulse.lost or now < pulse.deaf_until
    if silent == (pulse.silent_since is not None):
        return pulse
    since = now if silent else None
    return replace(pulse, silent_since=since, repairs=0, repair_at=now)
