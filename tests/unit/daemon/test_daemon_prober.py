"""Probes in simulated time: edge2 and its loop, and peers that answer or do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NoReturn

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from fabricd.core.health import DEAF, LOST, MISSES
from fabricd.core.probe_packet import Packet, decode, encode, mark
from fabricd.core.state import ChildSa, parse_child_name
from fabricd.daemon.datagrams import Arrival
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.picture import Picture
from fabricd.daemon.prober import BELIEF, TURN, WAIT, Prober
from fabricd.model import Address
from tests.unit.daemon.fakes import RECORDS, SimulatedNode

INTERVAL = 15.0
SEEN = 1.1 * INTERVAL + (MISSES + 1) * (WAIT + 2 * TURN)
"""Seconds in which a silent tunnel is found out."""

HERE, EDGE3, CLOUD1 = Address("2.2.2.1"), Address("2.2.2.33"), Address("10.233.96.1")


@dataclass
class Wire:
    """The way to the peers. By default both answer everything."""

    answers: Callable[[Address, Packet], str] = lambda target, packet: "answer"
    """`answer`, `return` as a kernel does on which nobody listens, `keep` for nothing at all."""
    away: bool = False
    """Nothing leaves the node."""
    sent: list[tuple[float, Address, Address, Packet]] = field(default_factory=list)
    listening: set[Address] = field(default_factory=set)
    arrived: Callable[[Arrival], None] = lambda arrival: None

    async def run(self, arrived: Callable[[Arrival], None]) -> NoReturn:
        self.arrived = arrived
        await trio.sleep_forever()
        raise AssertionError

    def listen(self, addresses: Collection[Address]) -> None:
        self.listening = set(addresses)

    def send(self, source: Address, target: Address, data: bytes) -> bool:
        packet = decode(data)
        assert packet is not None
        if self.away or source not in self.listening:
            return False
        self.sent.append((trio.current_time(), source, target, packet))
        if not packet.answer:
            match self.answers(target, packet):
                case "answer":
                    self.comes(source, target, replace(packet, answer=True, deaf=False))
                case "return":
                    self.arrived(Arrival(source, target, "", data, returned=True))
        return True

    def comes(self, local: Address, remote: Address, packet: Packet, link: str = "eth0") -> None:
        self.arrived(Arrival(local, remote, link, encode(packet)))

    def to(self, target: Address) -> list[tuple[float, Packet]]:
        """What was sent there, and when."""
        return [(at, packet) for at, _, other, packet in self.sent if other == target]


def probe(
    node: SimulatedNode, wire: Wire, nursery: trio.Nursery, picture: Picture | None = None
) -> None:
    """Start the node's prober. `picture`: what it sees, if not what the loop does."""
    prober = Prober(
        wire,
        node.reconciler.senses.health,
        picture or node.reconciler.picture,
        interval=INTERVAL,
        look=node.reconciler.look,
        poke=node.reconciler.poke,
        rng=random.Random(3),
    )
    nursery.start_soon(prober.run)


async def start(
    keyring: Keyring, nursery: trio.Nursery, name: str = "edge2"
) -> tuple[SimulatedNode, Wire]:
    """A node with its tunnels, and its prober."""
    node, wire = SimulatedNode(keyring, name=name), Wire()
    node.list(*RECORDS)
    await node.start(nursery)
    await node.at_rest()
    probe(node, wire, nursery)
    await trio.sleep(2 * INTERVAL)
    return node, wire


@pytest.fixture
async def started(keyring: Keyring, nursery: trio.Nursery) -> tuple[SimulatedNode, Wire]:
    return await start(keyring, nursery)


Started = tuple[SimulatedNode, Wire]


def rekeys(node: SimulatedNode) -> list[float]:
    """When CHILD_SAs were made anew."""
    return [at for at, name in node.charon.applied if name.startswith("child.rekey ")]


