"""Sends probes through the tunnels, and answers those of the peers.

From an address of this node's own inside its subnet to one of the peer's: an edge has the first
host of each of its subnets. A gateway has whichever address the cluster has given it, which an edge
learns from the gateway's own probes. What an unanswered probe means, `core.health` says.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from ipaddress import ip_address
from typing import Final, NoReturn

import trio

from fabricd.core.kept import same
from fabricd.core.ownership import conn_name, peer_of
from fabricd.core.probe_packet import Packet, decode, encode, mark
from fabricd.core.state import IfAddress
from fabricd.core.surroundings import USERSPACE_LINK
from fabricd.daemon.datagrams import Arrival
from fabricd.daemon.health import Health, Pair
from fabricd.daemon.parts import DatagramPart
from fabricd.daemon.picture import Picture
from fabricd.model import Address, Prefix, Role, first_host, network

TURN: Final = 1.0
"""Seconds between two looks at what is due."""

WAIT: Final = 3.0
"""Seconds that an answer may take, and until the next probe where none came."""

BELIEF: Final = 4
"""Intervals in which a peer has to say again that it gets nothing."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where the probes of a pair go."""

    source: Address
    target: Address | None
    """None: not known (yet)."""


@dataclass(frozen=True, slots=True)
class _Asked:
    pair: Pair
    target: Address
    at: float


