"""Addresses that are taken, as the CNI plugin host-local keeps them: both can serve one bridge.

DATA_DIR/NETWORK holds a file for each address, named after it, with the container's ID and the
interface's name in two lines that end as in DOS; `last_reserved_ip.N` with the address given last
from the N-th range; and `lock`, which whoever writes holds by flock(2) (containernetworking
plugins, plugins/ipam/host-local/backend/disk). Ours have a third line, with the folder that has
the entry of the pod: a lease without one is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from fabricd.model import Prefix, family, first_host, network
from fabricd.pods.attachments import written_down

LOCK_DEADLINE: Final = 10.0
"""Seconds that another program may hold the lock."""
_LOCK_PAUSE: Final = 0.01

_MARK: Final = "fabricd "


class NoLease(Exception):
    """Why an address can't be had, in words for who asked for it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has an address: as two lines of a lease say it."""

    container: str
    ifname: str
    folder: Path
    """Where the daemon has the pod's entry."""

    @property
    def text(self) -> str:
        """The content of the lease's file."""
        return f"{self.container}\r\n{self.ifname}\r\n{_MARK}{self.folder}"


class Leases:
    """The leases of one network. Every method blocks; raises OSError when the disk refuses."""

    def __init__(self, data_dir: Path, name: str) -> None:
        self._folder = data_dir / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the leases; raises NoLease when another program does not let go of them."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _flock(descriptor, self._folder)
            yield
        finally:
            os.close(descriptor)

    def choose(
        self, subnets: Sequence[Prefix], asked: Sequence[str], held: Collection[str] = ()
    ) -> tuple[str, ...]:
        """An address for each family of `subnets`, with prefix lengths: the one asked for, else the
        one after that given last. Raises NoLease. `held`: addresses that are taken though no file
        may say so. To be called, and followed by `take`, while locked.
        """
        taken = {
            *(path.name for path in self._folder.iterdir()),
            *(text.partition("/")[0] for text in held),
        }
        wanted = _by_family(asked, subnets)
        chosen = []
        for place, number in enumerate(_families(subnets)):
            having = [subnet for subnet in subnets if family(subnet) == number]
            if asked and number not in wanted:
                continue  # who asks for one family wants no other
            if number in wanted:
                chosen.append(self._asked(wanted[number], having, taken))
            else:
                chosen.append(self._next(having, place, taken))
        return tuple(chosen)

    def take(
        self, addresses: Iterable[str], holder: Holder, subnets: Sequence[Prefix] = ()
    ) -> None:
        """Write leases; raises NoLease if somebody else has one of them. `subnets`, as `choose` was
        given them, says which was given last.
        """
        places = {number: place for place, number in enumerate(_families(subnets))}
        for address in addresses:
            text = address.partition("/")[0]
            try:
                self._create(text, holder)
            except FileExistsError:
                if self._holder_of(text) == holder.text:
                    continue
                raise NoLease(f"{text} is taken: {self._folder / text}") from None
            if family(text) in places:
                last = self._folder / f"last_reserved_ip.{places[family(text)]}"
                last.unlink(missing_ok=True)  # host-local's is root's, to whom we may not belong
                last.write_text(text)

    def release(self, addresses: Iterable[str], holder: Holder) -> None:
        """Remove this holder's leases; those that are gone are well gone."""
        for address in addresses:
            text = address.partition("/")[0]
            if self._holder_of(text) == holder.text:
                with suppress(FileNotFoundError):
                    (self._folder / text).unlink()

    def collect(self) -> None:
        """Remove leases of ours whose pods are not written down anywhere (any more). To be called
        while locked.
        """
        known: dict[str, frozenset[str] | None] = {}
        for path in self._folder.iterdir():
            _, mark, folder = (self._holder_of(path.name) or "").partition(f"\r\n{_MARK}")
            if not mark:
                continue
            if folder not in known:
                known[folder] = written_down(Path(folder))
            addresses = known[folder]
            if addresses is not None and path.name not in addresses:
                path.unlink(missing_ok=True)

    def _create(self, text: str, holder: Holder) -> None:
        """Raises FileExistsError. A lease is never there without its holder, whoever is killed."""
        new = self._folder / ".new"
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(holder.text)
            (self._folder / text).hardlink_to(new)
        finally:
            new.unlink()

    def _holder_of(self, text: str) -> str | None:
        try:
            return (self._folder / text).read_bytes().decode("utf-8", "replace").strip()
        except OSError:
            return None  # there is none; or it is root's, and so not ours

    def _asked(self, address: str, subnets: Sequence[Prefix], taken: Collection[str]) -> str:
        if address in taken:
            raise NoLease(f"{address} is taken: {self._folder / address}")
        return f"{address}/{network(_home(address, subnets)).prefixlen}"

    def _next(self, subnets: Sequence[Prefix], place: int, taken: Collection[str]) -> str:
        for address, length in _from(self._last(place), subnets):
            if str(address) not in taken:
                return f"{address}/{length}"
        raise NoLease(f"no address is free in {', '.join(subnets)}: detach pods, or add a subnet")

    def _last(self, place: int) -> str:
        with suppress(OSError, ValueError):
            return str(ip_address((self._folder / f"last_reserved_ip.{place}").read_text().strip()))
        return ""


