"""A connection to a charon that misbehaves: a script on a real unix socket plays its part."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from vici.protocol import Message

from fabricd.core.action import Action, Disruption, Kind
from fabricd.core.state import IkeSa
from fabricd.errors import Unavailable
from fabricd.ike import Charon
from fabricd.ike.connection import WINDOW, Connection, Lost
from fabricd.ike.protocol import Request

REFUSED = Message.serialize({"success": "no", "errmsg": "no"})

Script = Callable[[trio.SocketStream], Awaitable[None]]


def segment(payload: bytes) -> bytes:
    return struct.pack("!I", len(payload)) + payload


REPLY, UNKNOWN, CONFIRM, NO_EVENT = (segment(bytes([kind])) for kind in (1, 2, 5, 6))


def event(name: str, message: bytes = b"") -> bytes:
    return segment(b"\x07" + bytes([len(name)]) + name.encode() + message)


class Requests:
    """The segments that a client sends, one at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def next(self) -> bytes:
        length = struct.unpack("!I", await self._exactly(4))[0]
        return await self._exactly(length)

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some()
            if not data:
                raise EOFError
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@asynccontextmanager
async def played(path: Path, *scripts: Script) -> AsyncIterator[str]:
    """A server on `path`: the first connection is played the first script, and so on."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen()

    async def serve() -> None:
        for script in scripts:
            peer, _ = await listener.accept()
            stream = trio.SocketStream(peer)
            await script(stream)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with listener:
            yield str(path)
            nursery.cancel_scope.cancel()


def sends(*replies: bytes) -> Script:
    """Read a request, send a reply, and so on."""

    async def script(stream: trio.SocketStream) -> None:
        requests = Requests(stream)
        for reply in replies:
            await requests.next()
            await stream.send_all(reply)

    return script


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def version(path: str) -> object:
    async with Connection.opened(path, deadline=5) as connection:
        return await connection.exchange([Request("version")])


async def test_events_between_are_no_answers(tmp_path: Path) -> None:
    item = event("list-sa", b"\x03\x01a\x00\x01b")
    script = sends(CONFIRM, event("other") + item + item + REPLY, event("list-sa") + CONFIRM)
    async with played(tmp_path / "vici", script) as path, Connection.opened(path, 5) as connection:
        [answer] = await connection.exchange([Request("list-sas", stream="list-sa")])
        assert answer.items == [{"a": b"b"}, {"a": b"b"}]


async def test_of_many_requests_the_next_are_made_while_those_before_are_answered(
    tmp_path: Path,
) -> None:
    total, made, ahead = 3 * WINDOW, 0, []

    def requests() -> Iterator[Request]:
        nonlocal made
        for number in range(total):
            made += 1
            yield Request("unload-conn", {"name": f"fabric-edge{number}"})

    async def script(stream: trio.SocketStream) -> None:
        asked = Requests(stream)
        for number in range(total):
            assert f"fabric-edge{number}".encode() in await asked.next()
            ahead.append(made - number)
            await stream.send_all(segment(bytes([1]) + REFUSED))

    async with played(tmp_path / "charon", script) as path, Connection.opened(path, 5) as charon:
        answers = await charon.exchange(requests())
    assert [answer.error for answer in answers] == ["no"] * total
    assert max(ahead) == WINDOW
    assert min(ahead[: total - WINDOW]) > 1, "charon is never without work"


async def test_events_that_charon_does_not_know_are_left_out(tmp_path: Path) -> None:
    script = sends(CONFIRM, NO_EVENT, event("one", b"\x03\x01a\x00\x01b") + CONFIRM, event("two"))
    async with played(tmp_path / "vici", script) as path, Connection.opened(path, 5) as connection:
        await connection.subscribe(["one", "two", "three"])


@pytest.fixture
def socket_without_listener(tmp_path: Path) -> Path:
    path = tmp_path / "vici"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    return path


async def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"charon: no socket .*/vici: is charon running"):
        await version(str(tmp_path / "vici"))


async def test_nobody_listens(socket_without_listener: Path) -> None:
    with pytest.raises(Unavailable, match=r"nobody listens on .*: charon is not running, start it"):
        await version(str(socket_without_listener))


async def test_no_socket_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can't connect to "):
        await version(str(tmp_path / ("x" * 200)))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak VICI .*: a segment of 1213486160 bytes"),
        (segment(b"\x01\x03\x05ab"), "does not speak VICI .*: a message that ends too early"),
        (UNKNOWN, "no command version"),
        (CONFIRM, "an answer that does not fit version"),
        (b"", "was lost: charon stopped or was restarted"),
        (REPLY[:3], "was lost: charon stopped or was restarted"),
    ],
)
async def test_every_bad_answer_is_unavailable(tmp_path: Path, answer: bytes, reason: str) -> None:
    async with played(tmp_path / "vici", sends(answer)) as path:
        with pytest.raises(Unavailable, match=reason):
            await version(path)


async def test_a_stream_that_charon_does_not_know(tmp_path: Path) -> None:
    script = sends(NO_EVENT, REPLY, NO_EVENT)
    async with played(tmp_path / "vici", script) as path, Connection.opened(path, 5) as connection:
        with pytest.raises(Unavailable, match="no event list-sa"):
            await connection.exchange([Request("list-sas", stream="list-sa")])


async def test_silence_ends_at_the_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with played(tmp_path / "vici", silent) as path:
        start = trio.current_time()
        with pytest.raises(Unavailable, match=r"no answer on .*/vici within 5 s: charon hangs"):
            await version(path)
        assert trio.current_time() - start == pytest.approx(5)


async def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "vici"))
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(tmp_path / "vici"))
    with listener, first:
        with pytest.raises(Unavailable, match=r"no answer on .* within 0.1 s"):
            await Connection.open(str(tmp_path / "vici"), 0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Connection.open, str(tmp_path / "vici"), 60)
            await trio.testing.wait_all_tasks_blocked()
            listener.accept()[0].close()


def observation() -> list[bytes]:
    """Answers to what `observe` asks: nothing is there."""
    stream = [CONFIRM, REPLY, CONFIRM]
    return [REPLY, REPLY, *stream, REPLY, *stream, *stream]


async def test_a_connection_that_was_lost_is_opened_anew_to_observe(tmp_path: Path) -> None:
    scripts = sends(*observation()), sends(*observation())
    async with played(tmp_path / "vici", *scripts) as path:
        charon = Charon(path)
        assert await charon.observe() == await charon.observe()


async def test_a_cancelled_call_leaves_no_half_answer_behind(tmp_path: Path) -> None:
    answered = trio.Event()

    async def half(stream: trio.SocketStream) -> None:
        await Requests(stream).next()
        await stream.send_all(REPLY[:3])
        answered.set()
        await stream.receive_some()
        assert not await stream.receive_some(), "closed by the client"

    async with played(tmp_path / "vici", half, sends(*observation())) as path:
        charon = Charon(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(charon.observe)
            await answered.wait()
            nursery.cancel_scope.cancel()
        await charon.observe()


async def test_ids_are_not_used_on_a_charon_that_did_not_list_them(tmp_path: Path) -> None:
    action = Action(
        Kind.IKE_TERMINATE, "1", Disruption.DROP, "", IkeSa(1, "fabric-x", "ESTABLISHED", True)
    )
    async with played(tmp_path / "vici", sends(*observation()), sends(REPLY)) as path:
        charon = Charon(path)
        await charon.observe()
        with pytest.raises(Lost):
            await charon.apply([action], None)
        with pytest.raises(Unavailable, match="their ids may mean others now"):
            await charon.apply([action], None)


async def test_who_only_asks_does_not_change_to_which_charon_ids_belong(tmp_path: Path) -> None:
    action = Action(
        Kind.IKE_TERMINATE, "1", Disruption.DROP, "", IkeSa(1, "fabric-x", "ESTABLISHED", True)
    )
    scripts = sends(*observation()), sends(*observation())
    async with played(tmp_path / "vici", *scripts) as path:
        charon = Charon(path)
        await charon.observe()
        await charon.listing()  # by another charon, for all one knows
        with pytest.raises(Lost):
            await charon.apply([action], None)  # on the first one's connection, which has ended


async def test_a_listing_of_another_shape_is_unavailable(tmp_path: Path) -> None:
    odd = segment(b"\x01\x03\x0bauthorities\x00\x01x")
    async with played(tmp_path / "vici", sends(odd, *observation()[1:])) as path:
        with pytest.raises(Unavailable, match="authorities is no list"):
            await Charon(path).observe()
