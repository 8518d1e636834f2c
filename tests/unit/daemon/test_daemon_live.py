"""What a page that is open is told, when, and how often, in simulated time."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabricd.core.events import Changed, Listed
from fabricd.daemon.live import ALIVE, HEARTBEAT, PAUSE, Live
from fabricd.daemon.page import parts
from fabricd.daemon.recent import Recent
from tests.unit.daemon.aside import at_once
from tests.unit.daemon.fakes import RECORDS
from tests.unit.daemon.test_daemon_daemon import EDGE4, House, house, until
from tests.unit.daemon.test_daemon_page import peer, picture, status

__all__ = ["house"]  # a fixture

ALIVE_PASSES = int(ALIVE / PAUSE * 4)
"""Passes, one each time that an event might be sent, in four times the quiet of a stream."""


class Desk:
    """A daemon's status, and pages that are open on it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.peers = {"edge3": peer("edge3")}
        self.recent = Recent()
        self.looked = 0
        self.live = Live(self.status, self.recent, at_once)

    async def status(self) -> dict[str, Any]:
        self.looked += 1
        return status(*self.peers.values(), time=trio.current_time())

    def change(self, **fields: Any) -> None:
        """edge3's fields, and a pass that has seen them."""
        self.peers["edge3"] = self.peers["edge3"] | fields
        self.live.poke()

    def open(self) -> Page:
        page = Page()
        self._nursery.start_soon(self.live.write, page.send)
        return page