async def test_each_tunnel_is_probed_now_and_then_from_an_address_of_its_subnet(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    await trio.sleep(20 * INTERVAL)
    assert {(source, target) for _, source, target, _ in wire.sent} == {(HERE, EDGE3)}
    pauses = [later - earlier for (earlier, _), (later, _) in pairwise(wire.to(EDGE3))]
    assert min(pauses) >= 0.9 * INTERVAL
    assert max(pauses) <= 1.1 * INTERVAL + TURN
    assert node.peer("edge3")["state"] == node.peer("cloud1")["state"] == "up"
    assert rekeys(node) == []


async def test_one_whose_way_was_gone_for_a_moment_is_probed_again(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node, wire = SimulatedNode(keyring), Wire(lambda target, packet: "keep")
    node.list(*RECORDS)
    await node.start(nursery)
    await node.at_rest()
    kernel = node.reconciler.picture.kernel
    assert kernel is not None
    seen = copy(node.reconciler.picture)
    probe(node, wire, nursery, seen)
    await node.until(lambda: bool(wire.to(EDGE3)))
    await trio.sleep(WAIT - TURN)
    seen.kernel = replace(kernel, addresses={})  # as the probe turns out to be unanswered
    await trio.sleep(2 * TURN)
    seen.kernel, before = kernel, len(wire.to(EDGE3))
    await trio.sleep(3 * INTERVAL)
    assert len(wire.to(EDGE3)) > before


async def test_silent_within_a_bounded_time_and_made_anew_with_pauses(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    [conn] = [sa for sa in node.charon.held.sas if sa.conn == "fabric-edge3"]
    wire.answers = lambda target, packet: "keep"
    began = trio.current_time()
    with capture_logs() as logs:
        await trio.sleep(SEEN)
        seen = node.peer("edge3")
        assert (seen["up"], seen["state"]) == (False, "silent")
        assert seen["reason"] == f"2.2.2.0/27 - 2.2.2.32/27: {LOST}"
        assert [child["up"] for child in seen["children"]] == [False]
        assert node.counted("tunnel_up", peer="edge3") == 0
        assert node.counted("tunnel_up", peer="cloud1") == 1
        await trio.sleep(1800)
    [line] = [line for line in logs if line["event"] == "tunnel is silent"]
    assert (line["peer"], line["reason"], line["log_level"]) == ("edge3", LOST, "warning")
    tried = rekeys(node)
    assert began < tried[0] <= began + SEEN
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    # It is up to the next sweep after that.
    for pause, least in zip(pauses, [30, 60, 120, 240, 480, *[600] * 100], strict=False):
        assert least <= pause <= least + 1.2 * 15
    assert node.counted("actions_total", kind="child.rekey", outcome="done") == len(tried)
    assert node.counted("drift_repairs_total", kind="child") == 0
    after = [sa for sa in node.charon.held.sas if sa.conn == "fabric-edge3"]
    assert [(sa.id, len(sa.children)) for sa in after] == [(conn.id, 1)]

    wire.answers = lambda target, packet: "answer"
    await trio.sleep(1.1 * INTERVAL + 2 * TURN)
    assert node.peer("edge3")["state"] == "up"
    assert node.counted("tunnel_up", peer="edge3") == 1


async def test_a_kernel_that_sends_a_probe_back_has_answered(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "return"
    await trio.sleep(20 * INTERVAL)
    assert node.peer("edge3")["state"] == "up"


async def test_an_answer_to_another_probe_is_none(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "keep"
    for _ in range(int(SEEN)):
        await trio.sleep(1)
        wire.comes(HERE, EDGE3, Packet(1, answer=True))
        for _, packet in wire.to(EDGE3)[-1:]:
            wire.comes(HERE, CLOUD1, replace(packet, answer=True))
    assert node.peer("edge3")["state"] == "silent"


async def test_while_bytes_come_in_it_is_alive_whoever_answers(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "keep"
    for number in range(600):
        node.charon.carry(bytes_in=number, bytes_out=number)
        await trio.sleep(1)
    assert node.peer("edge3")["state"] == "up"
    assert rekeys(node) == []


async def test_without_a_look_at_charon_nothing_is_judged(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "keep"
    node.charon.away = "hangs"
    node.reconciler.look_again("test")
    await trio.sleep(600)
    assert node.peer("edge3")["state"] == "unknown"
    node.charon.away = ""
    node.reconciler.look_again("test")
    await node.passes(1)
    assert node.peer("edge3")["state"] == "up"
    await trio.sleep(SEEN)
    assert node.peer("edge3")["state"] == "silent"


async def test_what_did_not_leave_the_node_is_no_miss(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.away = True
    await trio.sleep(600)
    assert node.peer("edge3")["state"] == "up"


async def test_who_does_not_initiate_leaves_it_to_the_peer(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node, wire = SimulatedNode(keyring, name="edge3"), Wire()
    edge2, _ = await start(keyring, nursery)
    node.charon.held.sas = [
        replace(sa, conn="fabric-edge2", children=tuple(map(mirrored, sa.children)))
        for sa in edge2.charon.held.sas
        if sa.conn == "fabric-edge3"
    ]
    node.list(*RECORDS)
    await node.start(nursery)
    await node.until(lambda: node.peer("edge2")["state"] == "up")
    wire.answers = lambda target, packet: "keep"
    probe(node, wire, nursery)
    await trio.sleep(600)
    assert node.peer("edge2")["state"] == "silent"
    assert rekeys(node) == []
    # It says so in its own probes, so that the other one hears of it.
    assert [packet.deaf for _, packet in wire.to(HERE)][-1]


def mirrored(child: ChildSa) -> ChildSa:
    """The other end's."""
    parsed = parse_child_name(child.name)
    assert parsed is not None
    name = f"{parsed.pair.remote}-{parsed.pair.local}-{parsed.digest}-0"
    return replace(child, name=name, local=child.remote, remote=child.local)


# ---------------------------------------------------------------- being asked


async def test_who_is_asked_answers(started: Started, autojump_clock: MockClock) -> None:
    _, wire = started
    wire.comes(HERE, EDGE3, Packet(77))
    assert wire.to(EDGE3)[-1][1] == Packet(77, answer=True)


@pytest.mark.parametrize(
    "arrival",
    [
        Arrival(HERE, Address("2.2.2.34"), "eth0", encode(Packet(77))),
        Arrival(HERE, Address("192.0.2.1"), "eth0", encode(Packet(77))),
        Arrival(HERE, EDGE3, "eth0", b"hello"),
        Arrival(HERE, EDGE3, "", encode(Packet(77)), returned=True),
    ],
    ids=["a pod", "a stranger", "other words", "returned, and not ours"],
)
async def test_who_is_no_peer_is_not_answered(
    started: Started, arrival: Arrival, autojump_clock: MockClock
) -> None:
    node, wire = started
    before = len(wire.sent)
    wire.arrived(arrival)
    assert len(wire.sent) == before
    assert node.peer("edge3")["state"] == "up"


async def test_with_charon_s_own_esp_only_its_device_is_a_tunnel(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    picture = node.reconciler.picture
    assert picture.ike is not None
    picture.ike = replace(picture.ike, userspace_esp=True)
    wire.comes(HERE, EDGE3, Packet(77, deaf=True), link="br-edge")
    assert wire.to(EDGE3)[-1][1] != Packet(77, answer=True)
    assert node.peer("edge3")["state"] == "up"
    wire.comes(HERE, EDGE3, Packet(78), link="ipsec0")
    assert wire.to(EDGE3)[-1][1] == Packet(78, answer=True)


async def test_a_peer_that_gets_nothing_is_believed_until_it_says_otherwise(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "keep"
    node.charon.carry(bytes_in=1, bytes_out=1)
    wire.comes(HERE, EDGE3, Packet(77, deaf=True))
    await node.passes(1)
    seen = node.peer("edge3")
    assert (seen["state"], seen["reason"].endswith(DEAF)) == ("silent", True)
    assert len(rekeys(node)) == 1
    wire.comes(HERE, EDGE3, Packet(78))
    await node.passes(1)
    assert node.peer("edge3")["state"] == "up"


async def test_or_until_it_has_not_said_so_for_long(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    wire.answers = lambda target, packet: "keep"
    wire.comes(HERE, EDGE3, Packet(77, deaf=True))
    for number in range(int(BELIEF * INTERVAL) + 20):
        node.charon.carry(bytes_in=number, bytes_out=number)
        await trio.sleep(1)
    assert node.peer("edge3")["state"] == "up"


async def test_where_a_gateway_asks_from_it_is_asked_itself(
    started: Started, autojump_clock: MockClock
) -> None:
    node, wire = started
    assert wire.to(CLOUD1) == []
    wire.comes(HERE, CLOUD1, Packet(77))
    assert [packet for _, packet in wire.to(CLOUD1)] == [Packet(77, answer=True)]
    await trio.sleep(2 * INTERVAL)
    assert not wire.to(CLOUD1)[-1][1].answer
    wire.answers = lambda target, packet: "keep" if target == CLOUD1 else "answer"
    await trio.sleep(SEEN)
    assert node.peer("cloud1")["state"] == "silent"
    assert node.peer("edge3")["state"] == "up"

    # It has another address by now, and nobody knows whether that one answers.
    other = Address("10.233.90.1")
    wire.comes(HERE, other, Packet(78))
    node.charon.carry(bytes_in=9, bytes_out=9)
    node.reconciler.charon_changed("test")
    await trio.sleep(2 * SEEN)
    assert node.peer("cloud1")["state"] == "up"


async def test_what_one_gateway_says_is_not_taken_for_anothers(
    started: Started, autojump_clock: MockClock
) -> None:
    """As both have the cluster's subnet, their addresses do not tell."""
    node, wire = started
    wire.comes(HERE, CLOUD1, Packet(77, deaf=True, sender=mark("cloud2")))
    assert wire.to(CLOUD1) == []
    assert node.peer("cloud1")["state"] == "up"
    wire.comes(HERE, CLOUD1, Packet(78, deaf=True, sender=mark("cloud1")))
    assert [packet for _, packet in wire.to(CLOUD1)] == [Packet(78, answer=True)]
    assert node.peer("cloud1")["state"] == "silent"
