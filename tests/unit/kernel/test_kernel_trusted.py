"""What was read is believed for a while, unless something was heard of it."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.testing import MockClock

from fabricd.kernel.trusted import LASTS, Trusted


class Source:
    """Says how often it was read; `meanwhile` happens while it is."""

    def __init__(self) -> None:
        self.reads = 0
        self.meanwhile: Callable[[], object] = lambda: None

    async def read(self) -> int:
        self.reads += 1
        answer = self.reads
        await trio.sleep(1)
        self.meanwhile()
        return answer


async def test_it_is_read_once_until_time_is_up(autojump_clock: MockClock) -> None:
    trusted, source = Trusted[str, int](), Source()
    assert [await trusted.of("table", source.read) for _ in range(3)] == [1, 1, 1]
    assert await trusted.of("another", source.read) == 2
    await trio.sleep(LASTS)
    assert await trusted.of("table", source.read) == 3


async def test_it_is_read_again_when_it_is_doubted(autojump_clock: MockClock) -> None:
    trusted, source = Trusted[str, int](), Source()
    await trusted.of("table", source.read)
    trusted.doubt("another")
    assert await trusted.of("table", source.read) == 1
    trusted.doubt("table")
    assert await trusted.of("table", source.read) == 2
    trusted.doubt_all()
    assert await trusted.of("table", source.read) == 3
    trusted.keep({"another"})
    assert await trusted.of("table", source.read) == 4


async def test_what_is_doubted_while_it_is_read_is_read_again(autojump_clock: MockClock) -> None:
    trusted, source = Trusted[str, int](), Source()
    source.meanwhile = lambda: trusted.doubt("table")
    assert await trusted.of("table", source.read) == 1
    source.meanwhile = lambda: None
    assert await trusted.of("table", source.read) == 2
    assert await trusted.of("table", source.read) == 2


async def test_an_older_reader_does_not_outdo_a_younger_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    trusted, source = Trusted[str, int](), Source()
    nursery.start_soon(trusted.of, "table", source.read)
    await trio.sleep(0.5)
    trusted.doubt("table")
    assert await trusted.of("table", source.read) == 2
    assert await trusted.of("table", source.read) == 2
