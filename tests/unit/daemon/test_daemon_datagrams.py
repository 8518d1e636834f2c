"""Datagrams on loopback, with nobody else involved but the kernel."""

from __future__ import annotations

import socket

import pytest
import trio

from fabricd.daemon.datagrams import Arrival, Datagrams
from fabricd.model import Address
from lab.etcd import free_port

ONE, TWO = Address("127.0.0.1"), Address("127.0.0.2")
ONE6 = Address("::1")


class Ear:
    """What has arrived."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Arrival](100)

    def heard(self, arrival: Arrival) -> None:
        self._send.send_nowait(arrival)

    async def next(self) -> Arrival:
        with trio.fail_after(10):
            return await self._receive.receive()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
async def datagrams(nursery: trio.Nursery, ear: Ear) -> Datagrams:
    made = Datagrams(free_port())
    nursery.start_soon(made.run, ear.heard)
    await trio.testing.wait_all_tasks_blocked()
    return made


async def test_what_is_sent_arrives_with_the_link_it_came_by(
    datagrams: Datagrams, ear: Ear
) -> None:
    datagrams.listen({ONE, TWO})
    assert datagrams.send(ONE, TWO, b"there")
    assert await ear.next() == Arrival(TWO, ONE, "lo", b"there")
    assert datagrams.send(TWO, ONE, b"and back")
    assert await ear.next() == Arrival(ONE, TWO, "lo", b"and back")


@pytest.mark.parametrize(("source", "target"), [(ONE, TWO), (ONE6, ONE6)])
async def test_a_kernel_on_which_nobody_listens_says_so(
    nursery: trio.Nursery, ear: Ear, source: Address, target: Address
) -> None:
    # To itself it would not be nobody: so it is another port that is closed.
    datagrams = Datagrams(free_port())
    nursery.start_soon(datagrams.run, ear.heard)
    await trio.testing.wait_all_tasks_blocked()
    datagrams.listen({source})
    datagrams._port = free_port()
    for number in range(3):
        assert datagrams.send(source, target, b"%d" % number)
        assert await ear.next() == Arrival(source, target, "", b"%d" % number, returned=True)


async def test_the_addresses_that_are_listened_at_can_change(
    datagrams: Datagrams, ear: Ear
) -> None:
    datagrams.listen({ONE, TWO})
    datagrams.listen({TWO})
    assert not datagrams.send(ONE, TWO, b"no more")
    datagrams.listen({ONE, TWO})
    assert datagrams.send(ONE, TWO, b"again")
    assert (await ear.next()).data == b"again"


async def test_an_address_that_is_not_there_is_no_fault(
    datagrams: Datagrams, caplog: pytest.LogCaptureFixture
) -> None:
    absent = Address("192.0.2.1")
    datagrams.listen({absent})
    assert not datagrams.send(absent, ONE, b"x")
    assert caplog.records == []


async def test_a_port_that_is_taken_is_told_once_and_taken_when_it_is_free(
    nursery: trio.Nursery, ear: Ear
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ONE, 0))
        datagrams = Datagrams(other.getsockname()[1])
        nursery.start_soon(datagrams.run, ear.heard)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            datagrams.listen({ONE})
        assert not datagrams.send(ONE, ONE, b"x")
    datagrams.listen({ONE})
    assert datagrams.send(ONE, ONE, b"x")
    assert (await ear.next()).data == b"x"


async def test_more_than_is_read_at_once(datagrams: Datagrams, ear: Ear) -> None:
    datagrams.listen({ONE, TWO})
    for number in range(90):
        assert datagrams.send(ONE, TWO, b"%d" % number)
    assert [(await ear.next()).data for _ in range(90)] == [b"%d" % n for n in range(90)]


async def test_at_the_end_the_sockets_are_closed(ear: Ear) -> None:
    datagrams = Datagrams(free_port())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(datagrams.run, ear.heard)
        await trio.testing.wait_all_tasks_blocked()
        datagrams.listen({ONE})
        nursery.cancel_scope.cancel()
    assert not datagrams.send(ONE, TWO, b"x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ONE, datagrams._port))
