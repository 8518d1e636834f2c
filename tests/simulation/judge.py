"""What must never be, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fabricd.core.action import Action, Kind
from fabricd.core.ownership import conn_name, owns_conn
from fabricd.core.plan import REMOVALS
from fabricd.core.rib import InForce
from fabricd.core.state import ChildSa, Conn, IkeSa
from fabricd.core.topology import Peering
from fabricd.model import Role, network
from tests.simulation.clear_text import Leaks, leaks, probes
from tests.simulation.node import Life, Node

if TYPE_CHECKING:
    from tests.simulation.ike import Half
    from tests.simulation.world import World

NONE: Final[frozenset[str]] = frozenset()

A_PASS: Final = 20.0
"""Seconds that a pass may last which began before the source was lost."""

ENDLESS: Final = 5000
"""Actions, many more than any scenario needs."""

BELIEF: Final = 30.0
"""Seconds for which a status may say that a tunnel is up whose SAs are gone here: a sweep, and a
charon that hangs in it, when events are lost."""


def _parts(conn: Conn) -> tuple[object, ...]:
    return conn.digest, conn.turn, sorted(conn.children)


class Judge:
    """Watches a world; the first thing that is wrong ends it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.verdict = ""
        self._foreign: dict[str, tuple[frozenset[object], frozenset[object]]] = {}
        self._probes = probes(world.scenario.cast)
        self._leaks: dict[str, tuple[tuple[int, int], InForce, Leaks]] = {}
        self._lost: dict[tuple[str, str], float] = {}
        """By node and connection: since when its tunnel has not been whole."""
        self._held: dict[str, tuple[Life, frozenset[str]]] = {}
        """By node: the daemon that has to hold a loss, and the nodes that are lost."""
        self.actions = 0

    def wrong(self, text: str) -> None:
        """Whatever it is, it must not be."""
        if not self.verdict:
            self.verdict = text
            self.world.note("judge", text)
            self.world.nursery.cancel_scope.cancel()

    # ------------------------------------------------------------ records

    def records_changed(self) -> None:
        """More than half of what a daemon has in force is gone: it has to hold that."""
        there = {key.removeprefix("nodes/") for key in self.world.records.now}
        for node in self.world.nodes.values():
            if node.life is None:
                continue
            in_force = node.life.reconciler.rib.in_force().nodes.keys()
            lost = frozenset(in_force - there)
            held, before = self._held.get(node.name, (None, frozenset()))
            if held is node.life and before <= lost:
                continue
            self._held[node.name] = node.life, lost if 2 * len(lost) > len(in_force) else NONE

    def obey(self) -> None:
        """What is held is confirmed from here on."""
        self._held.clear()

    # ------------------------------------------------------------ at each action

    def hands(self, node: Node) -> None:
        """Somebody else has changed something there: that is how it is from now on."""
        process = node.charon.process
        self._foreign[node.name] = (
            node.kernel.held.foreign(),
            process.foreign() if process else frozenset(),
        )

    def before_kernel(self, node: Node, action: Action) -> None:
        life = node.life
        if life is None:
            return
        self._while_lost(node, life, action)
        self._before = node.kernel.held._parts()
        self._leaking = self._leaks_of(node, life)

    def after_kernel(self, node: Node, action: Action, error: str | None) -> None:
        self._count()
        life = node.life
        if life is None or error is not None:
            return
        if node.kernel.hands != node.kernel.hands_seen or node.kernel.refused:
            return  # it could not know, or not act
        if node.kernel.held._parts() == self._before:
            self.wrong(f"{node.name}: {action.name} has no effect: it was right already")
        before = {text for text, _ in self._leaking}
        new = {(text, way) for text, way in self._leaks_of(node, life) if text not in before}
        if new:
            self.wrong(f"{node.name}: {action.name} lets through in clear text: {sorted(new)}")

    def _count(self) -> None:
        self.actions += 1
        if self.actions > ENDLESS:
            self.wrong(f"{self.actions} actions, and no end")

    def _leaks_of(self, node: Node, life: Life) -> Leaks:
        kernel, in_force = node.kernel, life.reconciler.picture.in_force
        version = kernel.hands, kernel.actions
        known = self._leaks.get(node.name)
        if known is None or known[0] != version or known[1] is not in_force:
            found = leaks(kernel.held, node.name, in_force, self._probes)
            known = self._leaks[node.name] = version, in_force, found
        return known[2]

    def before_charon(self, node: Node, action: Action) -> None:
        self._count()
        life, process = node.life, node.charon.process
        if life is None or process is None:
            return
        self._while_lost(node, life, action)
        match action.kind, action.item:
            case Kind.CONN_LOAD | Kind.CONN_TURN, Conn() as conn:
                untouched = node.charon.hands == node.charon.hands_seen
                found = process.conns.get(conn.name)
                if found is not None and untouched and _parts(found) == _parts(conn):
                    self.wrong(f"{node.name}: {action.name} is loaded already")
            case Kind.CONN_UNLOAD, Conn(name=name):
                if not owns_conn(name):
                    self.wrong(f"{node.name}: {action.name} is not ours")
            case Kind.CHILD_TERMINATE, ChildSa(id=number):
                for half in node.charon.halves:
                    if number in half.children:
                        self._ends(node, life, action, half, {number})
            case Kind.IKE_TERMINATE, IkeSa(id=number):
                for half in [h for h in node.charon.halves if h.id == number]:
                    self._ends(node, life, action, half, set(half.children))

    def _while_lost(self, node: Node, life: Life, action: Action) -> None:
        """Nothing is taken away while the source is not in sync, but for doors."""
        rib, desired = life.reconciler.rib, life.reconciler.picture.desired
        lately = trio.current_time() - life.store.lost_at < A_PASS
        if rib.synced or action.kind not in REMOVALS or lately:
            return
        if action.item not in {route for ways in desired.doors.values() for route in ways}:
            self.wrong(f"{node.name}: {action.name}, though the source is not in sync")

    def _ends(self, node: Node, life: Life, action: Action, half: Half, numbers: set[int]) -> None:
        """Nothing is ended that carries what the records ask for, unless another carries it."""
        if not owns_conn(half.conn):
            self.wrong(f"{node.name}: {action.name} is not ours")
        rib = life.reconciler.rib
        known = life.store.current and rib.synced and not rib.held
        if not known or life.reconciler.picture.in_force is not rib.in_force():
            return
        if rib.in_force().nodes != self.world.truth.in_force.nodes or self.world.network.broken(
            node.charon, half
        ):
            return
        wanted = {
            pair
            for peering in self.world.truth.peerings(node.name)
            if conn_name(peering.peer.name) == half.conn and not peering.obstacle
            for pair in peering.children
        }
        for number in numbers:
            child = half.children[number]
            others = any(
                other.pair == child.pair and other.state == "INSTALLED" and other is not child
                for one in node.charon.halves
                for other in one.children.values()
                if one is not half or other.id not in numbers
            )
            if child.state == "INSTALLED" and child.pair in wanted and not others:
                self.wrong(
                    f"{node.name}: {action.name} ends what the records ask for: {child.name}"
                )

    # ------------------------------------------------------------ after each step

    def after_step(self) -> None:
        for node in self.world.nodes.values():
            self._look_at_losses(node)
            self._look_at_foreign(node)
            self._look_at_status(node)
            self._look_at_subnets(node)
            self._look_at_clear_text(node)

    def _look_at_losses(self, node: Node) -> None:
        held, lost = self._held.get(node.name, (None, NONE))
        if held is not None and held is node.life:
            rib = held.reconciler.rib
            kept = {key.removeprefix("nodes/") for key in rib.held}  # if only to lose a dispute
            gone = lost - rib.in_force().nodes.keys() - kept
            if gone:
                self.wrong(f"{node.name}: obeys a sudden loss: {sorted(gone)}")

    def _look_at_foreign(self, node: Node) -> None:
        kernel, charon = self._foreign[node.name]
        now = node.kernel.held.foreign()
        if now != kernel:
            self.wrong(f"{node.name}: touched what is not ours: {kernel ^ now}")
        process = node.charon.process
        if process is not None and process.foreign() != charon:
            self.wrong(f"{node.name}: touched what is not ours: {charon ^ process.foreign()}")

    def _look_at_clear_text(self, node: Node) -> None:
        life = node.life
        if life is None or not life.settled or not node.obeyed or node.kernel.away:
            return
        picture, rib = life.reconciler.picture, life.reconciler.rib
        if picture.faults or picture.failures or not rib.synced:
            return
        if picture.in_force is not rib.in_force():
            return
        if found := self._leaks_of(node, life):
            self.wrong(f"{node.name}: clear text: {sorted(found)}")

    def _look_at_subnets(self, node: Node) -> None:
        """No two peers are sent the same, but for gateways that share it."""
        life = node.life
        if life is None:
            return
        sent: list[tuple[str, Peering]] = []
        for peering in life.reconciler.picture.desired.peerings:
            for remote in {child.remote for child in peering.children}:
                for other, before in sent:
                    both = peering.peer.role is before.peer.role is Role.CLOUD
                    if peering is before or both:
                        continue
                    if network(remote).overlaps(network(other)):
                        self.wrong(f"{node.name}: sends {remote} to two nodes")
                sent.append((remote, peering))

    def _look_at_status(self, node: Node) -> None:
        status = node.status()
        if status is None:
            return
        now = trio.current_time()
        for peer in status["peers"]:
            key = node.name, conn_name(peer["name"])
            standby = peer["state"] == "standby"
            if self._whole(node, peer["name"], standby=standby):
                self._lost.pop(key, None)
                continue
            since = self._lost.setdefault(key, now)
            if peer["up"] and now - since > BELIEF:
                self.wrong(f"{node.name}: status says that {peer['name']} is up: it is not")

    def _whole(self, node: Node, peer: str, *, standby: bool) -> bool:
        """Whether a peer's tunnel is up, as far as this side can know."""
        life = node.life
        if life is None or node.charon.process is None or node.charon.hung:
            return False
        carried = life.reconciler.picture.desired.carried.get(conn_name(peer), frozenset())
        halves = [h for h in node.charon.halves if h.conn == conn_name(peer)]
        established = [half for half in halves if half.state == "ESTABLISHED"]
        return bool(established) and (
            standby or all(any(half.carries(pair) for half in established) for pair in carried)
        )
