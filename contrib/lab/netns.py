"""Network namespaces, and the cables between them.

By iproute2 alone: the lab must not stand on the code that it is there to try.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.process import Argument, CommandError, LabError, Process, command, spawn

NETNS = Path("/run/netns")
"""Where iproute2 keeps the names (ip-netns(8))."""


def _enter(namespace: int) -> None:
    """setns(2), which `os` has from Python 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """A network namespace with its loopback up, recorded in `run/NAME.netns` while it exists."""

    def __init__(self, name: str, run: Path) -> None:
        """Take hold of a namespace that exists; `create` makes one."""
        self.name = name
        self.run_dir = run
        self.path = NETNS / name
        """To be opened and entered by setns(2)."""

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    @classmethod
    def create(cls, name: str, run: Path) -> Namespace:
        """Make it; raises LabError when the name is taken."""
        self = cls(name, run)
        if self.exists:
            raise LabError(f"network namespace {name} is there already, and not ours")
        self._record.touch()  # first, so that no crash leaves a namespace without a record
        command("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        return self

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def _record(self) -> Path:
        return self.run_dir / f"{self.name}.netns"

    @contextmanager
    def around_thread(self) -> Iterator[None]:
        """The calling thread is in there meanwhile; sockets and /proc/sys/net follow it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        away = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(away)
            yield
        finally:
            _enter(home)
            os.close(home)
            os.close(away)

    def delete(self) -> None:
        """Remove it, if it is there. Links inside go with it, processes inside don't."""
        if self.exists:
            command("ip", "netns", "delete", self.name)
        self._record.unlink(missing_ok=True)

    def run(
        self,
        *argv: Argument,
        stdin: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command inside and return its stdout; raises CommandError with its stderr."""
        return command(*self.inside(*argv), stdin=stdin, timeout=timeout, env=env)

    def popen(self, *argv: Argument, name: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a process inside; see `process.spawn`. Its pid is the command's own."""
        return spawn(*self.inside(*argv), run=self.run_dir, name=name, env=env)

    def inside(self, *argv: Argument) -> tuple[Argument, ...]:
        """The command line that runs a command line inside."""
        return ("ip", "netns", "exec", self.name, *argv)

    def ip(self, *arguments: str) -> str:
        """ip(8) on this namespace."""
        return command("ip", "-n", self.name, *arguments)

    def has_link(self, name: str) -> bool:
        try:
            self.ip("link", "show", "dev", name)
        except CommandError:
            return False
        return True

    def add_address(self, link: str, address: str) -> None:
        """Put an address (`2.2.2.2/27`) on a link and set the link up."""
        nodad = ("nodad",) if ":" in address else ()  # no second of waiting for usable IPv6
        self.ip("address", "add", address, "dev", link, *nodad)
        self.ip("link", "set", link, "up")

    def add_route(self, prefix: str, via: str) -> None:
        self.ip("route", "replace", prefix, "via", via)

    def add_bridge(self, name: str, *addresses: str) -> None:
        self.ip("link", "add", name, "type", "bridge")
        self.ip("link", "set", name, "up")
        for address in addresses:
            self.add_address(name, address)

    def forward(self) -> None:
        """Make it a router."""
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def lost(self, target: str, count: int = 3, wait: float = 2, size: int = 56) -> int:
        """How many of `count` pings of `size` bytes from inside to `target`, all sent at once, are
        not answered within `wait` seconds.
        """
        # Where anything was answered ping(8) waits no longer than its interval for the rest.
        times = ("-l", str(count), "-i", f"{wait:g}", "-W", f"{wait:g}")
        argv = ("ping", "-n", "-q", "-c", str(count), "-s", str(size), *times)
        try:
            report = self.run(*argv, target, timeout=2 * wait + 30)
        except CommandError as error:
            if error.status != 1:  # 1: no answer at all (ping(8)); anything else: no ping
                raise
            report = error.output
        received = report.partition(" packets transmitted, ")[2].partition(" ")[0]
        return count - int(received)


def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """A cable between two namespaces; both its ends are down. Names have up to 15 bytes."""
    command(
        *("ip", "link", "add", a_name, "netns", a.name, "type", "veth"),
        *("peer", "name", b_name, "netns", b.name),
    )
