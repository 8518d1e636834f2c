"""Netlink's exchanges, with the kernel's part played on the other end of a socket pair."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabricd.errors import Unavailable
from fabricd.kernel.netlink import HEADER, Message, Netlink, Refusal, Request, attributes, parse

ERROR, DONE, THING = 2, 3, 24
MULTI, INTERRUPTED, CAPPED, TLVS = 0x2, 0x10, 0x100, 0x200
ASK = Request(26, 0, b"\2" + bytes(11))

Answer = Callable[[list[Message]], list[bytes]]


class Script:
    """A kernel that answers each datagram by the next line of the script."""

    def __init__(self, sock: socket.socket, answers: list[Answer]) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._answers = answers
        self.heard: list[list[Message]] = []

    async def play(self) -> None:
        for answer in self._answers:
            requests = list(parse(await self._socket.recv(65536)))
            self.heard.append(requests)
            for datagram in answer(requests):
                await self._socket.send(datagram)


def message(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    padding = bytes(-len(body) % 4)
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body + padding


def error(request: Message, code: int, text: str = "", flags: int = CAPPED) -> bytes:
    """NLMSG_ERROR: the errno, the request's header, its body unless capped, attributes."""
    echo = request.data[: HEADER.size] if flags & CAPPED else request.data
    body = struct.pack("=i", -code) + echo
    if text:
        flags |= TLVS
        body += struct.pack("=HH", 5 + len(text), 1) + text.encode() + b"\0"
    return message(ERROR, request.sequence, body, flags)


def done(sequence: int, flags: int = 0) -> bytes:
    return message(DONE, sequence, struct.pack("=i", 0), flags | MULTI)


@pytest.fixture
async def kernel(nursery: trio.Nursery) -> AsyncIterator[Any]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    netlink = Netlink(ours, port=1)

    def play(*answers: Answer) -> tuple[Netlink, Script]:
        script = Script(theirs, list(answers))
        nursery.start_soon(script.play)
        return netlink, script

    with ours, theirs:
        yield play


async def test_a_batch_asks_for_one_acknowledgement_and_finds_who_was_refused(kernel: Any) -> None:
    netlink, script = kernel(
        lambda r: [
            error(r[1], errno.EPERM, "Not allowed."),
            error(r[2], errno.EINVAL, "Odd", flags=0) + error(r[3], 0),
        ]
    )
    assert await netlink.send([ASK] * 4) == [
        None,
        Refusal(errno.EPERM, "Not allowed"),
        Refusal(errno.EINVAL, "Odd"),
        None,
    ]
    assert [request.flags for request in script.heard[0]] == [1, 1, 1, 5]  # REQUEST, ACK


async def test_many_requests_go_in_several_datagrams(kernel: Any) -> None:
    def refuse_last(requests: list[Message]) -> list[bytes]:
        return [error(requests[-1], errno.ESRCH)]

    netlink, script = kernel(refuse_last, refuse_last, refuse_last)
    refusals = await netlink.send([ASK] * 300)
    assert [i for i, refusal in enumerate(refusals) if refusal] == [127, 255, 299]
    assert [len(datagram) for datagram in script.heard] == [128, 128, 44]


async def test_a_dump_is_gathered_from_its_parts(kernel: Any) -> None:
    netlink, _ = kernel(
        lambda r: [
            message(THING, r[0].sequence, b"one", MULTI)
            + message(THING, r[0].sequence, b"two", MULTI),
            message(THING, r[0].sequence, b"three", MULTI) + done(r[0].sequence),
        ]
    )
    found = await netlink.dump(ASK)
    assert [data[HEADER.size :] for data in found] == [b"one", b"two", b"three"]


async def test_an_interrupted_dump_is_taken_again(kernel: Any) -> None:
    netlink, _ = kernel(
        lambda r: [
            message(THING, r[0].sequence, b"stale", MULTI),
            done(r[0].sequence, INTERRUPTED),
        ],
        lambda r: [
            message(THING, r[0].sequence, b"halfway", MULTI | INTERRUPTED) + done(r[0].sequence)
        ],
        lambda r: [message(THING, r[0].sequence, b"fresh", MULTI) + done(r[0].sequence)],
    )
    assert [data[HEADER.size :] for data in await netlink.dump(ASK)] == [b"fresh"]


async def test_a_dump_that_is_always_interrupted_ends_with_a_reason(kernel: Any) -> None:
    netlink, script = kernel(*[lambda r: [done(r[0].sequence, INTERRUPTED)]] * 10)
    with pytest.raises(Unavailable, match="interrupted by changes 10 times"):
        await netlink.dump(ASK)
    assert len(script.heard) == 10


async def test_a_family_that_the_kernel_lacks_has_nothing(kernel: Any) -> None:
    netlink, _ = kernel(lambda r: [error(r[0], errno.EAFNOSUPPORT)])
    assert await netlink.dump(ASK) == []


async def test_a_dump_that_is_refused_says_why(kernel: Any) -> None:
    netlink, _ = kernel(lambda r: [error(r[0], errno.EINVAL, "Invalid values in header")])
    with pytest.raises(Unavailable, match=r"kernel: netlink failed: EINVAL \(Invalid values"):
        await netlink.dump(ASK)


async def test_silence_ends_with_a_reason(kernel: Any, autojump_clock: MockClock) -> None:
    netlink, _ = kernel(lambda r: [])
    with pytest.raises(Unavailable, match="did not answer within 5 s"):
        await netlink.send([ASK])


async def test_the_late_answer_to_a_cancelled_exchange_is_not_taken_for_this_ones(
    kernel: Any,
) -> None:
    late: list[bytes] = []

    def hold(requests: list[Message]) -> list[bytes]:
        late.append(error(requests[0], errno.EPERM))
        return []

    netlink, _ = kernel(
        hold,
        lambda r: [late[0], error(r[0], 0)],
        lambda r: [late[0], message(THING, r[0].sequence, b"it", MULTI) + done(r[0].sequence)],
    )
    async with trio.open_nursery() as cancelled:
        cancelled.start_soon(netlink.send, [ASK])
        await wait_all_tasks_blocked()
        cancelled.cancel_scope.cancel()
    assert late
    assert await netlink.send([ASK]) == [None]
    assert [data[HEADER.size :][:2] for data in await netlink.dump(ASK)] == [b"it"]


@pytest.mark.parametrize("walk", [parse, lambda data: attributes(data, 0)])
def test_an_impossible_length_ends_the_walk(walk: Callable[[bytes], Iterator[object]]) -> None:
    with pytest.raises(ValueError, match="of 0 octets"):
        list(walk(bytes(16)))
