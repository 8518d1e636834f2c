"""What the daemon needs of kernel, charon and machine: the seams for a simulated world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn, Protocol

from fabricd.core.action import Action, Outcome, Tunnel
from fabricd.core.events import Put
from fabricd.core.state import IkeState, KernelState, Pod
from fabricd.daemon.aside import Aside
from fabricd.daemon.datagrams import Arrival
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.notify import Notifier
from fabricd.daemon.web import Routes
from fabricd.ike import Credentials
from fabricd.model import Address
from fabricd.pods.attachments import Attachments
from fabricd.pods.leases import Leases


class KernelPart(Protocol):
    """The kernel: `fabricd.kernel.Kernel`."""

    async def observe(self, pods: Mapping[str, Pod] = ...) -> KernelState:
        """Dump everything, and what there is of these pods; raises Unavailable."""
        ...

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        """Carry out actions in order, one outcome each; raises Unavailable."""
        ...

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for each notification, for ever."""
        ...


class CharonPart(Protocol):
    """charon: `fabricd.ike.Charon`."""

    async def observe(
        self, only: Collection[str] | None = None, last: IkeState | None = None
    ) -> IkeState:
        """List everything that is ours; of connections and SAs those with the names `only`, if
        given, and the others as in `last`. Raises Unavailable.
        """
        ...

    async def listing(self) -> IkeState:
        """As `observe`, for who is not the loop: ids that it tells are not to be acted upon. Raises
        Unavailable.
        """
        ...

    async def apply(
        self, actions: Sequence[Action], credentials: Credentials | None
    ) -> list[Outcome]:
        """Carry out actions in order, one outcome each; raises Unavailable."""
        ...

    async def initiate(self, tunnel: Tunnel, timeout: float) -> None:
        """Bring a CHILD_SA up; raises InitiateFailed, Unavailable."""
        ...

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for each event, for ever."""
        ...


class DatagramPart(Protocol):
    """UDP at the node's own addresses: `fabricd.daemon.datagrams.Datagrams`."""

    async def run(self, arrived: Callable[[Arrival], None]) -> NoReturn:
        """Hand over what comes in, for ever."""
        ...

    def listen(self, addresses: Collection[Address]) -> None:
        """Listen at exactly these from now on, as far as the node has them."""
        ...

    def send(self, source: Address, target: Address, data: bytes) -> bool:
        """Send; False: it did not leave the node."""
        ...


class MachinePart(Protocol):
    """The machine that the daemon runs on: `fabricd.daemon.machine.Machine`."""

    keyring: Keyring
    attachments: Attachments
    leases: Leases
    boot: str
    """Identifies the boot of the machine."""
    notifier: Notifier
    datagrams: DatagramPart
    aside: Aside

    def load_records(self) -> tuple[Put, ...]:
        """What `save_records` kept last; raises OSError, ValueError."""
        ...

    async def save_records(self, versions: Iterable[Put]) -> None:
        """Keep the last good records; raises OSError."""
        ...

    async def watch_files(
        self, folders: Iterable[Path], changed: Callable[[str], None]
    ) -> NoReturn:
        """Call `changed` after each burst of changes, for ever."""
        ...

    async def serve_http(self, routes: Routes) -> None:
        """Serve for ever, to whoever is let in."""
        ...

    async def serve_control(self, routes: Routes) -> None:
        """Serve for ever, to the node's operator."""
        ...

    def signals(self) -> AbstractContextManager[AsyncIterator[int]]:
        """SIGTERM, SIGINT and SIGHUP, as they come."""
        ...

    def settle(self) -> None:
        """Start-up is done."""
        ...
