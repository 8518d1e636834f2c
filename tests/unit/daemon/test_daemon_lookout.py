"""Which connections are looked at after what was heard and done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from fabricd.core.action import Action, Disruption, Kind, Outcome
from fabricd.core.state import ChildSa, IkeSa, IkeState
from fabricd.daemon.lookout import FEW, Lookout
from fabricd.errors import Unavailable
from tests.unit.daemon.fakes import FakeCharon

CHILD = ChildSa(
    2, "2.2.2.0/27-2.2.2.32/27-d1", "INSTALLED", frozenset({"2.2.2.0/27"}), frozenset(), age=5
)


class Bench:
    """A lookout that has looked at everything."""

    def __init__(self) -> None:
        self.charon = FakeCharon()
        self.charon.held.sas = [
            IkeSa(n, f"fabric-edge{n}", "ESTABLISHED", True, age=10, children=(CHILD,))
            for n in (3, 4)
        ]
        self.lookout = Lookout(self.charon, trio.current_time)
        self.seen: IkeState | None = None

    async def look(self) -> IkeState:
        self.seen = await self.lookout.look(self.seen)
        return self.seen

    @property
    def looked_at(self) -> object:
        """In the last look; None: everything."""
        return self.charon.looked_at[-1]


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.look()
    return bench


def outcome(kind: Kind, target: str, error: str | None = None) -> Outcome:
    return Outcome(Action(kind, target, Disruption.NONE, "", target), error)


async def test_the_first_look_is_at_everything() -> None:
    bench = Bench()
    assert bench.lookout.due
    await bench.look()
    assert bench.looked_at is None
    assert not bench.lookout.due


@pytest.mark.parametrize(
    "line",
    ["child-updown fabric-edge3", "ike-rekey fabric-edge3", "initiated fabric-edge3"],
)
async def test_what_tells_of_a_connection_has_that_one_looked_at(bench: Bench, line: str) -> None:
    bench.lookout.heard(line)
    bench.lookout.heard("child-updown fabric-edge4")
    assert bench.lookout.due
    await bench.look()
    assert bench.looked_at == {"fabric-edge3", "fabric-edge4"}
    assert not bench.lookout.due


@pytest.mark.parametrize("line", ["charon is gone", "charon is there", "test", "fabric-edge3"])
async def test_what_tells_of_anything_else_has_everything_looked_at(
    bench: Bench, line: str
) -> None:
    bench.lookout.heard("child-updown fabric-edge3")
    bench.lookout.heard(line)
    await bench.look()
    assert bench.looked_at is None


async def test_many_connections_are_not_looked_at_one_by_one(bench: Bench) -> None:
    for number in range(FEW):
        bench.lookout.heard(f"child-updown fabric-edge{number}")
    await bench.look()
    assert bench.looked_at is not None
    for number in range(FEW + 1):
        bench.lookout.heard(f"child-updown fabric-edge{number}")
    await bench.look()
    assert bench.looked_at is None


async def test_what_was_done_to_connections_has_those_looked_at(bench: Bench) -> None:
    bench.lookout.acted(
        [
            outcome(Kind.CONN_LOAD, "fabric-edge3"),
            outcome(Kind.CHILD_REKEY, "fabric-edge4 2.2.2.0/27-2.2.2.32/27-d1 #2"),
            outcome(Kind.ROUTE_SET, "2.2.2.32/27 dev fabric0", "refused"),
        ]
    )
    await bench.look()
    assert bench.looked_at == {"fabric-edge3", "fabric-edge4"}


@pytest.mark.parametrize(
    "done",
    [
        outcome(Kind.CONN_LOAD, "fabric-edge3", "refused"),
        outcome(Kind.AUTHORITY_LOAD, "fabric-ca-0123456789ab"),
        outcome(Kind.KEY_LOAD, "0123"),
    ],
)
async def test_what_failed_or_is_about_no_connection_has_everything_looked_at(
    bench: Bench, done: Outcome
) -> None:
    bench.lookout.acted([done])
    await bench.look()
    assert bench.looked_at is None


async def test_what_was_done_in_the_kernel_is_none_of_its_business(bench: Bench) -> None:
    bench.lookout.acted([outcome(Kind.ROUTE_SET, "2.2.2.32/27 dev fabric0", "refused")])
    assert not bench.lookout.due


async def test_what_is_heard_meanwhile_is_for_the_next_look(bench: Bench) -> None:
    def hear() -> None:
        bench.charon.before_observed = lambda: None
        bench.lookout.heard("child-updown fabric-edge4")

    bench.charon.before_observed = hear
    bench.lookout.heard("child-updown fabric-edge3")
    await bench.look()
    assert bench.looked_at == {"fabric-edge3"}
    assert bench.lookout.due
    await bench.look()
    assert bench.looked_at == {"fabric-edge4"}


async def test_after_a_charon_that_did_not_answer_everything_is_looked_at(bench: Bench) -> None:
    bench.charon.away = "hangs"
    bench.lookout.heard("child-updown fabric-edge3")
    with pytest.raises(Unavailable):
        await bench.look()
    bench.charon.away, bench.seen = "", None
    bench.lookout.heard("child-updown fabric-edge3")
    await bench.look()
    assert bench.looked_at is None


async def test_only_a_look_at_everything_counts_as_one(
    bench: Bench, autojump_clock: MockClock
) -> None:
    start = bench.lookout.seen_at
    await trio.sleep(5)
    bench.lookout.heard("child-updown fabric-edge3")
    await bench.look()
    assert bench.lookout.seen_at == start
    bench.lookout.doubt()
    await bench.look()
    assert bench.lookout.seen_at == start + 5


async def test_what_is_not_looked_at_grows_older_all_the_same(
    bench: Bench, autojump_clock: MockClock
) -> None:
    for _ in range(40):
        await trio.sleep(0.25)
        bench.lookout.heard("child-updown fabric-edge3")
        bench.charon.held.sas = [replace(sa, age=77) for sa in bench.charon.held.sas]
        seen = await bench.look()
    ages = {sa.conn: (seen.age_of(sa), seen.age_of(sa.children[0])) for sa in seen.sas}
    assert ages == {"fabric-edge3": (77, 5), "fabric-edge4": (20, 15)}


async def test_what_turns_out_to_be_another_charon_was_looked_at_as_a_whole(
    bench: Bench, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.sleep(12)
    bench.charon.held.sas = [replace(sa, age=1) for sa in bench.charon.held.sas]
    with monkeypatch.context() as anew:
        observe = bench.charon.observe
        anew.setattr(bench.charon, "observe", lambda *_: observe())
        bench.lookout.heard("child-updown fabric-edge3")
        await bench.look()
    await trio.sleep(1)
    bench.lookout.heard("child-updown fabric-edge3")
    bench.charon.held.sas = [replace(sa, age=2) for sa in bench.charon.held.sas]
    seen = await bench.look()
    assert {sa.conn: seen.age_of(sa) for sa in seen.sas} == {"fabric-edge3": 2, "fabric-edge4": 2}
