"""What the last pass saw and decided: written by the reconcile loop, read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

from fabricd.core.action import Action
from fabricd.core.desired import DesiredState
from fabricd.core.rib import InForce
from fabricd.core.state import IkeState, KernelState
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
    passes: int = 0

    def fault(self, error: Unavailable) -> None:
        """A part is not available; logged when that, or the reason, is new."""
        if self.faults.get(error.part) != error.reason:
            log.warning("not available", part=error.part, reason=error.reason)
        self.faults[error.part] = error.reason

    def mend(self, part: str) -> None:
        """A part has answered."""
        if self.faults.pop(part, None) is not None:
            log.info("available again", part=part)
