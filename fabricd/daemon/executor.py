"""Carries a plan out, part by part in its order, and tells what came of it.

What to do is decided by the plan; why it became necessary is told by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import structlog

from fabricd.core.action import Action, Kind, Outcome, Part, Tunnel, action_document
from fabricd.daemon.causes import DRIFT
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.parts import CharonPart, KernelPart
from fabricd.daemon.picture import Picture
from fabricd.errors import Unavailable
from fabricd.metrics import Metrics

log = structlog.get_logger()


class Executor:
    """Has the hands: kernel, charon, and the initiator for what takes its time."""

    def __init__(
        self, kernel: KernelPart, charon: CharonPart, keyring: Keyring, picture: Picture
    ) -> None:
        self._kernel = kernel
        self._charon = charon
        self._keyring = keyring
        self._picture = picture

    async def carry_out(self, plan: Iterable[Action]) -> list[Outcome]:
        """One outcome for each action, but for those that `initiate` takes."""
        outcomes: list[Outcome] = []
        hands_on = (action for action in plan if action.kind is not Kind.CHILD_INITIATE)
        for part, group in groupby(hands_on, lambda action: action.kind.part):
            outcomes += await self._apply(part, list(group))
        return outcomes

    @staticmethod
    def initiate(plan: Iterable[Action], outcomes: Iterable[Outcome], initiator: Initiator) -> None:
        """Hand over what is to be initiated, unless its connection was refused."""
        refused = {o.action.target for o in outcomes if o.error is not None}
        tunnels = (action.item for action in plan if isinstance(action.item, Tunnel))
        initiator.want(tunnel for tunnel in tunnels if tunnel.conn not in refused)

    async def _apply(self, part: Part, actions: Sequence[Action]) -> list[Outcome]:
        try:
            if part is Part.KERNEL:
                return await self._kernel.apply(actions)
            return await self._charon.apply(actions, self._keyring.credentials)
        except Unavailable as error:
            self._picture.fault(error)
            return [Outcome(action, error.reason) for action in actions]

    def _remember_key(self, action: Action) -> None:
        match action.kind, action.item:
            case Kind.KEY_LOAD, str(key):
                self._keyring.loaded(key)
            case Kind.KEY_UNLOAD, str(key):
                self._keyring.unloaded(key)

    def report(
        self,
        outcomes: Iterable[Outcome],
        causes: Mapping[str, str],
        reasons: Sequence[str],
        metrics: Metrics,
    ) -> None:
        """Log and count; `causes` by the action's name, `reasons` are those of the pass. A failure
        that lasts is logged once.
        """
        failures: dict[str, str] = {}
        for outcome in outcomes:
            action = outcome.action
            words = {
                **action_document(action),
                "cause": causes[action.name],
                "trigger": ", ".join(reasons),
            }
            metrics.actions.labels(action.kind.value, "failed" if outcome.error else "done").inc()
            if outcome.error is not None:
                if self._picture.failures.get(action.name) != outcome.error:
                    log.error("action failed", error=outcome.error, **words)
                failures[action.name] = outcome.error
                continue
            if causes[action.name] == DRIFT:
                metrics.repairs.labels(action.kind.drift).inc()
            self._remember_key(action)
            log.info("action", **words)
        self._picture.failures = failures