def _flock(descriptor: int, folder: Path) -> None:
    until = time.monotonic() + LOCK_DEADLINE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise NoLease(
                    f"{folder}/lock has been held for {LOCK_DEADLINE:g} s by another program "
                    "(host-local?): see lsof"
                ) from None
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _families(subnets: Iterable[Prefix]) -> list[int]:
    """IP versions, each a range of host-local's."""
    return sorted({family(subnet) for subnet in subnets})


def _by_family(asked: Iterable[str], subnets: Sequence[Prefix]) -> dict[int, str]:
    result: dict[int, str] = {}
    for text in asked:
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:
            raise NoLease(f"{text} is no address") from None
        if address.version in result:
            raise NoLease(f"two IPv{address.version} addresses are asked for: one is the most")
        home = _home(str(address), subnets)
        length = text.partition("/")[2]
        if length and length != str(network(home).prefixlen):
            raise NoLease(f"{text}: this node's subnet there is {home}: ask for {address} alone")
        result[address.version] = str(address)
    return result


def _home(text: str, subnets: Sequence[Prefix]) -> Prefix:
    """The subnet that an address is from; raises NoLease when pods can't have it."""
    for subnet in subnets:
        net = network(subnet)
        address = ip_address(text)
        if address.version != net.version or address not in net:
            continue
        if text == first_host(subnet):
            raise NoLease(f"{text} is the bridge's own, the way out of {subnet}")
        low, high = _range(subnet)
        if not low <= int(address) <= high:
            raise NoLease(f"{text} is no host of {subnet}")
        return subnet
    raise NoLease(f"{text} is in none of this node's subnets: {', '.join(subnets)}")


def _range(subnet: Prefix) -> tuple[int, int]:
    """The first and the last address for pods: after the gateway, before an IPv4 broadcast."""
    net = network(subnet)
    broadcast = net.version == 4 and net.prefixlen < 31
    return int(ip_address(first_host(subnet))) + 1, int(net[-1]) - broadcast


def _from(last: str, subnets: Sequence[Prefix]) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    """All addresses for pods, beginning behind the last one that was given, with their lengths."""
    ranges = [(*_range(subnet), network(subnet)) for subnet in subnets]
    start = next(
        (i for i, (_, _, net) in enumerate(ranges) if last and ip_address(last) in net), None
    )
    if start is not None:
        low, high, net = ranges[start]
        middle = max(int(ip_address(last)) + 1, low)
        ranges = [
            (middle, high, net),
            *ranges[start + 1 :],
            *ranges[:start],
            (low, middle - 1, net),
        ]
    for low, high, net in ranges:
        make = IPv4Address if net.version == 4 else IPv6Address
        for number in range(low, high + 1):
            yield make(number), net.prefixlen
