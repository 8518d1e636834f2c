"""One node's daemon: every part made from the config, every task in one nursery.

A task ends only by a bug or by cancellation; then all end, and the process with them. What is
in kernel and charon stays as it is: a restart finds it right.
"""

from __future__ import annotations

import gc
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
import trio

from fabricd import __version__
from fabricd.config import Config
from fabricd.core.action import plan_document
from fabricd.core.essence import essence
from fabricd.core.events import Event, Lost
from fabricd.core.rib import Rib
from fabricd.core.routing import FORWARDING
from fabricd.core.surroundings import Surroundings
from fabricd.daemon import conflist, serve
from fabricd.daemon.abridged import abridged
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.live import Live
from fabricd.daemon.machine import Machine
from fabricd.daemon.pacing import SWEEP
from fabricd.daemon.parts import CharonPart, KernelPart, MachinePart
from fabricd.daemon.peers import Peers, brief
from fabricd.daemon.pod_routes import pod_routes
from fabricd.daemon.pods import PodService
from fabricd.daemon.prober import Prober
from fabricd.daemon.recent import Recent
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.status import About, document, headline, not_ready, overview
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

SAVE_PAUSE: Final = 0.0005
"""Seconds for each record between two writings of the snapshot: what one costs grows with them."""

SAVE_RETRY: Final = 30.0
"""Seconds until another attempt to write the snapshot."""

CHARON_DEADLINE: Final = 5.0
"""Seconds that charon may be silent in the middle of a command before it counts as hung."""

CONFLIST_PAUSE: Final = 1.0
"""Seconds between two looks at the file for container runtimes."""

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
        self._last_event = 0.0
        self._snapshot_fault = ""
        self._to_save = Wakeup()
        self._to_publish = Wakeup()
        self._published: Any = None
        self._publish_fault = ""
        self._turned = trio.current_time()
        self._settled = False
        self._peers: Peers | None = None
        self._recent = Recent()
        self._live = Live(self._slowly, self._recent, self._machine.aside)

    async def run(self) -> None:
        """Work until cancelled."""
        self._load_snapshot()
        self._pods.load()
        self._reconciler.refresh_credentials()
        async with trio.open_nursery() as nursery:
            initiator = Initiator(self._charon, nursery, self._reconciler.charon_changed, self._rng)
            self._peers = Peers(self._reconciler, initiator)
            nursery.start_soon(self._obey_signals, nursery.cancel_scope)
            nursery.start_soon(self._store.run, self._feed)
            nursery.start_soon(self._watch_kernel)
            folders = self._reconciler.keyring.folders
            nursery.start_soon(self._machine.watch_files, folders, self._reread_credentials)
            nursery.start_soon(self._charon.watch, self._reconciler.charon_changed)
            nursery.start_soon(
                self._reconciler.run, initiator, self._metrics, self._after_pass, self._beat
            )
            nursery.start_soon(self._machine.serve_http, self._http_routes())
            nursery.start_soon(self._machine.serve_control, self._control_routes())
            nursery.start_soon(self._keep_snapshot)
            nursery.start_soon(self._probe)
            nursery.start_soon(self._keep_conflist)
            nursery.start_soon(self._keep_status_published)

    def status(self) -> dict[str, Any]:
        """The status document as of now."""
        about = self._about(self._publish_fault)
        assert self._peers is not None
        return document(about, self._reconciler, self._peers.rows(about.now))

    async def _slowly(self, publish_fault: str | None = None) -> dict[str, Any]:
        """The same, while others have their turn. `publish_fault`: as if that were so."""
        fault = self._publish_fault if publish_fault is None else publish_fault
        about = self._about(fault)
        assert self._peers is not None
        return document(about, self._reconciler, await self._peers.rows_slowly(about.now))

    def _glance(self, publish_fault: str) -> dict[str, Any]:
        """As much of it as `essence` looks at."""
        assert self._peers is not None
        rows = map(brief, self._peers.states())
        return document(self._about(publish_fault), self._reconciler, rows)

    def _about(self, publish_fault: str) -> About:
        return About(
            node=self._config.node.name,
            source=self._config.store.type,
            place=self._store.place,
            prefix=self._config.store.prefix,
            last_event=self._last_event,
            snapshot_fault=self._snapshot_fault,
            now=self._now(),
            publish_fault=publish_fault,
        )

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
        status = self._glance(self._publish_fault)
        self._notifier.status(headline(status, passes))
        if essence(status) != self._published:
            self._to_publish.poke("changed")

    def _stuck(self) -> str:
        silent = trio.current_time() - self._turned
        return f"the reconcile loop has been stuck for {silent:.0f} s" if silent > STUCK else ""

    def _not_ready(self) -> tuple[str, ...]:
        seen = overview(self._about(self._publish_fault), self._reconciler)  # asked often
        return not_ready(seen, self._reconciler.picture.passes)

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
            self._last_event = self._now()
        self._reconciler.feed(event)
        self._to_save.poke("records")

    def _load_snapshot(self) -> None:
        try:
            self._reconciler.rib.restore(self._machine.load_records())
        except (OSError, ValueError) as error:
            self._snapshot_fault = str(error)
            log.warning("snapshot of the last good records can't be read", error=str(error))

    async def _keep_conflist(self) -> None:
        path, fault = self._config.cni.conflist, ""
        if path is None:
            return
        wanted = conflist.content(self._config.cni.network, self._config.control.socket)
        while True:
            await trio.sleep(CONFLIST_PAUSE)
            if self._pods.obstacle():
                continue
            try:
                if await trio.to_thread.run_sync(conflist.keep, path, wanted):
                    log.info("container runtimes are told of fabric-cni", path=str(path))
                fault = ""
            except OSError as error:
                if str(error) != fault:
                    log.error("container runtimes can't be told of fabric-cni", error=str(error))
                fault = str(error)

    async def _keep_snapshot(self) -> None:
        saved = self._reconciler.rib.versions()
        while True:
            await self._to_save.wait(SAVE_RETRY if self._snapshot_fault else float("inf"))
            await trio.sleep(SETTLE + SAVE_PAUSE * len(saved))
            versions = self._reconciler.rib.versions()
            if versions == saved:
                continue
            try:
                await self._machine.save_records(versions)
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
            news = essence(self._glance(publish_fault=""))  # where that is read, it is published
            if news == self._published:
                self._publish_fault = ""
                continue
            # Times and counters are in the document; only a change of its essence is worth a write.
            status = await self._slowly(publish_fault="")
            news = essence(status)
            try:
                await self._store.publish(key, await self._machine.aside(_published, status))
                self._published, self._publish_fault, reported = news, "", ""
            except Unavailable as error:
                if error.reason != reported:
                    log.warning("status can't be published", reason=error.reason)
                    reported = error.reason
                # Of a store that is away enough is said.
                self._publish_fault = error.reason if self._reconciler.rib.synced else ""
                self._to_publish.poke("again")
                await trio.sleep(5 * self._rng.uniform(0.5, 1.5))
            await trio.sleep(PUBLISH_PAUSE)

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
        return await self._slowly()

    async def _plan(self) -> dict[str, Any]:
        actions, away = await self._reconciler.fresh_plan()
        return {**plan_document(actions), "unavailable": away}

    def _confirm(self) -> tuple[str, ...]:
        keys = self._reconciler.confirm()
        self._to_save.poke("confirmed")
        return tuple(f"{self._config.store.prefix}/{key}" for key in keys)


def _published(status: Mapping[str, Any]) -> bytes:
    return serve.encode(abridged(status))


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
