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
from fabricd.daemon import serve, snapshot
from fabricd.daemon.files import watch_files
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.notify import Notifier
from fabricd.daemon.pacing import SWEEP
from fabricd.daemon.page import page
from fabricd.daemon.parts import CharonPart, KernelPart
from fabricd.daemon.recent import Recent
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.status import About, abridged, document, essence, headline, not_ready
from fabricd.daemon.store import open_store
from fabricd.daemon.wakeup import Wakeup
from fabricd.daemon.web import Routes
from fabricd.errors import Unavailable
from fabricd.ike import Charon
from fabricd.kernel import Kernel
from fabricd.metrics import Metrics
from fabricd.sources import Store

STUCK: Final = 60.0
"""Seconds without a turn of the loop after which `/healthz` says so."""

SETTLE: Final = 0.2
"""Seconds from a change to its being written to the store or to disk: changes come in company, and
tunnels come first."""

PUBLISH_PAUSE: Final = 1.0
"""Seconds between two writes of the status to the store, at least."""

SAVE_RETRY: Final = 30.0
"""Seconds until another attempt to write the snapshot."""

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
    ) -> None:
        self._config = config
        self._store = store
        self._kernel = kernel
        self._charon = charon
        self._rng = rng
        self._now = wall_clock
        self._notifier = Notifier()
        self._reconciler = Reconciler(
            rib=Rib(config.ike.identity, config.store.hold_share),
            around=Surroundings(
                config.node.name,
                config.networks,
                config.kernel.bridge,
                outside=config.store_addresses,
            ),
            kernel=kernel,
            charon=charon,
            keyring=Keyring(
                config.ike.ca, config.ike.cert, config.ike.key, wall_clock, config.ike.crl
            ),
            wall_clock=wall_clock,
            rng=rng,
        )
        self._metrics = Metrics(self.status)
        self._last_event = 0.0
        self._snapshot_fault = ""
        self._to_save = Wakeup()
        self._to_publish = Wakeup()
        self._published: Any = None
        self._turned = trio.current_time()
        self._initiator: Initiator | None = None
        self._recent = Recent()

    async def run(self) -> None:
        """Work until cancelled."""
        self._load_snapshot()
        self._reconciler.refresh_credentials()
        host, port = self._config.listen
        async with trio.open_nursery() as nursery:
            self._initiator = Initiator(
                self._charon, nursery, self._reconciler.charon_changed, self._rng
            )
            nursery.start_soon(self._obey_signals, nursery.cancel_scope)
            nursery.start_soon(self._store.run, self._feed)
            nursery.start_soon(self._watch_kernel)
            folders = self._reconciler.keyring.folders
            nursery.start_soon(watch_files, folders, self._reread_credentials)
            nursery.start_soon(self._charon.watch, self._reconciler.charon_changed)
            nursery.start_soon(
                self._reconciler.run, self._initiator, self._metrics, self._after_pass, self._beat
            )
            nursery.start_soon(serve.serve_http, self._http_routes(), host, port)
            nursery.start_soon(
                serve.serve_control, self._control_routes(), self._config.control.socket
            )
            nursery.start_soon(self._keep_snapshot)
            nursery.start_soon(self._keep_status_published)
            # What start-up made lives as long as the process: the collector need not look at it.
            gc.collect()
            gc.freeze()

    def status(self) -> dict[str, Any]:
        """The status document as of now."""
        assert self._initiator is not None
        about = About(
            node=self._config.node.name,
            source=self._config.store.type,
            prefix=self._config.store.prefix,
            last_event=self._last_event,
            snapshot_fault=self._snapshot_fault,
            now=self._now(),
        )
        return document(about, self._reconciler, self._initiator)

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
        if passes == 1:
            self._notifier.ready()
        status = self.status()
        self._notifier.status(headline(status, passes))
        if essence(status) != self._published:
            self._to_publish.poke("changed")

    def _stuck(self) -> str:
        silent = trio.current_time() - self._turned
        return f"the reconcile loop has been stuck for {silent:.0f} s" if silent > STUCK else ""

    def _not_ready(self) -> tuple[str, ...]:
        return not_ready(self.status(), self._reconciler.picture.passes)

    async def _watch_kernel(self) -> None:
        while True:
            try:
                await self._kernel.watch(self._reconciler.kernel_changed)
            except Unavailable as error:
                log.warning("no notifications of the kernel", reason=error.reason)
                await trio.sleep(WATCH_PAUSE)
                self._reconciler.kernel_changed("watched again")

    async def _obey_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
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
            self._last_event = self._now()
        self._reconciler.feed(event)
        self._to_save.poke("records")

    def _load_snapshot(self) -> None:
        try:
            self._reconciler.rib.restore(snapshot.load(self._config.store.state_dir))
        except (OSError, ValueError) as error:
            self._snapshot_fault = str(error)
            log.warning("snapshot of the last good records can't be read", error=str(error))

    async def _keep_snapshot(self) -> None:
        saved = self._reconciler.rib.versions()
        while True:
            await self._to_save.wait(SAVE_RETRY if self._snapshot_fault else float("inf"))
            await trio.sleep(SETTLE)
            versions = self._reconciler.rib.versions()
            if versions == saved:
                continue
            try:
                await trio.to_thread.run_sync(snapshot.save, self._config.store.state_dir, versions)
                saved, self._snapshot_fault = versions, ""
            except OSError as error:
                if str(error) != self._snapshot_fault:
                    log.warning("the last good records can't be kept", error=str(error))
                self._snapshot_fault = str(error)

    # ------------------------------------------------------------ what others see

    async def _keep_status_published(self) -> None:
        key = f"status/{self._config.node.name}"
        reported = ""
        while True:
            await self._to_publish.wait(float("inf"))
            await trio.sleep(SETTLE)
            status = self.status()
            news = essence(status)
            if news == self._published:
                continue
            # `remote` and times are in the document; only a change of its essence is worth a write.
            try:
                await self._store.publish(key, serve.encode(abridged(status)))
                self._published, reported = news, ""
            except Unavailable as error:
                if error.reason != reported:
                    log.warning("status can't be published", reason=error.reason)
                    reported = error.reason
                self._to_publish.poke("again")
                await trio.sleep(5 * self._rng.uniform(0.5, 1.5))
            await trio.sleep(PUBLISH_PAUSE)

    def _http_routes(self) -> Routes:
        refresh = self._reconciler.refresh
        return {
            **serve.http_routes(self._metrics, refresh, self._stuck, self._not_ready),
            **serve.page_routes(refresh, lambda: page(self.status(), self._recent)),
        }

    def _control_routes(self) -> Routes:
        return serve.control_routes(self._fresh_status, self._plan, self._confirm)

    async def _fresh_status(self) -> dict[str, Any]:
        await self._reconciler.refresh()
        return self.status()

    async def _plan(self) -> dict[str, Any]:
        actions, away = await self._reconciler.fresh_plan()
        return {**plan_document(actions), "unavailable": away}

    def _confirm(self) -> tuple[str, ...]:
        keys = self._reconciler.confirm()
        self._to_save.poke("confirmed")
        return tuple(f"{self._config.store.prefix}/{key}" for key in keys)


async def run(config: Config) -> None:
    """Run a daemon in the real world."""
    log.info("starting", version=__version__, node=config.node.name, config=str(config.path))
    rng = random.Random()  # noqa: S311 - jitter
    async with AsyncExitStack() as stack:
        store = open_store(config)
        stack.push_async_callback(_close, store)
        kernel = await _enter_kernel(stack)
        await Daemon(
            config, store, kernel, Charon(config.vici_socket, deadline=CHARON_DEADLINE), rng
        ).run()


async def _close(store: Store) -> None:
    with trio.move_on_after(1, shield=True):
        await store.aclose()


async def _enter_kernel(stack: AsyncExitStack) -> Kernel:
    while True:
        try:
            return await stack.enter_async_context(Kernel(sysctls=tuple(FORWARDING.values())))
        except Unavailable as error:
            log.error("not available", part=error.part, reason=error.reason)
            await trio.sleep(WATCH_PAUSE)
