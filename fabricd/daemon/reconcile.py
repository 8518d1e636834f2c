"""The reconcile loop: observe, derive, plan, carry out; again when something says "look again".

One task, so passes never overlap. What it sees and decides is kept in `Picture`, which status,
metrics and the control socket read. Where records come from, how a kernel or charon is spoken
to, and who reads the picture is not known here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog
import trio

from fabricd.core.action import Action, Part
from fabricd.core.desired import desired
from fabricd.core.events import Event, Lost
from fabricd.core.plan import foreign_link, plan
from fabricd.core.rib import Rib
from fabricd.core.sas import lingering
from fabricd.core.state import IkeState, KernelState, Link
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.causes import DRIFT, SHOWN_KEYS, Causes
from fabricd.daemon.convergence import Convergence
from fabricd.daemon.derive import Deriver
from fabricd.daemon.executor import Executor
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.pacing import LINGER, SWEEP, VERIFY, Pacing, PassResult
from fabricd.daemon.parts import CharonPart, KernelPart
from fabricd.daemon.picture import Picture
from fabricd.daemon.traffic import Traffic
from fabricd.daemon.trust import Trust
from fabricd.daemon.wakeup import Wakeup
from fabricd.errors import Unavailable
from fabricd.metrics import Metrics
from fabricd.model import Rejection

FRESH: Final = 1.0
"""Seconds: who asks for the status gets one of this age, and does not wait longer for it."""

BOOT_GRACE: Final = 3.0
"""Seconds that the store gets to answer before the snapshot on disk is acted upon."""

log = structlog.get_logger()


class Reconciler:
    """Owns the Rib and the picture."""

    def __init__(
        self,
        *,
        rib: Rib,
        around: Surroundings,
        kernel: KernelPart,
        charon: CharonPart,
        keyring: Keyring,
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """`clock` gives seconds that only grow, `wall_clock` Unix seconds."""
        self.rib = rib
        self.traffic = Traffic()
        self.keyring = keyring
        self.trust = Trust(around.name, wall_clock)
        self._deriver = Deriver(around, keyring, self.trust, clock, wall_clock)
        self._failed: Collection[str] = ()
        self._kernel = kernel
        self._charon = charon
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._wakeup = Wakeup()
        self._kernel_stale = self._ike_stale = True
        self._causes = Causes()
        self._changed: dict[str, float] = {}
        """Keys of records that have changed since the last pass, with the time of it."""
        self._unseen: dict[str, float] = {}
        self._convergence = Convergence()
        self._pacing = Pacing()
        self._done: frozenset[Action] = frozenset()
        self._foreign: tuple[Link, ...] = ()
        self._sweep_at = 0.0
        self._ike_seen_at = -FRESH
        self._turned = trio.Event()
        empty = rib.in_force()
        self.picture = Picture(empty, desired({}, {}, around))
        self._executor = Executor(kernel, charon, keyring, self.picture)

    # ------------------------------------------------------------ what says "look again"

    def feed(self, event: Event) -> None:
        """Take in an event of the source of records."""
        was_synced = self.rib.synced
        held = self.rib.held
        changed = self.rib.apply(event, self._clock())
        for key in changed:
            self._changed.setdefault(key, self._clock())
        if isinstance(event, Lost):
            log.warning("source lost", reason=event.reason)
        elif not was_synced:
            log.info("source in sync", records=len(self.rib.in_force().nodes))
        if self.rib.held and self.rib.held != held:
            log.warning(
                "sudden loss of records held",
                number=len(self.rib.held),
                keys=self.rib.held[:SHOWN_KEYS],
                confirm="fabricctl confirm",
            )
        if changed or self.rib.synced != was_synced or self.rib.held != held:
            self._wakeup.poke("records")

    def kernel_changed(self, what: str) -> None:
        """A notification of the kernel."""
        self._kernel_stale = True
        self._wakeup.poke(what)

    def charon_changed(self, what: str) -> None:
        """An event of charon."""
        self._ike_stale = True
        self._wakeup.poke(what)

    def look_again(self, why: str) -> None:
        """Look at everything."""
        self._kernel_stale = self._ike_stale = True
        self._wakeup.poke(why)

    def refresh_credentials(self) -> None:
        """Read the credentials' files again, and log what is new; the next pass obeys."""
        before, faults = self.keyring.credentials, self.keyring.faults
        self.keyring.refresh()
        if self.keyring.faults != faults:
            for fault in self.keyring.faults:
                log.error("credentials can't be used", fault=fault)
        found = self.keyring.credentials
        if found is not None and found != before:
            log.info("credentials", subject=found.subject)

    async def refresh(self) -> None:
        """Let the picture of charon be at most `FRESH` seconds old, if charon answers in time. A
        charon that did not answer is left to the loop: who asks often must not keep it waiting.
        """
        if self._clock() - self._ike_seen_at < FRESH or "charon" in self.picture.faults:
            return
        turned = self._turned
        self.charon_changed("somebody asks")
        with trio.move_on_after(FRESH):
            await turned.wait()

    def confirm(self) -> tuple[str, ...]:
        """Obey the losses that are held; returns their keys."""
        keys = self.rib.confirm()
        for key in keys:
            self._changed.setdefault(key, self._clock())
        if keys:
            log.warning("held losses are obeyed", number=len(keys), keys=keys[:SHOWN_KEYS])
            self._wakeup.poke("confirm")
        return keys

    async def fresh_plan(self) -> tuple[tuple[Action, ...], dict[str, str]]:
        """What would be done now, from observations made now; and by part, why one that does not
        answer is left out.
        """
        kernel: KernelState | None = None
        ike: IkeState | None = None
        away: dict[str, str] = {}
        try:
            kernel = await self._kernel.observe()
        except Unavailable as error:
            away[error.part] = error.reason
        try:
            ike = await self._charon.observe()
        except Unavailable as error:
            away[error.part] = error.reason
        wanted = self._deriver.derive(self.rib.in_force(), kernel or KernelState())
        actions = plan(
            wanted, kernel, ike, removals=self.rib.synced, distrusted=self.trust.distrusted
        )
        return actions, away

    # ------------------------------------------------------------ the loop

    async def run(
        self,
        initiator: Initiator,
        metrics: Metrics,
        after_pass: Callable[[], None],
        beat: float = SWEEP,
    ) -> None:
        """Reconcile for ever; `after_pass` is called at least every `beat` seconds."""
        self._failed = initiator.errors
        await self._wait_for_records()
        reasons: tuple[str, ...] = ("start",)
        self._sweep_at = self._clock() + SWEEP
        while True:
            started = self._clock()
            result = await self._pass(initiator, metrics, reasons)
            metrics.passes.inc()
            metrics.duration.observe(self._clock() - started)
            after_pass()
            reasons = await self._next_reasons(self._pacing.pause_after(result), after_pass, beat)

    async def _next_reasons(
        self, pause: float, after_pass: Callable[[], None], beat: float
    ) -> tuple[str, ...]:
        """Wait for something to do; a sweep when it is due, `retry` when `pause` is over."""
        if self._pacing.patience > 0:
            await self._hold(min(self._pacing.patience, beat))
            after_pass()
        until = self._clock() + pause
        while True:
            wait = min(beat, until - self._clock(), self._sweep_at - self._clock())
            reasons = await self._wakeup.wait(max(wait, 0.0))
            now = self._clock()
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP * self._rng.uniform(0.9, 1.1)
                self.refresh_credentials()
                self._kernel_stale = self._ike_stale = True
                return reasons or ("sweep",)
            if reasons:
                return reasons
            if now >= until:
                # Not for each event that comes: a part that hangs would delay the other.
                self._kernel_stale = self._kernel_stale or self.picture.kernel is None
                self._ike_stale |= self.picture.ike is None or pause == LINGER
                return ({VERIFY: "verify", LINGER: "linger"}.get(pause, "retry"),)
            after_pass()

    async def _hold(self, seconds: float) -> None:
        """Wait, whatever is heard; but a record that changes need not wait."""
        until = self._clock() + seconds
        heard: dict[str, None] = {}  # a set that keeps order
        while not self._changed and (left := until - self._clock()) > 0:
            heard |= dict.fromkeys(await self._wakeup.wait(left))
        for reason in heard:
            self._wakeup.poke(reason)

    async def _wait_for_records(self) -> None:
        with trio.move_on_after(BOOT_GRACE):
            while not self.rib.synced:
                await self._wakeup.wait(BOOT_GRACE)
        if not self.rib.synced:
            log.warning(
                "store does not answer: going on with the last good records",
                reason=self.rib.lost_reason,
                nodes=len(self.rib.in_force().nodes),
            )

    async def _pass(
        self, initiator: Initiator, metrics: Metrics, reasons: Sequence[str]
    ) -> PassResult:
        picture = self.picture
        await self._observe_kernel()
        self._derive()
        # A charon that hangs is waited for: what the kernel lacks comes first.
        repairs = plan(picture.desired, picture.kernel, None, removals=False)
        outcomes = await self._executor.carry_out(repairs)
        await self._observe_charon()
        self._derive()
        picture.actions = plan(
            picture.desired,
            picture.kernel,
            picture.ike,
            removals=self.rib.synced,
            distrusted=self.trust.distrusted,
        )
        changed, self._changed = self._unseen | self._changed, {}
        if picture.ike is not None:
            for since in self._convergence.reached(picture.desired, picture.ike):
                metrics.convergence.observe(self._clock() - since)
        done = {outcome.action for outcome in outcomes}
        rest = [action for action in picture.actions if action not in done]
        outcomes += await self._executor.carry_out(rest)
        self._executor.initiate(picture.actions, outcomes, initiator)
        touched = {outcome.action.kind.part for outcome in outcomes}
        self._kernel_stale |= Part.KERNEL in touched
        self._ike_stale |= Part.CHARON in touched
        causes = {o.action.name: self._causes.of(o.action, changed) for o in outcomes}
        self._executor.report(outcomes, causes, reasons, metrics)
        seen = {Part.KERNEL: picture.kernel, Part.CHARON: picture.ike}
        self._causes.passed(
            picture.desired,
            (part for part, state in seen.items() if state is not None),
            causes,
            removals=self.rib.synced,
        )
        # What a part has not seen is still news to it, but nothing to hurry for.
        self._unseen = changed if None in seen.values() else {}
        self._forget_peers(initiator)
        picture.passes += 1
        self._turned.set()
        self._turned = trio.Event()
        before, self._done = self._done, frozenset(o.action for o in outcomes if o.error is None)
        return PassResult(
            acted=bool(self._done),
            struggled=not self._done.isdisjoint(before)
            or any(causes[action.name] == DRIFT for action in self._done),
            refused=bool(picture.failures),
            failed=bool(picture.faults or picture.failures),
            lingers=picture.ike is not None and lingering(picture.desired, picture.ike),
        )

    async def _observe_kernel(self) -> None:
        if not self._kernel_stale:
            return
        self._kernel_stale = False  # an event from here on asks for another look
        try:
            self.picture.kernel = await self._kernel.observe()
            self.picture.mend("kernel")
        except Unavailable as error:
            self.picture.kernel = None
            self.picture.fault(error)

    async def _observe_charon(self) -> None:
        if not self._ike_stale:
            return
        self._ike_stale = False
        picture = self.picture
        try:
            picture.ike = await self._charon.observe()
            self._ike_seen_at = self._clock()
            self._deriver.saw(picture.ike, self.rib.in_force(), self._failed)
            self.traffic.update(picture.ike)
            peers = (peering.peer for peering in picture.desired.peerings)
            self.trust.update(picture.ike, peers, self.keyring.credentials)
            picture.mend("charon")
        except Unavailable as error:
            picture.ike = None
            picture.fault(error)

    def _derive(self) -> None:
        picture = self.picture
        kernel = picture.kernel or KernelState()
        in_force = self.rib.in_force()
        old, picture.desired = picture.desired, self._deriver.derive(in_force, kernel)
        if picture.desired is old:
            return
        self._log_rejections(in_force.rejected)
        picture.in_force = in_force
        foreign = foreign_link(picture.desired, kernel)
        if foreign != self._foreign and picture.kernel is not None:
            self._foreign = foreign
            for link in foreign:
                log.warning("link is not ours, used as it is", link=link.name, alias=link.alias)
        if picture.passes > 0 and self._changed:
            since = min(self._changed.values())
            self._convergence.changed(old, picture.desired, since)

    def _log_rejections(self, now: Sequence[Rejection]) -> None:
        before = self.picture.in_force.rejected
        for item in sorted(set(now).difference(before)):
            log.warning("record rejected", key=item.key, field=item.field, reason=item.reason)
        for key in sorted({item.key for item in before} - {item.key for item in now}):
            log.info("record is no longer rejected", key=key)

    def _forget_peers(self, initiator: Initiator) -> None:
        """A peer that is gone leaves no series behind."""
        gone = (
            set(self.traffic.conns | initiator.attempts.keys()) - self.picture.desired.conns.keys()
        )
        if gone and self.picture.desired.ike:
            self.traffic.forget(gone)
            initiator.forget(gone)
