"""The machine that a daemon runs on, beside kernel, charon and store: files, doors, signals.

What is served and when something is kept is the daemon's business.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NoReturn

import trio

from fabricd.config import Config
from fabricd.core.events import Put
from fabricd.daemon import serve, snapshot
from fabricd.daemon.aside import Aside, aside
from fabricd.daemon.datagrams import Datagrams
from fabricd.daemon.files import watch_files
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.notify import Notifier
from fabricd.daemon.parts import DatagramPart
from fabricd.daemon.web import Routes
from fabricd.pods.attachments import Attachments
from fabricd.pods.leases import Leases

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""random(4)."""


class Machine:
    """As the config names its parts."""

    def __init__(self, config: Config, wall_clock: Callable[[], float]) -> None:
        """`wall_clock` gives Unix seconds."""
        self._config = config
        ike = config.ike
        self.keyring = Keyring(ike.ca, ike.cert, ike.key, wall_clock, ike.crl)
        self.notifier = Notifier()
        self.datagrams: DatagramPart = Datagrams(config.health.port)
        self.attachments = Attachments(config.store.state_dir)
        self.leases = Leases(config.cni.data_dir, config.cni.network)
        self.aside: Aside = aside
        self.boot = _BOOT_ID.read_text().strip()

    def load_records(self) -> tuple[Put, ...]:
        """The last good records; raises OSError and ValueError, as `snapshot.load`."""
        return snapshot.load(self._config.store.state_dir)

    async def save_records(self, versions: Iterable[Put]) -> None:
        """Keep the last good records; raises OSError."""
        await trio.to_thread.run_sync(snapshot.save, self._config.store.state_dir, versions)

    async def watch_files(
        self, folders: Iterable[Path], changed: Callable[[str], None]
    ) -> NoReturn:
        """As `files.watch_files`."""
        await watch_files(folders, changed)

    async def serve_http(self, routes: Routes) -> None:
        """Serve where `[http]` says, for ever."""
        await serve.serve_http(routes, *self._config.listen)

    async def serve_control(self, routes: Routes) -> None:
        """Serve on the control socket, for ever."""
        await serve.serve_control(routes, self._config.control.socket)

    def signals(self) -> AbstractContextManager[AsyncIterator[int]]:
        """Those that the daemon obeys, as they come."""
        return trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def settle(self) -> None:
        """What start-up made, the records among it, mostly stays: the collector of garbage, which
        was off, need not look at it.
        """
        gc.collect()
        gc.freeze()
        gc.enable()
