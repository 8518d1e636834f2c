"""Two nodes on one cable, each with a charon: simulated ones, or real ones in namespaces."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import trio

from fabricd.core.action import Action, Disruption, Item, Kind, Outcome, Tunnel
from fabricd.core.state import Child, Conn, IkeSa, IkeState
from fabricd.daemon.parts import CharonPart
from fabricd.ike import Charon, Credentials, InitiateFailed, load_credentials
from fabricd.model import Prefix
from lab import pki
from lab.charon import Charon as LabCharon
from lab.netns import Namespace, veth
from tests.simulation.charon import Charon as SimulatedCharon
from tests.simulation.mood import Mood
from tests.simulation.network import Network
from tests.simulation.pki import credentials
from tests.simulation.vici import Client

NAMES = ("left", "right")
HOSTS = {"left": "192.0.2.1", "right": "192.0.2.2"}
SUBNETS = {"left": Prefix("2.2.2.0/27"), "right": Prefix("2.2.2.32/27")}
MORE = {"left": Prefix("2.2.2.64/27"), "right": Prefix("2.2.2.96/27")}
"""Of which they have addresses too."""
SOON = 40
"""Seconds in which anything happens that a test waits for."""


def conn_to(me: str, peer: str) -> Conn:
    return Conn(
        name=f"fabric-{peer}",
        digest="d1",
        children=frozenset({Child(SUBNETS[me], SUBNETS[peer])}),
        local_id=f"C=CN, O=StrongSwan, CN={me}",
        remote_id=f"C=CN, O=StrongSwan, CN={peer}",
        turn=None if me == "left" else 0,
        remote_addrs=(HOSTS[peer],),
        dpd=1,
    )


class Charonlike(Protocol):
    """What a real and a simulated charon have in common."""

    def kill(self) -> object: ...
    def stop(self) -> object: ...
    def start(self) -> object: ...
    def freeze(self) -> object: ...
    def thaw(self) -> object: ...


@dataclass
class End(ABC):
    """One end: its charon, our way to it, and what it has to hold."""

    name: str
    charon: CharonPart
    credentials: Credentials
    conn: Conn
    userspace_esp: bool

    @property
    def tunnel(self) -> Tunnel:
        return self.tunnel_to(*self.conn.children)

    def tunnel_to(self, child: Child) -> Tunnel:
        return Tunnel(self.conn.name, self.conn.child_name(child))

    async def try_to(self, kind: Kind, *items: Item) -> list[Outcome]:
        actions = [Action(kind, str(item), Disruption.NONE, "a test", item) for item in items]
        return await self.charon.apply(actions, self.credentials)

    async def do(self, kind: Kind, *items: Item) -> None:
        """Carry out actions of a kind; all must succeed."""
        for outcome in await self.try_to(kind, *items):
            assert outcome.error is None, outcome

    async def load(self, *conns: Conn) -> None:
        """Key, CA certificates and connections: the node's own when none is given."""
        await self.do(Kind.AUTHORITY_LOAD, *self.credentials.authorities)
        await self.do(Kind.KEY_LOAD, self.credentials.key_id)
        await self.do(Kind.CONN_LOAD, *(conns or (self.conn,)))

    async def initiate(self, child: Child | None = None) -> None:
        tunnel = self.tunnel if child is None else self.tunnel_to(child)
        await self.charon.initiate(tunnel, SOON)

    async def refused(self, child: Child | None = None, seconds: float = SOON) -> str:
        """Why it can't be initiated; nothing half-open is left behind."""
        tunnel = self.tunnel if child is None else self.tunnel_to(child)
        with pytest.raises(InitiateFailed) as caught:
            await self.charon.initiate(tunnel, seconds)
        assert {sa.state for sa in await self.sas()} <= {"ESTABLISHED"}
        return caught.value.reason

    async def observe(self) -> IkeState:
        return await self.charon.observe()

    async def sas(self) -> tuple[IkeSa, ...]:
        return (await self.observe()).sas

    async def pairs(self) -> list[Child]:
        """What is installed, doubled ones twice."""
        return sorted(
            Child(Prefix(*child.local), Prefix(*child.remote))
            for sa in await self.sas()
            for child in sa.children
            if child.state == "INSTALLED"
        )

    async def until(self, condition: Callable[[tuple[IkeSa, ...]], object]) -> None:
        """Wait until its SAs fulfil it."""
        with trio.fail_after(SOON):
            while not condition(await self.sas()):  # noqa: ASYNC110 - it has to be asked
                await trio.sleep(0.05)

    @property
    @abstractmethod
    def process(self) -> Charonlike:
        """charon, to be killed, stopped, started, frozen and thawed."""

    def kill(self) -> None:
        """Its peer hears nothing."""
        self.process.kill()

    def stop(self) -> None:
        """Its peer is told."""
        self.process.stop()

    def start(self) -> None:
        self.process.start()

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    @abstractmethod
    def rekey(self, child: str) -> None:
        """Have a CHILD_SA rekeyed."""

    @abstractmethod
    def reissue(self) -> None:
        """Get another certificate by the same CA."""

    @abstractmethod
    def distrusted(self) -> None:
        """Get another certificate by a CA that nobody else knows."""


