"""A world: nodes, a network between them, a store; and time, which is simulated."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from fabricd.core.action import Action
from fabricd.core.ownership import NUMBER, TABLE, owns_conn
from fabricd.core.plan import REMOVALS
from fabricd.model import Role
from tests.simulation.ending import Ending
from tests.simulation.ike import Half
from tests.simulation.judge import Judge
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.scenario import ADDRESSES, OWN, Scenario
from tests.simulation.store import LATENCY, Records
from tests.simulation.truth import Truth


@dataclass
class Line:
    """Something that happened."""

    time: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.time:9.3f}  {self.who:6}  {self.what}"


@dataclass
class World:
    """Made for one scenario."""

    scenario: Scenario
    nursery: trio.Nursery
    trace: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        seed = str(self.scenario.seed)
        self.records = Records()
        self.network = Network(self.nursery, random.Random(f"{seed} network"))
        self.truth = Truth(self.records)
        self.judge = Judge(self)
        self.ending = Ending(self)
        self.nodes = {
            name: Node(name, ADDRESSES[name], self.network, self.records, seed)
            for name in self.scenario.cast
        }
        for node in self.nodes.values():
            node.charon.userspace_esp = self.scenario.userspace_esp
            self._listen(node)
            node.start_charon()
            self.judge.hands(node)
            node.hands = partial(self.judge.hands, node)
        self.records.changed = self.judge.records_changed
        self.records.commit(
            *((f"nodes/{name}", json.dumps(first(name)).encode()) for name in self.nodes)
        )

    def _listen(self, node: Node) -> None:
        def kernel(action: Action, error: str | None) -> None:
            self.note(node.name, f"{action.name}{f': {error}' if error else ''}")
            self.judge.after_kernel(node, action, error)
            node.acted()

        def charon(action: Action, error: str | None) -> None:
            why = f" ({action.reason})" if action.kind in REMOVALS else ""
            self.note(node.name, f"{action.name}{f': {error}' if error else why}")
            node.acted()

        node.kernel.acted = kernel
        node.kernel.looked = node.looked
        node.kernel.before_action = lambda action: self.judge.before_kernel(node, action)
        node.charon.acted = charon
        node.charon.before_action = lambda action: self.judge.before_charon(node, action)
        node.charon.told = lambda line: self.note(node.name, line)

    def start(self) -> None:
        """Every node boots."""
        for node in self.nodes.values():
            self.nursery.start_soon(node.run)

    def note(self, who: str, what: str) -> None:
        self.trace.append(Line(trio.current_time(), who, what))

    def later(self, seconds: float, do: Callable[[], Any]) -> None:
        """Undo what a step did."""

        async def wait() -> None:
            await trio.sleep(seconds)
            do()

        self.nursery.start_soon(wait)

    def ours(self, name: str) -> list[Half]:
        """A node's IKE_SAs that fabricd made."""
        return [half for half in self.nodes[name].charon.halves if owns_conn(half.conn)]

    def settle_clients(self) -> None:
        """Nodes' ways to the store are as they should be by now."""
        for client in self.records.clients:
            node = self.nodes[client.node]
            client.cut, client.latency = node.store_cut, node.store_latency
        self.records.tell()

    def heal(self) -> None:
        """Faults are over; operators have mended the records, and obey what is held."""
        self.judge.obey()
        self.network.cut.clear()
        self.records.up = True
        for node in self.nodes.values():
            self._clear_the_way(node)
            node.store_cut, node.store_latency = False, LATENCY
            node.mood.how = "prompt"
            node.kernel.away = False
            node.kernel.refused.clear()
            node.charon.refused.clear()
            node.kill_after = -1
            node.disk.full = False
            node.start_charon()
            if node.charon.hung:
                node.charon.thaw()
        self.network.look()
        self.settle_clients()
        self._mend()

    def _clear_the_way(self, node: Node) -> None:
        """What others have put into our table is removed by them: it could keep ours out."""
        for key, (owner, _) in sorted(node.kernel.held.routes.items()):
            if owner != NUMBER and key[0] == TABLE:
                node.kernel.by_hand(f"route delete {key[1]} table {key[0]} metric {key[2]}")
        node.hands()

    def _mend(self) -> None:
        changes: list[tuple[str, bytes | None]] = []
        in_force = self.truth.in_force.nodes
        for name in self.nodes:
            there = in_force.get(name)
            fit = (
                there is not None
                and (there.role is Role.CLOUD) == name.startswith("gw")
                and {*there.subnets} <= {*OWN[name], "10.96.0.0/16"}
                and there.endpoint in {None, ADDRESSES[name]}
            )
            if not fit:
                changes.append((f"nodes/{name}", json.dumps(first(name)).encode()))
        if changes:
            self.records.commit(*changes)
        self.note("world", f"heals, mends {[key for key, _ in changes]}")


def first(name: str) -> dict[str, Any]:
    """The record that a node begins with."""
    record: dict[str, Any] = {"endpoint": ADDRESSES[name], "subnets": [OWN[name][0]]}
    return {**record, **({"role": "cloud"} if name.startswith("gw") else {"community": "app1"})}
