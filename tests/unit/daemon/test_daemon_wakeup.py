"""Many pokes, one wait."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabricd.daemon.wakeup import MAX_REASONS, Wakeup


async def test_pokes_before_the_wait_are_one_answer() -> None:
    wakeup = Wakeup()
    for reason in ("records", "link br-edge", "records"):
        wakeup.poke(reason)
    assert await wakeup.wait(10) == ("records", "link br-edge")


async def test_nothing_is_answered_twice(autojump_clock: MockClock) -> None:
    wakeup = Wakeup()
    wakeup.poke("records")
    assert await wakeup.wait(10) == ("records",)
    start = trio.current_time()
    assert await wakeup.wait(10) == ()
    assert trio.current_time() == start + 10


async def test_a_poke_ends_the_wait(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wakeup = Wakeup()
    answers: list[tuple[str, ...]] = []

    async def wait() -> None:
        answers.append(await wakeup.wait(float("inf")))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert answers == []
    wakeup.poke("records")
    await wait_all_tasks_blocked()
    assert answers == [("records",)]


async def test_without_time_to_wait_it_tells_what_there_is(autojump_clock: MockClock) -> None:
    wakeup = Wakeup()
    assert await wakeup.wait(0) == ()
    wakeup.poke("records")
    assert await wakeup.wait(0) == ("records",)
    start = trio.current_time()
    assert await wakeup.wait(5) == ()  # that poke has been answered
    assert trio.current_time() == start + 5


async def test_a_flood_keeps_no_more_than_a_few_reasons() -> None:
    wakeup = Wakeup()
    for number in range(10_000):
        wakeup.poke(f"route {number}")
    assert len(await wakeup.wait(10)) == MAX_REASONS
