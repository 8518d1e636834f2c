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
from fabricd.core.ownership import conn_name
from fabricd.core.plan import Planner
from fabricd.core.plan_kernel import foreign_link
from fabricd.core.pods import NO_PODS, Pods
from fabricd.core.rib import Rib
from fabricd.core.sas import lingering
from fabricd.core.state import IkeState, KernelState, Link
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.causes import DRIFT, SHOWN_KEYS, Causes, news_of
from fabricd.daemon.choice import Choice
from fabricd.daemon.convergence import Convergence
from fabricd.daemon.derive import Deriver
from fabricd.daemon.executor import Executor
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.pacing import SWEEP, PassResult
from fabricd.daemon.parts import CharonPart, KernelPart
from fabricd.daemon.picture import TOLD, Picture
from fabricd.daemon.rounds import Occasion, Rounds
from fabricd.daemon.senses import Senses
from fabricd.daemon.trust import Trust
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
        pods: Callable[[], Pods] = lambda: NO_PODS,
    ) -> None:
        """`clock` gives seconds that only grow, `wall_clock` Unix seconds; `pods` what is attached
        to this node.
        """
        self.rib = rib
        self.keyring = keyring
        empty = rib.in_force()
        self.picture = Picture(empty, desired({}, {}, around))
        trust = Trust(around.name, wall_clock)
        self._deriver = Deriver(around, keyring, trust, clock, wall_clock)
        self.senses = Senses(kernel, charon, self._deriver, trust, self.picture, clock)
        self._failed: Collection[str] = ()
        self._kernel = kernel
        self._charon = charon
        self._clock = clock
        self._pods = pods
        self._causes = Causes()
        self._changed: dict[str, float] = {}
        """Keys of records that have changed since the last pass, with the time of it."""
        self._unseen: dict[str, float] = {}
        jitter = rng or random.Random()  # noqa: S311 - no secrets
        self._rounds = Rounds(clock, jitter, lambda: len(self._changed))
        self._convergence = Convergence()
        self._planner = Planner()
        self._done: frozenset[Action] = frozenset()
        self._foreign: tuple[Link, ...] = ()
        self._turned = trio.Event()
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
            self._rounds.poke("records")

    def kernel_changed(self, what: str) -> None:
        """A notification of the kernel."""
        self.senses.kernel_changed()
        self._rounds.poke(what)

    def charon_changed(self, what: str) -> None:
        """An event of charon, or an attempt to initiate: `child-updown fabric-edge3`."""
        self.senses.charon_changed(what)
        self._rounds.poke(what)

    @property
    def choice(self) -> Choice:
        """Among several gateways."""
        return self._deriver.choice

    def look_again(self, why: str) -> None:
        """Look at everything."""
        self.senses.doubt()
        self._rounds.poke(why)

    def pods_changed(self, key: str) -> None:
        """A pod was attached or detached."""
        self._changed.setdefault(key, self._clock())
        self._rounds.poke("pods")

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
        if self._clock() - self.senses.charon_seen_at < FRESH or "charon" in self.picture.faults:
            return
        turned = self._turned
        self.senses.doubt(kernel=False)
        self._rounds.poke("somebody asks")
        with trio.move_on_after(FRESH):
            await turned.wait()

    async def look(self) -> float:
        """As `refresh`; tells when all of charon was looked at last."""
        await self.refresh()
        return self.senses.charon_seen_at

    def poke(self, why: str) -> None:
        """Another pass, without another look."""
        self._rounds.poke(why)

    def confirm(self) -> tuple[str, ...]:
        """Obey the losses that are held; returns their keys."""
        keys = self.rib.confirm()
        for key in keys:
            self._changed.setdefault(key, self._clock())
        if keys:
            log.warning("held losses are obeyed", number=len(keys), keys=keys[:SHOWN_KEYS])
            self._rounds.poke("confirm")
        return keys

    async def fresh_plan(self) -> tuple[tuple[Action, ...], dict[str, str]]:
        """What would be done now, from observations made now; and by part, why one that does not
        answer is left out.
        """
        kernel: KernelState | None = None
        ike: IkeState | None = None
        away: dict[str, str] = {}
        try:
            kernel = await self._kernel.observe(self._deriver.asked(self._pods()))
        except Unavailable as error:
            away[error.part] = error.reason
        try:
            ike = await self._charon.listing()
        except Unavailable as error:
            away[error.part] = error.reason
        wanted = self._deriver.derive(self.rib.in_force(), kernel or KernelState(), self._pods())
        actions = Planner().plan(
            wanted,
            kernel,
            ike,
            removals=self.rib.synced,
            distrusted=self.senses.trust.distrusted,
            silent=self.senses.health.due,
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
        this = await self._rounds.first(lambda: self.rib.synced, BOOT_GRACE)
        if not self.rib.synced:
            log.warning(
                "store does not answer: going on with the last good records",
                reason=self.rib.lost_reason,
                nodes=len(self.rib.in_force().nodes),
            )
        while True:
            started = self._clock()
            result = await self._pass(initiator, metrics, this.reasons)
            metrics.passes.inc()
            metrics.duration.observe(self._clock() - started)
            after_pass()
            this = await self._rounds.next(result, after_pass, beat)
            self._prepare(this.occasion)

    def _prepare(self, occasion: Occasion) -> None:
        """What has to be looked at for this."""
        if occasion is Occasion.SWEEP:
            self.refresh_credentials()
            self.senses.doubt()
        elif occasion is not Occasion.HEARD:
            # Not for each event that comes: a part that hangs would delay the other.
            self.senses.try_again()
        if occasion is Occasion.LATER:
            self.senses.doubt(kernel=False)

    async def _pass(
        self, initiator: Initiator, metrics: Metrics, reasons: Sequence[str]
    ) -> PassResult:
        picture = self.picture
        self.choice.silent(self.senses.health.silent, self.rib.in_force())
        await self.senses.look_at_kernel(self._deriver.asked(self._pods()))
        if picture.kernel is not None:
            self._deriver.looked(picture.kernel)
        self._derive()
        # A charon that hangs is waited for: what the kernel lacks comes first.
        repairs = self._planner.plan(picture.desired, picture.kernel, None, removals=False)
        outcomes = await self._executor.carry_out(repairs)
        credentials = self.keyring.credentials
        if await self.senses.look_at_charon(self.rib.in_force(), credentials, self._failed):
            self.kernel_changed("an edge has come")
        self._derive()
        picture.settle()
        # What comes from here on is for the next pass: this one is about what was derived.
        changed, self._changed = self._unseen | self._changed, {}
        synced = self.rib.synced
        await trio.lowlevel.checkpoint()  # with many peers each of these takes its time
        picture.actions = self._planner.plan(
            picture.desired,
            picture.kernel,
            picture.ike,
            removals=synced,
            distrusted=self.senses.trust.distrusted,
            silent=self.senses.health.due,
        )
        await trio.lowlevel.checkpoint()
        if picture.ike is not None:
            for since in self._convergence.reached(picture.desired, picture.ike):
                metrics.convergence.observe(self._clock() - since)
        done = {outcome.action for outcome in outcomes}
        rest = [action for action in picture.actions if action not in done]
        outcomes += await self._executor.carry_out(rest)
        self._executor.initiate(picture.actions, outcomes, initiator)
        self.senses.health.tried(outcomes)
        self.senses.acted(outcomes)
        news = news_of(changed)
        causes = {o.action.name: self._causes.of(o.action, news) for o in outcomes}
        initiated = (action for action in picture.actions[-TOLD:] if action.name not in causes)
        picture.causes = causes | {a.name: self._causes.of(a, news) for a in initiated}
        self._executor.report(outcomes, causes, reasons, metrics)
        seen = {Part.KERNEL: picture.kernel, Part.CHARON: picture.ike}
        self._causes.passed(
            picture.desired,
            (part for part, state in seen.items() if state is not None),
            causes,
            removals=synced,
        )
        # What a part has not seen is still news to it, but nothing to hurry for.
        self._unseen = changed if None in seen.values() else {}
        self._forget_peers(initiator)
        await trio.lowlevel.checkpoint()
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
            lingers=picture.ike is not None
            and (self.choice.undecided or lingering(picture.desired, picture.ike)),
        )

    def _derive(self) -> None:
        picture = self.picture
        kernel = picture.kernel or KernelState()
        in_force = self.rib.in_force()
        old, wanted = picture.desired, self._deriver.derive(in_force, kernel, self._pods())
        if wanted is old:
            return
        picture.want(wanted)
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
        picture = self.picture
        known = self.senses.traffic.conns | initiator.attempts.keys()
        gone = set(known - picture.desired.conns.keys())
        if gone:
            listed = (*picture.desired.peerings, *picture.leaving)
            gone -= {conn_name(peering.peer.name) for peering in listed}
        if gone and picture.desired.ike:
            self.senses.traffic.forget(gone)
            initiator.forget(gone)
