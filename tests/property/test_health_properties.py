"""Silence, whatever happens to a tunnel in whatever order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core import health
from fabricd.core.health import MISSES, PAUSES, Pulse

INTERVAL = 15.0

EVENTS = st.lists(
    st.sampled_from(["answer", "miss", "miss and bytes", "rekey", "deaf", "hears", "look"]),
    max_size=80,
)


def after(event: str, pulse: Pulse, now: float) -> Pulse:
    """One more interval."""
    sent = now - INTERVAL
    counters = dict(pulse.counters)
    newest = max(counters)
    came, went = counters[newest]
    counters[newest] = came + (event == "miss and bytes"), went + 44
    if event == "rekey":
        counters = {newest + 1: (0, 0)}
    pulse = health.observed(pulse, counters, now)
    match event:
        case "answer":
            return health.answered(pulse, now)
        case "miss" | "miss and bytes":
            return health.missed(pulse, sent, now)
        case "deaf":
            return health.told(pulse, now + 4 * INTERVAL, now)
        case "hears":
            return health.told(pulse, 0, now)
    return pulse


def story(events: list[str]) -> list[tuple[float, Pulse]]:
    """What is known after each."""
    now, pulse = 0.0, health.begun({1: (5, 5)}, 0.0)
    told = []
    for event in events:
        now += INTERVAL
        pulse = after(event, pulse, now)
        told.append((now, pulse))
        if health.due(pulse, now):
            pulse = health.repaired(pulse, now)
    return told


@given(EVENTS)
def test_a_complaint_is_made_exactly_while_it_is_silent(events: list[str]) -> None:
    for now, pulse in story(events):
        silent = pulse.silent_since is not None
        assert bool(health.complaint(pulse)) == silent
        assert silent or not health.due(pulse, now)
        assert not (silent and health.doubt(pulse, now + 1e6))


@given(EVENTS)
def test_it_is_never_silent_while_something_comes_out_and_the_peer_does_not_say_otherwise(
    events: list[str],
) -> None:
    events = [event for event in events if event != "deaf"]
    quiet = 0
    for event, (_, pulse) in zip(events, story(events), strict=True):
        quiet = 0 if event in {"answer", "miss and bytes"} else quiet + (event == "miss")
        assert quiet >= MISSES or pulse.silent_since is None


@given(EVENTS)
def test_a_peer_that_has_only_ever_sent_is_never_called_silent(events: list[str]) -> None:
    events = ["miss and bytes", *(e for e in events if e not in {"answer", "deaf"})]
    assert all(pulse.silent_since is None for _, pulse in story(events))


@given(EVENTS)
def test_whatever_was_before_so_many_misses_are_silence_and_an_answer_ends_it(
    events: list[str],
) -> None:
    told = story([*events, "answer", *["miss"] * MISSES, "answer"])
    assert told[-2][1].silent_since is not None
    assert told[-1][1].silent_since is None


@given(EVENTS, st.integers(1, 200))
def test_attempts_lie_ever_further_apart_but_not_too_far(events: list[str], silence: int) -> None:
    told = story([*events, "answer", *["miss"] * silence])[len(events) :]
    tried = [now for now, pulse in told if health.due(pulse, now)]
    assert bool(tried) == (silence >= MISSES)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert all(PAUSES[0] <= pause <= PAUSES[1] for pause in pauses)