Ends = tuple[End, End]


# ---------------------------------------------------------------- real


@dataclass
class RealEnd(End):
    daemon: LabCharon
    authority: pki.Authority
    other: pki.Authority

    @property
    def process(self) -> Charonlike:
        return self.daemon

    def rekey(self, child: str) -> None:
        self.daemon.swanctl("--rekey", "--child", child)

    def reissue(self) -> None:
        self.credentials = _read([self.authority], self.authority.issue(self.name))

    def distrusted(self) -> None:
        self.credentials = _read([self.authority, self.other], self.other.issue(self.name))


def _read(authorities: list[pki.Authority], own: pki.Credentials) -> Credentials:
    return load_credentials([ca.cert for ca in authorities], own.cert, own.key, time.time())


@asynccontextmanager
async def real(run: Path) -> AsyncIterator[Ends]:
    spaces = {name: Namespace.create(f"{run.name}-{name}", run) for name in NAMES}
    veth(spaces["left"], "u0", spaces["right"], "u0")
    authority = pki.Authority(run / "pki")
    other = pki.Authority(run / "other", dn="C=CN, O=StrongSwan, CN=Other CA")
    ends = []
    for name, space in spaces.items():
        space.add_address("u0", f"{HOSTS[name]}/24")
        for subnet in (SUBNETS[name], MORE[name]):
            space.add_address("lo", f"{_first(subnet)}/27")
        daemon = LabCharon(space, run, name=name)
        daemon.start()
        peer = NAMES[1 - NAMES.index(name)]
        ends.append(
            RealEnd(
                name,
                Charon(str(daemon.socket_path), deadline=5),
                _read([authority], authority.issue(name)),
                conn_to(name, peer),
                daemon.userspace_esp,
                daemon,
                authority,
                other,
            )
        )
    yield ends[0], ends[1]


def _first(subnet: Prefix) -> str:
    network, _, last = subnet.partition("/")[0].rpartition(".")
    return f"{network}.{int(last) + 1}"


# ---------------------------------------------------------------- simulated


@dataclass
class SimulatedEnd(End):
    daemon: SimulatedCharon

    @property
    def process(self) -> Charonlike:
        return self.daemon

    def rekey(self, child: str) -> None:
        for half in self.daemon.halves:
            for number in [n for n, found in half.children.items() if found.name == child]:
                self.daemon.rekey_child(half, number)

    def reissue(self) -> None:
        self.credentials = credentials(self.name, 2)

    def distrusted(self) -> None:
        self.credentials = credentials(self.name, 3, "Other CA", ("Root CA", "Other CA"))


@asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[Ends]:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, random.Random(1))
        ends = []
        for name in NAMES:
            daemon = SimulatedCharon(
                name, HOSTS[name], network, Mood(nursery, random.Random(2)), userspace_esp=True
            )
            network.charons[name] = daemon
            network.hosts[HOSTS[name]] = name
            daemon.start()
            peer = NAMES[1 - NAMES.index(name)]
            ends.append(
                SimulatedEnd(
                    name,
                    Client(daemon, random.Random(3)),
                    credentials(name),
                    conn_to(name, peer),
                    True,
                    daemon,
                )
            )
        yield ends[0], ends[1]
        nursery.cancel_scope.cancel()
