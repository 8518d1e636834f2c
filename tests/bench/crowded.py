"""A node in memory with many peers and many records: the daemon's own loop, between a kernel and a
charon that cost next to nothing. All peers initiate, as an edge's do towards a gateway.
"""

from __future__ import annotations

import trio

from fabricd.core.action import Action, Disruption, Kind, Tunnel
from fabricd.core.events import Put
from tests.bench.listing import ListingCharon
from tests.bench.node import TOKEN, peer, peer_name, subnet
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.fakes import SimulatedNode, put

NAME = "node"
"""After all others, so that they initiate."""

QUIET = 2.0
"""Seconds of simulated time after which a change has had all its consequences."""


class Crowded(SimulatedNode):
    """It has nothing to do with the records of strangers."""

    def __init__(self, pki: Pki, records: int, peers: int) -> None:
        """`records`: in all, those of itself and of its peers among them."""
        self.listing = ListingCharon()
        super().__init__(pki.keyring(), charon=self.listing, name=NAME)
        self.record_count = records
        self.peer_count = peers

    async def come_up(self, nursery: trio.Nursery) -> None:
        """Start, until all tunnels are up."""
        own = put(f"nodes/{NAME}", endpoint="10.0.0.1", subnets=["2.0.0.0/24"], community=TOKEN)
        self.list(own, *(self.record(number, 1) for number in range(self.record_count - 1)))
        await self.start(nursery)
        await self.until(lambda: len(self.listing.held.conns) == self.peer_count)
        for conn in self.listing.held.conns.values():
            (child,) = conn.children
            tunnel = Tunnel(conn.name, conn.child_name(child))
            self.listing.held.apply(Action(Kind.CHILD_INITIATE, "", Disruption.NONE, "", tunnel))
        self.listing.tell("charon is there")
        await trio.sleep(QUIET)
        assert not self.reconciler.picture.actions

    def record(self, number: int, turn: int) -> Put:
        """Each turn another version. The first `peers` are of peers."""
        fields = peer(number, self.peer_count, second=turn % 2 == 0)
        return put(f"nodes/{peer_name(number)}", number + 2, **fields)

    async def changed(self, numbers: range, turn: int) -> None:
        """Records change at once, until nothing more follows from it."""
        self.change(*(self.record(number, turn) for number in numbers))
        await trio.sleep(QUIET)
        routes = {route.prefix for _, route in self.kernel.held.routes.values()}
        now, before = (
            {subnet(n, second=(turn + step) % 2 == 0) for n in numbers if n < self.peer_count}
            for step in (0, 1)
        )
        assert now <= routes
        assert not routes & before
        assert not self.reconciler.picture.actions

    async def swept(self) -> None:
        """It looks at everything, and finds nothing to do."""
        self.reconciler.look_again("test")
        await self.passes(1)
        assert not self.reconciler.picture.actions
