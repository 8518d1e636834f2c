"""The node on which `why` is asked, beside what the records say about it and its peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fabricd.core.facts import Facts, Here, NodeView, PeerView
from fabricd.core.meeting import Meeting
from fabricd.core.ownership import TABLE, conn_name
from fabricd.core.routing import TUNNEL_METRIC
from fabricd.core.state import Child, IkeSa, Route
from fabricd.core.tunnels import ESTABLISHED, installed
from fabricd.model import Node

START: Final = "start fabricd, which puts it back: systemctl start fabricd"
SEE: Final = "see whether fabricd is about to put it back: fabricctl plan, journalctl -u fabricd"


@dataclass(frozen=True, slots=True)
class Site:
    """One end of a meeting, from inside."""

    facts: Facts
    here: Here
    found: Meeting

    @property
    def outward(self) -> bool:
        """Whether the source is behind this node."""
        return self.found.source.name == self.facts.name

    @property
    def me(self) -> Node:
        """The record of this node."""
        return self.found.source if self.outward else self.found.destination

    @property
    def peer(self) -> Node:
        """The other's record."""
        return self.found.destination if self.outward else self.found.source

    @property
    def initiates(self) -> bool:
        """Whether this node initiates."""
        return self.found.peering.initiate is self.outward

    @property
    def conn(self) -> str:
        """The connection's name."""
        return conn_name(self.peer.name)

    @property
    def pair(self) -> Child:
        """The two subnets, seen from this node."""
        pair = self.found.pair
        return pair if self.outward else Child(pair.remote, pair.local)

    @property
    def routes(self) -> tuple[Route, ...]:
        """What leads to the peer's subnet when all is well: an edge's route, a gateway's doors."""
        wanted, remote = self.here.desired, self.pair.remote
        own = wanted.kernel.routes.get((TABLE, remote, TUNNEL_METRIC))
        return wanted.doors.get(remote, ()) or ((own,) if own is not None else ())

    # ------------------------------------------------------------ what charon has

    @property
    def sas(self) -> tuple[IkeSa, ...]:
        """The IKE_SAs with the peer."""
        return self.here.ike.of(self.conn) if self.here.ike else ()

    @property
    def established(self) -> IkeSa | None:
        """The newest IKE_SA that can carry CHILD_SAs."""
        return next((sa for sa in reversed(self.sas) if sa.state in ESTABLISHED), None)

    @property
    def carried(self) -> bool:
        """Whether a CHILD_SA carries the pair."""
        return self.pair in installed(self.sas)

    # ------------------------------------------------------------ what the daemons say

    @property
    def daemons_view(self) -> PeerView | None:
        """What this node's daemon says of the peer."""
        return self.facts.daemon.peers.get(self.peer.name) if self.facts.daemon else None

    @property
    def peers_status(self) -> NodeView | None:
        """What the peer publishes."""
        return self.facts.published.get(self.peer.name)

    @property
    def peers_view(self) -> PeerView | None:
        """What the peer says of this node."""
        return self.peers_status.peers.get(self.me.name) if self.peers_status else None

    @property
    def silent_peer(self) -> bool:
        """The store answers, and the peer's daemon has nothing in it."""
        return not self.facts.published_fault and self.peers_status is None

    @property
    def repair(self) -> str:
        """What to do about something of fabricd's that is missing."""
        return SEE if self.facts.daemon else START

    @property
    def ask_peer(self) -> str:
        """Go on at the other end."""
        return self.facts.ask_on(self.peer.name)
