"""Whether a tunnel is silent, told as what happens to it, second by second."""

from __future__ import annotations

import itertools

from fabricd.core.health import (
    DEAF,
    DOUBT,
    LOST,
    MISSES,
    Pulse,
    answered,
    begun,
    complaint,
    doubt,
    due,
    missed,
    observed,
    repaired,
    told,
)


class Tunnel:
    """A pulse with a clock, and one CHILD_SA whose counters it sees."""

    def __init__(self, came: int = 0, went: int = 0) -> None:
        self.now = 100.0
        self.counters = {1: (came, went)}
        self.pulse: Pulse = begun(self.counters, self.now)

    def carry(self, came: int = 0, went: int = 0, sa: int = 1) -> None:
        before = self.counters.get(sa, (0, 0))
        self.counters = {**self.counters, sa: (before[0] + came, before[1] + went)}

    def probe(self, times: int = 1, *, answer: bool = False, came: int = 0) -> None:
        for _ in range(times):
            sent = self.now
            self.now += 15
            self.carry(came, went=44)
            self.pulse = observed(self.pulse, self.counters, self.now)
            if answer:
                self.pulse = answered(self.pulse, self.now)
            else:
                self.pulse = missed(self.pulse, sent, self.now)

    @property
    def complaint(self) -> str:
        return complaint(self.pulse)


def test_one_that_is_answered_is_alive() -> None:
    tunnel = Tunnel()
    tunnel.probe(100, answer=True)
    assert (tunnel.complaint, due(tunnel.pulse, tunnel.now)) == ("", False)


def test_silent_after_so_many_misses_and_not_before() -> None:
    tunnel = Tunnel()
    tunnel.probe(answer=True)
    tunnel.probe(MISSES - 1)
    assert tunnel.complaint == ""
    tunnel.probe()
    assert tunnel.complaint == LOST
    tunnel.probe(20)
    assert tunnel.complaint == LOST
    tunnel.probe(answer=True)
    assert tunnel.complaint == ""
    tunnel.probe(MISSES - 1)
    assert tunnel.complaint == ""


def test_one_that_never_carried_anything_is_silent_too() -> None:
    tunnel = Tunnel()
    tunnel.probe(MISSES)
    assert tunnel.complaint == LOST


def test_what_came_in_before_the_first_look_is_no_sign_of_life() -> None:
    tunnel = Tunnel(came=10_000)
    tunnel.probe(MISSES)
    assert tunnel.complaint == LOST


def test_a_peer_that_answers_nobody_but_sends_is_alive() -> None:
    tunnel = Tunnel()
    tunnel.probe(100, came=1)
    assert tunnel.complaint == ""


def test_a_peer_that_answers_nobody_and_falls_silent_is_not_judged() -> None:
    """Its firewall is in the way, or the path is: nobody can tell."""
    tunnel = Tunnel()
    tunnel.probe(3, came=1)
    tunnel.probe(100)
    assert tunnel.complaint == ""


def test_a_peer_that_has_answered_and_does_not_any_more_is_alive_while_it_sends() -> None:
    tunnel = Tunnel()
    tunnel.probe(3, answer=True)
    tunnel.probe(100, came=44)
    assert tunnel.complaint == ""
    tunnel.probe(MISSES)
    assert tunnel.complaint == LOST


def test_a_probe_after_which_bytes_came_is_not_missed() -> None:
    tunnel = Tunnel()
    tunnel.probe(answer=True)
    tunnel.probe(came=1)
    tunnel.probe(MISSES - 1)
    assert tunnel.complaint == ""


def test_bytes_that_come_in_end_the_silence() -> None:
    tunnel = Tunnel()
    tunnel.probe(MISSES)
    tunnel.probe(came=1)
    assert tunnel.complaint == ""


def test_a_new_child_sa_that_carries_something_ends_it_and_an_empty_one_does_not() -> None:
    tunnel = Tunnel(came=500)
    tunnel.probe(MISSES)
    tunnel.counters = {}
    tunnel.carry(came=0, sa=2)
    tunnel.probe()
    assert tunnel.complaint == LOST
    tunnel.carry(came=1, sa=2)
    tunnel.probe()
    assert tunnel.complaint == ""


def test_the_peer_is_believed_for_a_while() -> None:
    tunnel = Tunnel()
    tunnel.probe(came=1)
    tunnel.pulse = told(tunnel.pulse, tunnel.now + 60, tunnel.now)
    assert tunnel.complaint == DEAF
    tunnel.probe(3, came=1)
    assert tunnel.complaint == DEAF
    tunnel.probe(came=1)
    assert tunnel.complaint == ""
    tunnel.pulse = told(tunnel.pulse, tunnel.now + 60, tunnel.now)
    tunnel.pulse = told(tunnel.pulse, 0, tunnel.now)
    assert tunnel.complaint == ""


def test_an_answer_contradicts_the_peer() -> None:
    tunnel = Tunnel()
    tunnel.pulse = told(tunnel.pulse, tunnel.now + 60, tunnel.now)
    tunnel.probe(answer=True)
    assert tunnel.complaint == ""


def test_it_is_made_anew_after_ever_longer_pauses_and_at_once_the_next_time() -> None:
    tunnel = Tunnel()
    tunnel.probe(answer=True)

    def repairs(seconds: int) -> list[float]:
        tried = []
        for _ in range(seconds // 15):
            if due(tunnel.pulse, tunnel.now):
                tried.append(tunnel.now)
                tunnel.pulse = repaired(tunnel.pulse, tunnel.now)
            tunnel.probe()
        return tried

    pauses = [later - earlier for earlier, later in itertools.pairwise(repairs(5 * 3600))]
    assert pauses[:6] == [30, 60, 120, 240, 480, 600]
    assert set(pauses[6:]) == {600}
    tunnel.probe(answer=True)
    assert not due(tunnel.pulse, tunnel.now + 10_000)
    tunnel.probe(MISSES)
    assert due(tunnel.pulse, tunnel.now)


def test_a_doubt_where_only_this_side_sends() -> None:
    tunnel = Tunnel()
    tunnel.probe(came=1)
    assert doubt(tunnel.pulse, tunnel.now + DOUBT - 1) == ""
    tunnel.probe(int(DOUBT // 15))
    assert "none have come out for more than 5 min" in doubt(tunnel.pulse, tunnel.now)
    tunnel.probe(came=1)
    assert doubt(tunnel.pulse, tunnel.now) == ""


def test_an_idle_tunnel_is_no_doubt() -> None:
    tunnel = Tunnel()
    assert doubt(tunnel.pulse, tunnel.now + 10 * DOUBT) == ""
