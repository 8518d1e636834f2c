"""What the last pass saw and decided: written by the reconcile loop, read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

from fabricd.core.action import Action
from fabricd.core.desired import DesiredState
from fabricd.core.ownership import conn_name
from fabricd.core.rib import InForce
from fabricd.core.state import IkeState, KernelState
from fabricd.core.topology import Peering
from fabricd.errors import Unavailable

TOLD: Final = 50
"""Actions of one pass whose causes are told; those of many more are in the log."""

log = structlog.get_logger()


@dataclass(slots=True)
class Picture:
    """One for the life of the daemon."""

    in_force: InForce
    desired: DesiredState
    kernel: KernelState | None = None
    """None: it could not be observed; `faults` says why."""
    ike: IkeState | None = None
    actions: tuple[Action, ...] = ()
    causes: dict[str, str] = field(default_factory=dict)
    """By action: why it became necessary (`daemon.causes`)."""
    faults: dict[str, str] = field(default_factory=dict)
    """By part (`kernel`, `charon`): why it is not available."""
    failures: dict[str, str] = field(default_factory=dict)
    """By action (kind and target): why it failed when last tried."""
    leaving: tuple[Peering, ...] = ()
    """As they were: peers that no record asks for any more, of which charon has something left."""
    passes: int = 0

    def want(self, wanted: DesiredState) -> None:
        """Another desired state takes the place of the last one."""
        before, self.desired = self.desired, wanted
        if wanted.peerings is not before.peerings:
            names = {peering.peer.name for peering in wanted.peerings}
            old = (*before.peerings, *self.leaving)
            self.leaving = tuple(peering for peering in old if peering.peer.name not in names)

    def settle(self) -> None:
        """Peers of which nothing is left have left. While charon is not seen, none has."""
        ike = self.ike
        if self.leaving and ike is not None:
            conns = ((peering, conn_name(peering.peer.name)) for peering in self.leaving)
            self.leaving = tuple(p for p, conn in conns if conn in ike.conns or ike.of(conn))

    def fault(self, error: Unavailable) -> None:
        """A part is not available; logged when that, or the reason, is new."""
        if self.faults.get(error.part) != error.reason:
            log.warning("not available", part=error.part, reason=error.reason)
        self.faults[error.part] = error.reason

    def mend(self, part: str) -> None:
        """A part has answered."""
        if self.faults.pop(part, None) is not None:
            log.info("available again", part=part)