class Prober:
    """Keeps asking, and is asked."""

    def __init__(
        self,
        datagrams: DatagramPart,
        health: Health,
        picture: Picture,
        *,
        interval: float,
        look: Callable[[], Awaitable[float]],
        poke: Callable[[str], None],
        rng: random.Random,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`interval`: seconds between two probes of a tunnel that is all right. `look` looks at
        charon unless that has just been done, and tells when it was done last; `poke` is called
        when a tunnel has turned silent, or alive again.
        """
        self._datagrams = datagrams
        self._health = health
        self._picture = picture
        self._interval = interval
        self._look = look
        self._poke = poke
        self._rng = rng
        self._clock = clock
        self._asked: dict[int, _Asked] = {}
        """Probes that may yet be answered, by their number."""
        self._next: dict[Pair, float] = {}
        """When a pair is probed next."""
        self._queue: list[tuple[float, Pair]] = []
        """The same, as a heap; and times that hold no more."""
        self._learned: dict[Pair, Address] = {}
        """Where gateways have asked from."""
        self._ways: dict[Pair, Way] = {}
        self._edges: dict[tuple[Address, Address], Pair] = {}
        """By the two addresses that probes of an edge's are between."""
        self._gateways: set[Pair] = set()
        self._known: tuple[object, ...] = ()

    async def run(self) -> NoReturn:
        """Probe for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._datagrams.run, self._arrived)
            while True:
                await trio.sleep(TURN)
                self._find_ways()
                await self._judge()
                self._ask()

    async def _judge(self) -> None:
        """What is still unanswered."""
        now = self._clock()
        late = {n: asked for n, asked in self._asked.items() if now >= asked.at + WAIT}
        for number in late:
            del self._asked[number]
        telling = [asked for asked in late.values() if self._health.judged(asked.pair)]
        if not telling:
            return
        seen = await self._look()
        for asked in telling:
            # The counters have to be of a time when an answer would have been there.
            if seen <= asked.at + WAIT / 2:
                continue
            if self._health.missed(asked.pair, asked.at):
                self._poke(f"{asked.pair[0]} is silent")
            if self._health.suspect(asked.pair):
                self._plan(asked.pair, 0.0)

    def _ask(self) -> None:
        now, node = self._clock(), self._picture.desired.node
        sender = mark(node.name) if node is not None else 0
        for pair in self._due(now):
            way = self._ways.get(pair)
            if way is None:
                self._next.pop(pair, None)
                continue
            if way.target is None:
                self._plan(pair, now + TURN)
                continue
            self._plan(pair, now + self._interval * self._rng.uniform(0.9, 1.1))
            number = self._rng.getrandbits(64)
            packet = Packet(number, deaf=self._health.deaf(pair), sender=sender)
            self._asked[number] = _Asked(pair, way.target, now)
            if not self._datagrams.send(way.source, way.target, encode(packet)):
                del self._asked[number]

    def _plan(self, pair: Pair, at: float) -> None:
        self._next[pair] = at
        heappush(self._queue, (at, pair))

    def _due(self, now: float) -> list[Pair]:
        due = []
        while self._queue and self._queue[0][0] <= now:
            at, pair = heappop(self._queue)
            if self._next.get(pair) == at:
                due.append(pair)
        return due

    # ------------------------------------------------------------ what comes in

    def _arrived(self, arrival: Arrival) -> None:
        packet = decode(arrival.data)
        if packet is None or not (arrival.returned or self._through_tunnel(arrival)):
            return
        if not packet.answer and not arrival.returned:
            self._answer(arrival, packet)
            return
        asked = self._asked.get(packet.number)
        if asked is None or asked.target != arrival.remote:
            return
        del self._asked[packet.number]
        if self._health.answered(asked.pair):
            self._poke(f"{asked.pair[0]} is alive again")

    def _through_tunnel(self, arrival: Arrival) -> bool:
        """The kernel lets nobody in but by its own ESP; of charon's it knows nothing."""
        ike = self._picture.ike
        if ike is None:
            return False
        return not ike.userspace_esp or arrival.link == USERSPACE_LINK

    def _answer(self, arrival: Arrival, packet: Packet) -> None:
        pair = self._edges.get((arrival.local, arrival.remote)) or next(
            (pair for pair in self._gateways if _inside(pair, arrival) and _by(packet, pair)), None
        )
        if pair is None:
            return
        answer = Packet(packet.number, answer=True)
        self._datagrams.send(arrival.local, arrival.remote, encode(answer))
        if pair in self._gateways and self._learned.get(pair) != arrival.remote:
            self._learned[pair] = arrival.remote
            self._health.unknown(pair)
            self._known = ()
        if self._health.told(pair, BELIEF * self._interval if packet.deaf else 0.0):
            self._poke(f"{pair[0]} says what it gets")

    # ------------------------------------------------------------ where to

    def _find_ways(self) -> None:
        """Anew, when anything has changed that they follow from."""
        picture = self._picture
        known = picture.desired, picture.kernel, picture.ike
        if same(self._known, known):
            return
        self._known = known
        roles = {conn_name(p.peer.name): p.peer.role for p in picture.desired.peerings}
        own = [item.address.partition("/")[0] for item in _addresses(picture)]
        pairs = [pair for pair in self._health.pairs if pair[0] in roles]
        sources = {local: _source(local, own) for local in {child.local for _, child in pairs}}
        self._gateways = {pair for pair in pairs if roles[pair[0]] is Role.CLOUD}
        self._learned = {p: a for p, a in self._learned.items() if p in self._gateways}
        self._ways = {
            pair: Way(source, self._learned.get(pair) or target)
            for pair in pairs
            if (source := sources[pair[1].local]) is not None
            for target in (None if pair in self._gateways else first_host(pair[1].remote),)
        }
        self._edges = {
            (way.source, way.target): pair
            for pair, way in self._ways.items()
            if pair not in self._gateways and way.target is not None
        }
        self._next = {pair: at for pair, at in self._next.items() if pair in self._ways}
        for pair in self._ways:
            if pair not in self._next:
                self._plan(pair, self._clock() + self._rng.uniform(0, self._interval))
        self._datagrams.listen({way.source for way in self._ways.values()})


def _addresses(picture: Picture) -> Iterable[IfAddress]:
    return picture.kernel.addresses.values() if picture.kernel is not None else ()


def _source(local: Prefix, own: Iterable[str]) -> Address | None:
    """An address of the node inside one of its subnets."""
    net, gateway = network(local), first_host(local)
    inside = [a for a in map(ip_address, own) if a in net]
    return min((Address(str(a)) for a in inside), key=lambda a: (a != gateway, a), default=None)


def _by(packet: Packet, pair: Pair) -> bool:
    """Whether a request can be this peer's."""
    return packet.sender in {0, mark(peer_of(pair[0]))}


def _inside(pair: Pair, arrival: Arrival) -> bool:
    _, child = pair
    return ip_address(arrival.local) in network(child.local) and ip_address(
        arrival.remote
    ) in network(child.remote)
