"""One node's daemon: every part made from the config, every task in one nursery.

A task ends only by a bug or by cancellation; then all end, and the process with them. What is
in kernel and charon stays as it is: a restart finds it right.
"""

from __future__ import annotations

import gc
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
import trio

from fabricd import __version__
from fabricd.config import Config
from fabricd.core.action import plan_document
from fabricd.core.events import Event, Lost
from fabricd.core.rib import Rib
from fabricd.core.routing import FORWARDING
from fabricd.core.surroundings import Surroundings
from fabricd.daemon import conflist, serve
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keeping import Keeper
from fabricd.daemon.live import Live
from fabricd.daemon.machine import Machine
from fabricd.daemon.pacing import SWEEP
from fabricd.daemon.parts import CharonPart, KernelPart, MachinePart
from fabricd.daemon.pod_routes import pod_routes
from fabricd.daemon.pods import PodService
from fabricd.daemon.prober import Prober
from fabricd.daemon.publishing import Publisher
from fabricd.daemon.recent import Recent
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.report import Report
from fabricd.daemon.status import headline, not_ready
from fabricd.daemon.store import open_store
from fabricd.daemon.web import Routes
from fabricd.errors import Unavailable
from fabricd.ike import Charon
from fabricd.kernel import Kernel
from fabricd.metrics import Metrics
from fabricd.sources import Store

STUCK: Final = 60.0
"""Seconds without a turn of the loop after which `/healthz` says so."""

CHARON_DEADLINE: Final = 5.0
"""Seconds that charon may be silent in the middle of a command before it counts as hung."""

WATCH_PAUSE: Final = 5.0
"""Seconds until the kernel is asked again for notifications that it refused."""

log = structlog.get_logger()


