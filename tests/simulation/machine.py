"""The machine of one node: its disk, its files, its doors, and what it does not have (systemd)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import trio

from fabricd.core.events import Put
from fabricd.daemon.aside import Aside
from fabricd.daemon.datagrams import Arrival
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.notify import Notifier
from fabricd.daemon.parts import DatagramPart
from fabricd.daemon.web import Routes
from fabricd.ike import CredentialError, Credentials
from fabricd.model import Address, Prefix
from fabricd.pods.attachments import Attachments, Entry
from fabricd.pods.leases import Holder, Leases, NoLease
from tests.unit.daemon.aside import at_once


class DiskAttachments(Attachments):
    """Pods' entries in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def load(self) -> tuple[dict[str, Entry], list[str]]:
        return dict(self._entries), []

    def save(self, entry: Entry) -> None:
        self._entries[entry.name] = entry

    def remove(self, name: str) -> None:
        self._entries.pop(name, None)


class DiskLeases(Leases):
    """Addresses given in memory."""

    def __init__(self) -> None:
        self._held: dict[str, Holder] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def take(
        self, addresses: Iterable[str], holder: Holder, subnets: Sequence[Prefix] = ()
    ) -> None:
        for address in addresses:
            if self._held.setdefault(address, holder) != holder:
                raise NoLease(f"{address} is taken")

    def release(self, addresses: Iterable[str], holder: Holder) -> None:
        for address in addresses:
            if self._held.get(address) == holder:
                del self._held[address]

    def collect(self) -> None:
        """Nobody else gives any."""


@dataclass
class Disk:
    """What outlives a daemon."""

    credentials: Credentials
    records: tuple[Put, ...] = ()
    unreadable: str = ""
    """What is wrong with the snapshot, if so."""
    full: bool = False
    unusable: str = ""
    """What is wrong with the credentials' files, if so."""
    attachments: DiskAttachments = field(default_factory=DiskAttachments)
    leases: DiskLeases = field(default_factory=DiskLeases)
    changed: trio.Event = field(default_factory=trio.Event)

    def change(self) -> None:
        """Files were written."""
        self.changed.set()
        self.changed = trio.Event()


class DiskKeyring(Keyring):
    """Reads credentials from a `Disk`."""

    def __init__(self, disk: Disk, now: Callable[[], float]) -> None:
        super().__init__([Path("ca.crt")], Path("node.crt"), Path("node.key"), now)
        self._disk = disk

    def refresh(self) -> None:
        self.faults = ()
        try:
            if self._disk.unusable:
                raise CredentialError([self._disk.unusable])
            self.credentials = self._disk.credentials
        except CredentialError as error:
            self.faults = tuple(error.faults)


class NoDatagrams:
    """No address to send from, as where the node has none in its subnets."""

    async def run(self, arrived: Callable[[Arrival], None]) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError

    def listen(self, addresses: Collection[Address]) -> None:
        """Nothing comes."""

    def send(self, source: Address, target: Address, data: bytes) -> bool:
        return False


class SimulatedMachine:
    """What `fabricd.daemon.machine.Machine` is to a daemon."""

    def __init__(self, disk: Disk, now: Callable[[], float]) -> None:
        self._disk = disk
        self.keyring: Keyring = DiskKeyring(disk, now)
        self.notifier = Notifier({})
        self.datagrams: DatagramPart = NoDatagrams()
        self.attachments: Attachments = disk.attachments
        self.leases: Leases = disk.leases
        self.boot = "this boot"
        self.aside: Aside = at_once
        self.control: Routes = {}
        self.signal, self._signals = trio.open_memory_channel[int](8)

    def load_records(self) -> tuple[Put, ...]:
        if self._disk.unreadable:
            raise ValueError(self._disk.unreadable)
        return self._disk.records

    async def save_records(self, versions: Iterable[Put]) -> None:
        await trio.lowlevel.checkpoint()
        if self._disk.full:
            raise OSError(28, "No space left on device")
        self._disk.records, self._disk.unreadable = tuple(versions), ""

    async def watch_files(
        self, folders: Iterable[Path], changed: Callable[[str], None]
    ) -> NoReturn:
        while True:
            changed("files watched")
            await self._disk.changed.wait()

    async def serve_http(self, routes: Routes) -> None:
        await trio.sleep_forever()

    async def serve_control(self, routes: Routes) -> None:
        self.control = routes
        await trio.sleep_forever()

    @contextmanager
    def signals(self) -> Iterator[AsyncIterator[int]]:
        yield self._signals

    def settle(self) -> None:
        """Nothing: the collector has other lives to look after."""
