"""One etcd: its own data, its own ports, on loopback or inside a namespace; or several, joined."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from lab.netns import Namespace
from lab.process import LabError, Process, command, spawn, wait_until


class Etcd:
    """An etcd server that can be stopped, killed, frozen, restarted, compacted and wiped.

    Without a namespace it listens on loopback on free ports, that it keeps across restarts.
    """

    def __init__(
        self,
        run: Path,
        *,
        name: str = "etcd",
        namespace: Namespace | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        peer_port: int | None = None,
        flags: Sequence[str] = (),
        scheme: str = "http",
        ctl_flags: Sequence[str] = (),
    ) -> None:
        """`flags` go to etcd (`--auth-token-ttl=3`), `ctl_flags` to each etcdctl (TLS, user)."""
        self.run_dir = run
        self.name = name
        self.namespace = namespace
        self.flags = tuple(flags)
        self.ctl_flags = tuple(ctl_flags)
        self.data = run / f"{name}.data"
        self.host = host
        in_namespace = namespace is not None
        self.port = port or (2379 if in_namespace else free_port())
        self.peer_port = peer_port or (2380 if in_namespace else free_port())
        self.peer = f"http://127.0.0.1:{self.peer_port}"
        self.cluster = f"{name}={self.peer}"
        """All members' names and peer URLs: this one alone, unless it is made one of several."""
        self.endpoint = f"{scheme}://{host}:{self.port}"
        self.process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it serves; raises LabError with its log otherwise."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it: one of several members serves when most of them do."""
        if self.process is not None and self.process.alive:
            raise LabError(f"{self.name} runs already")
        argv: tuple[str | Path, ...] = (
            *("etcd", "--name", self.name, "--data-dir", self.data),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
            *("--initial-cluster", self.cluster),
            *self.flags,
        )
        if self.namespace is not None:
            argv = self.namespace.inside(*argv)
        self.process = spawn(*argv, run=self.run_dir, name=self.name)

    def wait_ready(self, timeout: float = 90) -> None:
        """Until it answers a read that needs a leader."""
        watch = () if self.process is None else (self.process,)
        wait_until(
            lambda: self.get("ready") is not None, f"{self.name} serves", timeout, watch=watch
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """SIGKILL: connections break without a word."""
        self.running.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and silent."""
        self.running.freeze()

    def thaw(self) -> None:
        self.running.thaw()

    def restart(self) -> None:
        """Stop, and start on the same data."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Stop, lose all data, start: revisions begin at 1 again."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        self.start()

    @property
    def running(self) -> Process:
        if self.process is None:
            raise LabError(f"{self.name} was never started")
        return self.process

    def ctl(self, *arguments: str, stdin: str | None = None, timeout: float = 40) -> str:
        """etcdctl; raises CommandError."""
        argv: tuple[str | Path, ...] = (
            *("etcdctl", "--endpoints", self.endpoint),
            *("--dial-timeout", "10s", "--command-timeout", "30s"),  # it is impatient by itself
            *self.ctl_flags,
            *arguments,
        )
        if self.namespace is not None:
            argv = self.namespace.inside(*argv)
        return command(*argv, stdin=stdin, timeout=timeout, env={"ETCDCTL_API": "3"})

    def put(self, key: str, value: str | dict[str, object]) -> None:
        """A dict is written as JSON."""
        self.ctl("put", key, value if isinstance(value, str) else json.dumps(value))

    def get(self, key: str) -> str:
        """The value of one key, without the newline that etcdctl adds; empty when absent."""
        return self.ctl("get", "--print-value-only", key).removesuffix("\n")

    def keys(self, prefix: str) -> list[str]:
        """The keys under a prefix, sorted."""
        return self.ctl("get", "--prefix", "--keys-only", prefix).split()

    def delete(self, key: str, *flags: str) -> None:
        """Delete a key, or with `--prefix` all keys under it."""
        self.ctl("del", *flags, key)

    def revision(self) -> int:
        """The store's current revision."""
        document = json.loads(self.ctl("get", "ready", "--write-out", "json"))
        return int(document["header"]["revision"])

    def compact(self) -> int:
        """Forget all history before now; returns the revision."""
        now = self.revision()
        self.ctl("compact", "--physical", str(now))
        return now


def join(members: Sequence[Etcd]) -> None:
    """Make them members of one cluster; none of them has run yet."""
    for member in members:
        member.cluster = ",".join(f"{other.name}={other.peer}" for other in members)


_offsets = cycle(range(100))


def free_port() -> int:
    """A loopback TCP port that nobody listens on now, and no other process is told of.

    It is none of those from which connections are made (ip_local_port_range, ip(7)): one of them
    could take it while whoever it belongs to does not listen.
    """
    first = 10_000 + os.getpid() % 200 * 100
    return next(port for offset in _offsets if _is_free(port := first + offset))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
