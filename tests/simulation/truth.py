"""What the records say to who has read the store just now, and knows no history."""

from __future__ import annotations

from typing import Final

from fabricd.core.events import Listed
from fabricd.core.index import Index
from fabricd.core.rib import InForce, Rib
from fabricd.core.topology import Peering, peerings
from tests.simulation.store import Records, records_of

TEMPLATE: Final = "C=CN, O=StrongSwan, CN={name}"


class Truth:
    """Kept as long as the records are the same."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._version: tuple[int, int] | None = None
        self._in_force = Rib(TEMPLATE).in_force()

    @property
    def in_force(self) -> InForce:
        version = self._records.life, self._records.revision
        if self._version != version:
            rib = Rib(TEMPLATE)
            rib.apply(Listed(records_of(self._records.now.values())), 0.0)
            self._version, self._in_force = version, rib.in_force()
        return self._in_force

    def peerings(self, name: str) -> tuple[Peering, ...]:
        """A node's, where no gateway is unfit."""
        truth = self.in_force
        self_node = truth.nodes.get(name)
        if self_node is None:
            return ()
        return peerings(self_node, Index.of(truth.nodes, truth.communities))