class Daemon:
    """All parts of one daemon, and the tasks that move them."""

    def __init__(
        self,
        config: Config,
        store: Store,
        kernel: KernelPart,
        charon: CharonPart,
        rng: random.Random,
        wall_clock: Callable[[], float] = time.time,
        machine: MachinePart | None = None,
    ) -> None:
        """`machine`: None for the one that this process runs on."""
        self._config = config
        self._machine = machine or Machine(config, wall_clock)
        self._store = store
        self._kernel = kernel
        self._charon = charon
        self._rng = rng
        self._now = wall_clock
        self._notifier = self._machine.notifier
        self._reconciler = Reconciler(
            rib=Rib(config.ike.identity, config.store.hold_share),
            around=Surroundings(
                config.node.name,
                config.networks,
                config.kernel.bridge,
                outside=config.store_addresses,
                mtu=config.kernel.mtu,
                masquerade=config.kernel.masquerade,
            ),
            kernel=kernel,
            charon=charon,
            keyring=self._machine.keyring,
            wall_clock=wall_clock,
            rng=rng,
            pods=lambda: self._pods.known,
        )
        self._pods = PodService(
            self._machine.attachments,
            self._machine.leases,
            self._machine.boot,
            lambda: self._reconciler.rib.in_force().nodes.get(config.node.name),
            self._reconciler.pods_changed,
        )
        self._metrics = Metrics()
        self._initiator = Initiator(charon, self._reconciler.charon_changed, rng)
        self.report = Report(config, store.place, self._reconciler, self._initiator, wall_clock)
        self._keeper = Keeper(self._machine, self._reconciler.rib, self.report)
        self._publisher = Publisher(
            store,
            f"status/{config.node.name}",
            self.report,
            lambda: self._reconciler.rib.synced,
            self._machine.aside,
            rng,
        )
        self._turned = trio.current_time()
        self._settled = False
        self._recent = Recent()
        self._live = Live(self.report.whole, self._recent, self._machine.aside)

    async def run(self) -> None:
        """Work until cancelled."""
        self._keeper.load()
        self._pods.load()
        self._reconciler.refresh_credentials()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey_signals, nursery.cancel_scope)
            nursery.start_soon(self._store.run, self._feed)
            nursery.start_soon(self._watch_kernel)
            folders = self._reconciler.keyring.folders
            nursery.start_soon(self._machine.watch_files, folders, self._reread_credentials)
            nursery.start_soon(self._charon.watch, self._reconciler.charon_changed)
            nursery.start_soon(self._initiator.run)
            nursery.start_soon(
                self._reconciler.run, self._initiator, self._metrics, self._after_pass, self._beat
            )
            nursery.start_soon(self._machine.serve_http, self._http_routes())
            nursery.start_soon(self._machine.serve_control, self._control_routes())
            nursery.start_soon(self._probe)
            nursery.start_soon(self._keeper.run)
            nursery.start_soon(self._keep_conflist)
            nursery.start_soon(self._publisher.run)

    # ------------------------------------------------------------ the loop's turns

    @property
    def _beat(self) -> float:
        watchdog = self._notifier.watchdog
        return min(SWEEP, watchdog / 2) if watchdog is not None else SWEEP

    def _after_pass(self) -> None:
        self._turned = trio.current_time()
        self._notifier.alive()
        passes = self._reconciler.picture.passes
        self._recent.note(self._reconciler.picture, self._now())
        self._pods.after_pass(self._reconciler.picture)
        if passes == 1 and not self._settled:
            self._settled = True
            self._machine.settle()
            self._notifier.ready()
        self._live.poke()
        status = self.report.glance()
        self._notifier.status(headline(status, passes))
        self._publisher.seen(status)

    def _stuck(self) -> str:
        silent = trio.current_time() - self._turned
        return f"the reconcile loop has been stuck for {silent:.0f} s" if silent > STUCK else ""

    def _not_ready(self) -> tuple[str, ...]:
        return not_ready(self.report.overview(), self._reconciler.picture.passes)

    async def _watch_kernel(self) -> None:
        while True:
            try:
                await self._kernel.watch(self._reconciler.kernel_changed)
            except Unavailable as error:
                log.warning("no notifications of the kernel", reason=error.reason)
                await trio.sleep(WATCH_PAUSE)
                self._reconciler.kernel_changed("watched again")

    async def _probe(self) -> None:
        if self._config.health.probe:
            await Prober(
                self._machine.datagrams,
                self._reconciler.senses.health,
                self._reconciler.picture,
                interval=self._config.health.probe,
                look=self._reconciler.look,
                poke=self._reconciler.poke,
                rng=self._rng,
            ).run()

    async def _obey_signals(self, scope: trio.CancelScope) -> None:
        with self._machine.signals() as received:
            async for number in received:
                if number == signal.SIGHUP:
                    self._reread_credentials("SIGHUP")
                    continue
                log.info("stopping", signal=signal.Signals(number).name)
                self._notifier.stopping()
                scope.cancel()

    def _reread_credentials(self, why: str) -> None:
        self._reconciler.refresh_credentials()
        self._reconciler.look_again(why)

    # ------------------------------------------------------------ records

    def _feed(self, event: Event) -> None:
        if not isinstance(event, Lost):
            self.report.last_event = self._now()
        self._reconciler.feed(event)
        self._keeper.changed("records")

    async def _keep_conflist(self) -> None:
        cni, socket = self._config.cni, self._config.control.socket
        if cni.conflist is not None:
            wanted = conflist.content(cni.network, socket)
            await conflist.keep(cni.conflist, wanted, self._pods.obstacle)

    # ------------------------------------------------------------ what others see

    def _http_routes(self) -> Routes:
        aside = self._machine.aside
        return {
            **serve.http_routes(
                self._metrics, self._fresh_status, self._stuck, self._not_ready, aside
            ),
            **serve.page_routes(self._fresh_status, self._recent, self._live, aside),
        }

    def _control_routes(self) -> Routes:
        return {
            **serve.control_routes(self._fresh_status, self._plan, self._confirm),
            **pod_routes(self._pods, lambda: self._reconciler.picture),
        }

    async def _fresh_status(self) -> dict[str, Any]:
        await self._reconciler.refresh()
        return await self.report.whole()

    async def _plan(self) -> dict[str, Any]:
        actions, away = await self._reconciler.fresh_plan()
        return {**plan_document(actions), "unavailable": away}

    def _confirm(self) -> tuple[str, ...]:
        keys = self._reconciler.confirm()
        self._keeper.changed("confirmed")
        return tuple(f"{self._config.store.prefix}/{key}" for key in keys)


async def run(config: Config) -> None:
    """Run a daemon in the real world."""
    log.info("starting", version=__version__, node=config.node.name, config=str(config.path))
    gc.disable()  # until the first pass is done: nearly all that is made by then stays
    rng = random.Random()  # noqa: S311 - jitter
    async with AsyncExitStack() as stack:
        store = open_store(config)
        stack.push_async_callback(_close, store)
        kernel = await _enter_kernel(stack, str(config.kernel.netns_helper))
        await Daemon(
            config, store, kernel, Charon(config.vici_socket, deadline=CHARON_DEADLINE), rng
        ).run()


async def _close(store: Store) -> None:
    with trio.move_on_after(1, shield=True):
        await store.aclose()


async def _enter_kernel(stack: AsyncExitStack, helper: str) -> Kernel:
    while True:
        try:
            kernel = Kernel(sysctls=tuple(FORWARDING.values()), helper=helper)
            return await stack.enter_async_context(kernel)
        except Unavailable as error:
            log.error("not available", part=error.part, reason=error.reason)
            await trio.sleep(WATCH_PAUSE)
