"""A node in memory: kernel, charon and store that behave, fail and change when they are told to.

What kernel and charon hold, and what an action does to it, is `tests.property.world`'s.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

import trio
import trio.testing

from fabricd.core.action import Action, Disruption, Kind, Outcome, Tunnel
from fabricd.core.events import Changed, Event, Listed, Put
from fabricd.core.pods import NO_PODS, Pods
from fabricd.core.rib import Rib
from fabricd.core.state import IkeState, KernelState, Pod
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.peers import Peers
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.status import About, document
from fabricd.errors import Unavailable
from fabricd.ike import Credentials, InitiateFailed
from fabricd.ike.observer import renewed
from fabricd.metrics import Metrics
from fabricd.model import Prefix
from fabricd.sources import Store
from tests.property import world

BOUND = 100_000
"""Seconds of simulated time in which whatever a test waits for has to happen."""

TURNS = 2_000
"""More turns of the loop than any test needs: time stands still in a hot loop."""

TEMPLATE = "C=CN, O=StrongSwan, CN={name}"


@dataclass
class Part:
    """What the fake kernel and the fake charon have in common."""

    part: str
    away: str = ""
    """Why nothing answers, if so."""
    refused: dict[str, str] = field(default_factory=dict)
    """What becomes of an action, by kind and target: an error."""
    idle: set[str] = field(default_factory=set)
    """Actions, by kind and target, that claim success and do nothing."""
    applied: list[tuple[float, str]] = field(default_factory=list)
    """What was asked for and when, by kind and target."""
    observed: int = 0
    before_observed: Callable[[], None] = lambda: None
    """Runs while the state is being observed, after it was read."""
    silence: float = 0.0
    """Seconds before it answers anything."""
    watchers: list[Callable[[str], None]] = field(default_factory=list)

    async def observation(self, look: Callable[[], Any]) -> Any:
        await self._answer()
        self.observed += 1
        state = look()
        await trio.lowlevel.checkpoint()
        self.before_observed()
        return state

    async def carry_out(
        self, actions: Sequence[Action], act: Callable[[Action], None]
    ) -> list[Outcome]:
        await self._answer()
        outcomes = []
        for action in actions:
            name = action.name
            self.applied.append((trio.current_time(), name))
            error = self.refused.get(name)
            if error is None and name not in self.idle:
                act(action)
            outcomes.append(Outcome(action, error))
        return outcomes

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        self.watchers.append(changed)
        await trio.sleep_forever()
        raise AssertionError

    def tell(self, what: str) -> None:
        """Something has changed."""
        for changed in self.watchers:
            changed(what)

    def times(self, name: str) -> list[float]:
        """When an action was asked for."""
        return [when for when, what in self.applied if what == name]

    @property
    def names(self) -> list[str]:
        return [what for _, what in self.applied]

    async def _answer(self) -> None:
        await trio.sleep(self.silence)
        if self.away:
            raise Unavailable(self.part, self.away)


@dataclass
class FakeKernel(Part):
    part: str = "kernel"
    held: world.Kernel = field(default_factory=world.Kernel)

    async def observe(self, pods: Mapping[str, Pod] = MappingProxyType({})) -> KernelState:
        state: KernelState = await self.observation(lambda: self.held.observe(pods))
        return state

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        return await self.carry_out(actions, self.held.apply)


@dataclass
class FakeCharon(Part):
    part: str = "charon"
    held: world.Charon = field(default_factory=world.Charon)
    fails: dict[str, str] = field(default_factory=dict)
    """Why an initiation fails, by connection or by child."""
    patience: float = 0.0
    """Seconds that an initiation takes."""
    silent: set[str] = field(default_factory=set)
    """Connections whose peer never answers."""
    initiated: list[tuple[float, Tunnel]] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    """Connections that are being initiated now."""
    most_under_way: int = 0
    looked_at: list[Collection[str] | None] = field(default_factory=list)
    """Which connections, look by look; None: all."""

    async def observe(
        self, only: Collection[str] | None = None, last: IkeState | None = None
    ) -> IkeState:
        state: IkeState = await self.observation(self.held.observe)
        self.looked_at.append(only)
        return state if only is None or last is None else renewed(last, only, state)

    async def listing(self) -> IkeState:
        return await self.observe()

    async def apply(
        self, actions: Sequence[Action], credentials: Credentials | None
    ) -> list[Outcome]:
        assert credentials is not None
        return await self.carry_out(actions, self.held.apply)

    async def initiate(self, tunnel: Tunnel, timeout: float) -> None:
        await self._answer()
        self.initiated.append((trio.current_time(), tunnel))
        assert tunnel.conn not in self.under_way, "two at once would race for one IKE_SA"
        self.under_way.append(tunnel.conn)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            await trio.sleep(timeout if tunnel.conn in self.silent else self.patience)
        finally:
            self.under_way.remove(tunnel.conn)
        if tunnel.conn in self.silent:
            raise InitiateFailed("no answer")
        reason = self.fails.get(tunnel.child) or self.fails.get(tunnel.conn)
        if reason:
            raise InitiateFailed(reason)
        self.held.apply(Action(Kind.CHILD_INITIATE, "", Disruption.NONE, "", tunnel))

    def restart(self) -> None:
        """charon starts anew: it knows nothing."""
        self.held = world.Charon()
        self.tell("charon is there")

    def carry(self, bytes_in: int, bytes_out: int) -> None:
        """Every CHILD_SA has counted so many bytes."""
        self.held.sas = [
            replace(
                sa,
                children=tuple(
                    replace(child, bytes_in=bytes_in, bytes_out=bytes_out) for child in sa.children
                ),
            )
            for sa in self.held.sas
        ]


@dataclass
class FakeStore(Store):
    """Says what it is told to say, and keeps what is published."""

    away: str = ""
    published: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    closed: bool = False
    changed: trio.Event = field(default_factory=trio.Event)
    """Set at the next event, and a new one then."""

    def __post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](100)

    def say(self, event: Event) -> None:
        self._send.send_nowait(event)

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        async for event in self._receive:
            feed(event)
        raise AssertionError

    async def list(self) -> tuple[Put, ...]:
        raise AssertionError

    async def put(self, key: str, value: bytes) -> None:
        raise AssertionError

    async def delete(self, key: str) -> bool:
        raise AssertionError

    async def publish(self, key: str, value: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("store", self.away)
        self.published.append((key, json.loads(value)))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


def put(key: str, created: int = 1, **fields: Any) -> Put:
    return Put(key, json.dumps(fields).encode(), created)


EDGE2 = put("nodes/edge2", endpoint="10.0.0.2", subnets=["2.2.2.0/27"], community="app1")
EDGE3 = put("nodes/edge3", 2, endpoint="10.0.0.3", subnets=["2.2.2.32/27"], community="app1")
CLOUD1 = put("nodes/cloud1", 3, role="cloud", endpoint="10.0.0.1", subnets=["10.233.0.0/16"])
RECORDS = (EDGE2, EDGE3, CLOUD1)

TO_EDGE3 = "2.2.2.32/27 dev fabric0 src 2.2.2.1 table 198 metric 100"
"""The route of edge2, as a target."""


class SimulatedNode:
    """The reconcile loop of edge2 between fake kernel and fake charon."""

    def __init__(
        self,
        keyring: Keyring,
        kernel: FakeKernel | None = None,
        charon: FakeCharon | None = None,
        name: str = "edge2",
        pods: Callable[[], Pods] = lambda: NO_PODS,
    ) -> None:
        self.name = name
        self.kernel = kernel or FakeKernel()
        self.charon = charon or FakeCharon()
        self.reconciler = Reconciler(
            rib=Rib(TEMPLATE),
            around=Surroundings(name, (Prefix("2.0.0.0/8"),), "br-edge"),
            kernel=self.kernel,
            charon=self.charon,
            keyring=keyring,
            rng=random.Random(1),
            pods=pods,
        )
        self.after_pass: Callable[[], None] = lambda: None
        """Called after each turn of the loop."""
        self.metrics = Metrics()
        self.beats: list[float] = []
        """When the loop said that it goes round, in seconds since `start`."""
        self.passed: list[float] = []
        """When a pass was over."""
        self._turned = trio.Event()

    def status(self) -> dict[str, Any]:
        now = 1e9 + trio.current_time()
        about = About(self.name, "etcd", lambda key, field: "", "/fabric", 0.0, "", now)
        return document(about, self.reconciler, self.peers.rows(now))

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.reconciler, self.initiator)

    def peer(self, name: str) -> dict[str, Any]:
        [found] = [peer for peer in self.status()["peers"] if peer["name"] == name]
        return dict(found)

    async def start(self, nursery: trio.Nursery, beat: float = 15.0) -> None:
        self._started = trio.current_time()
        self.reconciler.keyring.refresh()
        self.initiator = Initiator(self.charon, self.reconciler.charon_changed, random.Random(2))
        nursery.start_soon(self.initiator.run)
        nursery.start_soon(self.kernel.watch, self.reconciler.kernel_changed)
        nursery.start_soon(self.charon.watch, self.reconciler.charon_changed)
        nursery.start_soon(
            self.reconciler.run, self.initiator, self.metrics, self._after_pass, beat
        )
        await trio.testing.wait_all_tasks_blocked()

    def _after_pass(self) -> None:
        self.beats.append(self.time)
        assert len(self.beats) < TURNS, "a hot loop"
        self.after_pass()
        if self.reconciler.picture.passes > len(self.passed):
            self.passed.append(self.time)
        self._turned.set()
        self._turned = trio.Event()

    @property
    def time(self) -> float:
        """Seconds since `start`."""
        return trio.current_time() - self._started

    def list(self, *records: Put) -> None:
        self.reconciler.feed(Listed(records))

    def change(self, *changes: Any) -> None:
        self.reconciler.feed(Changed(changes))

    async def until(self, condition: Callable[[], object]) -> None:
        """Turn after turn of the loop until the condition holds."""
        with trio.fail_after(BOUND):
            while not condition():
                await self._turned.wait()

    async def passes(self, number: int) -> None:
        """So many more passes."""
        goal = self.reconciler.picture.passes + number
        await self.until(lambda: self.reconciler.picture.passes >= goal)

    async def at_rest(self) -> None:
        """Until a pass that has looked at everything finds nothing to do."""
        await self.passes(1)
        self.reconciler.look_again("test")
        await self.passes(1)
        picture = self.reconciler.picture
        await self.until(
            lambda: (
                not picture.actions
                and not picture.faults
                and picture.kernel == self.kernel.held.observe(picture.desired.kernel.pods)
                and picture.ike == self.charon.held.observe()
            )
        )

    def counted(self, name: str, **labels: str) -> float:
        samples = (s for family in self.metrics.of(self.status()).collect() for s in family.samples)
        wanted = f"fabricd_{name}", labels
        return next((s.value for s in samples if (s.name, s.labels) == wanted), 0.0)