class Page:
    """What was sent to one page."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.takes = trio.Event()
        self.takes.set()

    async def send(self, piece: bytes) -> None:
        await self.takes.wait()
        self.pieces.append((trio.current_time(), piece))

    def news(self) -> list[dict[str, Any]]:
        """What is in the events about parts, and nothing of what came before."""
        found = []
        for _, piece in self.pieces:
            if piece.startswith(b"event: parts\n"):
                assert piece.count(b"\n") == 3
                assert piece.endswith(b"\n\n")
                found.append(json.loads(piece.split(b"\ndata: ")[1]))
        self.pieces.clear()
        return found


@pytest.fixture
def desk(nursery: trio.Nursery) -> Desk:
    return Desk(nursery)


async def test_a_page_that_opens_is_told_everything(desk: Desk, autojump_clock: MockClock) -> None:
    page = desk.open()
    await wait_all_tasks_blocked()
    assert page.pieces[0][1] == b"retry: 2000\n\n"
    [news] = page.news()
    assert news["title"] == "edge2: 1 of 1 tunnels up"
    assert news["parts"] == parts(await desk.status(), desk.recent)


async def test_then_only_of_what_has_changed(desk: Desk, autojump_clock: MockClock) -> None:
    page = desk.open()
    await trio.sleep(10)
    page.news()
    desk.change(up=False, state="connecting", reason="no answer")
    await trio.sleep(1)
    [news] = page.news()
    assert news["title"] == "edge2: 0 of 1 tunnels up"
    assert set(news["parts"]) == {"head", "fabric", "peers", "foot"}
    assert "no answer" in news["parts"]["peers"]

    desk.recent.note(picture(1, "edge3"), 5.0)
    desk.live.poke()
    await trio.sleep(1)
    [news] = page.news()
    assert set(news["parts"]) == {"recent", "foot"}


async def test_what_is_no_change_in_essence_is_not_told(
    desk: Desk, autojump_clock: MockClock
) -> None:
    page = desk.open()
    await trio.sleep(1)
    page.news()
    for number in range(ALIVE_PASSES):
        desk.change(bytes_in=number)
        await trio.sleep(PAUSE)
    assert page.news() == []


async def test_a_quiet_stream_says_that_it_is_alive_however_many_passes_there_are(
    desk: Desk, autojump_clock: MockClock
) -> None:
    quiet = desk.open()
    await trio.sleep(4 * ALIVE)
    said = [when for when, piece in quiet.pieces if piece == HEARTBEAT]
    assert len(said) == 3
    quiet.pieces.clear()
    for number in range(ALIVE_PASSES):
        desk.change(bytes_in=number)
        await trio.sleep(PAUSE)
    assert 3 <= len([piece for _, piece in quiet.pieces if piece == HEARTBEAT]) <= 4


async def test_at_most_one_event_a_second_and_the_last_state_is_always_told(
    desk: Desk, autojump_clock: MockClock
) -> None:
    page = desk.open()
    await trio.sleep(5)
    page.news()
    for number in range(100):
        desk.change(reason=f"attempt {number}")
        await trio.sleep(0.05)
    await trio.sleep(2)
    times = [when for when, _ in page.pieces]
    assert all(after - before >= PAUSE for before, after in pairwise(times))
    told = page.news()
    assert 4 <= len(told) <= 6
    assert "attempt 99" in told[-1]["parts"]["peers"]


async def test_a_change_is_told_at_once(desk: Desk, autojump_clock: MockClock) -> None:
    page = desk.open()
    await trio.sleep(ALIVE * 1.5)
    page.news()
    start = trio.current_time()
    desk.change(up=False)
    await wait_all_tasks_blocked()
    assert [when for when, _ in page.pieces] == [start]


async def test_many_pages_cost_one_look(desk: Desk, autojump_clock: MockClock) -> None:
    pages = [desk.open() for _ in range(16)]
    await trio.sleep(5)
    for page in pages:
        page.news()
    desk.looked = 0
    desk.change(up=False)
    await trio.sleep(1)
    assert [len(page.news()) for page in pages] == [1] * 16
    assert desk.looked == 1


async def test_nobody_looks_while_no_page_is_open(desk: Desk, autojump_clock: MockClock) -> None:
    for number in range(10):
        desk.change(reason=str(number))
        await trio.sleep(1)
    assert desk.looked == 0


async def test_a_page_that_is_slow_gets_the_state_as_it_is_then(
    desk: Desk, autojump_clock: MockClock
) -> None:
    page = desk.open()
    await trio.sleep(5)
    page.news()
    page.takes = trio.Event()
    for number in range(10):
        desk.change(reason=f"attempt {number}")
        await trio.sleep(2)
    page.takes.set()
    await trio.sleep(2)
    told = [news["parts"]["peers"] for news in page.news()]
    assert len(told) == 2, "the one that it was slow to take, and the last"
    assert "attempt 9" in told[-1]


async def test_counters_never_go_back_when_another_page_opens(
    desk: Desk, autojump_clock: MockClock
) -> None:
    first = desk.open()
    await trio.sleep(5)
    first.news()
    desk.peers["edge3"]["bytes_in"] = 777
    second = desk.open()
    await trio.sleep(1)
    assert "777" in second.news()[0]["parts"]["peers"]
    assert first.news() == []


# ---------------------------------------------------------------- of a whole daemon


async def test_a_daemon_tells_its_pages_of_records_and_of_what_was_done_and_why(
    house: House, autojump_clock: MockClock
) -> None:
    received = bytearray()

    async def read(stream: trio.abc.ReceiveStream) -> None:
        async for piece in stream:
            received.extend(piece)

    async with house.running(), trio.open_nursery() as nursery:
        house.store.say(Listed(RECORDS))
        await house.at_rest()
        async with await trio.open_tcp_stream("127.0.0.1", house.port) as stream:
            await stream.send_all(b"GET /events HTTP/1.0\r\n\r\n")
            nursery.start_soon(read, stream)
            await until(lambda: b"2 of 2 tunnels up" in received)
            head, _, body = bytes(received).partition(b"\r\n\r\n")
            assert b"content-type: text/event-stream" in head
            assert body.startswith(b"retry: 2000\n\nevent: parts\ndata: {")
            received.clear()
            house.store.say(Changed((EDGE4,)))
            await until(lambda: b"3 of 3 tunnels up" in received)
            for text in (b"child.initiate", b"fabric-edge4", b"record nodes/edge4"):
                assert text in received
            nursery.cancel_scope.cancel()
