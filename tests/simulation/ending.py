"""How everything has to be when faults are over: as the records say, and said to be so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fabricd.core.ownership import conn_name, peer_of
from fabricd.core.state import Child
from fabricd.core.topology import Peering
from tests.simulation.node import Life, Node

if TYPE_CHECKING:
    from tests.simulation.world import World


class Ending:
    """Looks at a world, and changes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world

    def unsettled(self) -> Iterator[str]:
        """What is not yet as it has to be in the end."""
        for node in self._world.nodes.values():
            life = node.life
            if life is None or not life.settled:
                yield f"{node.name}: its daemon has not begun"
                continue
            picture, rib = life.reconciler.picture, life.reconciler.rib
            if not (life.store.current and rib.synced and picture.in_force is rib.in_force()):
                yield f"{node.name}: has not read the records"
            if rib.held:
                yield f"{node.name}: holds {rib.held}"
            if picture.faults or picture.failures:
                yield f"{node.name}: {picture.faults} {picture.failures}"
            if picture.actions:
                yield f"{node.name}: is about to {[a.name for a in picture.actions]}"
            refused, asked = (
                life.reconciler.choice.refused,
                dict(life.reconciler.senses.trust.doubted),
            )
            if not {peer_of(conn) for conn in refused} <= asked.keys():
                yield f"{node.name}: is about to ask a gateway anew"
            yield from self._unmet(node, life)

    def _unmet(self, node: Node, life: Life) -> Iterator[str]:
        truth = self._world.truth.in_force
        if life.reconciler.rib.in_force().nodes != truth.nodes:
            yield f"{node.name}: has other records in force"
            return
        status = node.status()
        assert status is not None
        rejected = {item["key"] for item in status["rejected"]}
        wrong = {f"/fabric/{item.key}" for item in truth.rejected}
        if rejected != wrong:
            yield f"{node.name}: rejects {sorted(rejected)}, not {sorted(wrong)}"
        peers = {peer["name"]: peer for peer in status["peers"]}
        if peers.keys() != {p.peer.name for p in self._world.truth.peerings(node.name)}:
            yield f"{node.name}: has the peers {sorted(peers)}"
        for peering in self._world.truth.peerings(node.name):
            yield from self._untrue(node, peering, peers.get(peering.peer.name, {}))

    def _untrue(self, node: Node, peering: Peering, said: Mapping[str, Any]) -> Iterator[str]:
        """Up at both ends, once, and said to be; or not possible, and said to be that."""
        here, there = node.name, peering.peer.name
        if peering.obstacle:
            if said.get("up") or self._between(here, there):
                yield f"{here}: {there} is up, though {peering.obstacle}"
            return
        pairs = self._between(here, there)
        mirrored = [Child(pair.remote, pair.local) for pair in self._between(there, here)]
        if sorted(pairs) != sorted(peering.carried):
            yield f"{here}: carries {sorted(pairs)} with {there}, not {sorted(peering.carried)}"
        if sorted(pairs) != sorted(mirrored):
            yield f"{here}: {there} has other CHILD_SAs"
        if self._ike_sas(here, there) != 1:
            yield f"{here}: has {self._ike_sas(here, there)} IKE_SAs with {there}"
        if not said.get("up"):
            yield f"{here}: does not say that {there} is up: {said.get('reason')}"

    async def plans(self) -> list[str]:
        """What the daemons would do now, if they looked."""
        found = []
        for node in self._world.nodes.values():
            if node.life is not None:
                actions, away = await node.life.reconciler.fresh_plan()
                if actions or away:
                    found.append(f"{node.name}: its plan is {[a.name for a in actions]} {away}")
        return found

    def _between(self, here: str, there: str) -> list[Child]:
        """The pairs that CHILD_SAs with a peer carry, doubled ones twice."""
        return [
            child.pair
            for half in self._world.nodes[here].charon.halves
            if half.conn == conn_name(there) and half.state == "ESTABLISHED"
            for child in half.children.values()
            if child.state == "INSTALLED"
        ]

    def _ike_sas(self, here: str, there: str) -> int:
        halves = self._world.nodes[here].charon.halves
        return sum(half.conn == conn_name(there) for half in halves)
