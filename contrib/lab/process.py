"""Processes: run one to its end, or keep one running with a log and a pid file.

Knows nothing of namespaces, charon or etcd. All is synchronous and bounded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Argument = str | Path


class LabError(Exception):
    """Something in the lab did not go as it must; `tails` are the ends of the logs concerned."""

    def __init__(self, what: str, tails: str = "") -> None:
        super().__init__(what)
        self.tails = tails

    def __str__(self) -> str:
        return f"{self.args[0]}\n{self.tails}".rstrip()


class CommandError(LabError):
    """A command that failed: `status` is its exit status, `output` what it had printed."""

    def __init__(
        self, argv: Sequence[Argument], status: int | str, output: str, errors: str
    ) -> None:
        said = errors.strip() or output.strip() or "(it said nothing)"
        super().__init__(f"{' '.join(map(str, argv))}: exit {status}: {said}")
        self.status = status
        self.output = output
        self.errors = errors


def command(
    *argv: Argument,
    stdin: str | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return its stdout; raises CommandError with its stderr.

    `env` is added to the environment; `timeout` is in seconds.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, f"none within {timeout:g} s", "", "") from error
    if done.returncode:
        raise CommandError(argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True)
class ProcessId:
    """A process beyond doubt: pids are used again, a pid with its start time is not."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat, in clock ticks since boot (proc_pid_stat(5))."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The live process with this pid; None when there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the command's name may hold anything
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def write(self, path: Path) -> None:
        """So that `read_pid_file` reads it."""
        path.write_text(f"{self.pid} {self.started}\n", encoding="ascii")

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process group that `spawn` made for it, if the process is alive."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def end(self, timeout: float = 5, reap: Callable[[], object] = lambda: None) -> None:
        """SIGTERM, and SIGKILL after `timeout` seconds; returns when it is gone.

        `reap` is called while waiting: a parent has to collect its child.
        """
        self.signal_group(signal.SIGCONT)
        self.signal_group(signal.SIGTERM)
        if not _until(self._gone(reap), timeout):
            self.signal_group(signal.SIGKILL)
            if not _until(self._gone(reap), 10):
                raise LabError(f"process {self.pid} survives SIGKILL")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started and left behind

    def _gone(self, reap: Callable[[], object]) -> Callable[[], bool]:
        def gone() -> bool:
            reap()
            return not self.alive

        return gone


@dataclass
class Process:
    """A child that keeps running, in a process group of its own."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    id: ProcessId | None
    _pid_file: Path = field(repr=False)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status once it has ended; negative: ended by that signal."""
        return self.popen.poll()

    def stop(self, timeout: float = 20) -> int:
        """SIGTERM, SIGKILL after `timeout` seconds; returns the exit status."""
        if self.id is not None and self.alive:
            self.id.end(timeout, self.popen.poll)
        self._pid_file.unlink(missing_ok=True)
        return self.popen.wait()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.id is not None and self.alive:
            self.id.signal_group(signal.SIGKILL)
        self.popen.wait()
        self._pid_file.unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: the process is there and does not answer. Returns when all threads stand."""
        if self.id is not None:
            self.id.signal_group(signal.SIGSTOP)
        if not _until(self._stands, 10):
            raise LabError(f"{self.name} runs on after SIGSTOP", self.tail())

    def _stands(self) -> bool:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)
        except OSError:
            return False  # a thread that ended meanwhile

    def thaw(self) -> None:
        if self.id is not None:
            self.id.signal_group(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Its exit status; raises LabError when it has not ended after `timeout` seconds."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name} runs on after {timeout:g} s", self.tail()) from error

    def tail(self, lines: int = 20) -> str:
        """The end of its log, under a heading."""
        return tail(self.log, lines)


def spawn(
    *argv: Argument,
    run: Path,
    name: str,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Process:
    """Start a process in the background: its output is appended to `run/NAME.log`, its pid
    and start time stand in `run/NAME.pid` until it is stopped.
    """
    log = run / f"{name}.log"
    pid_file = run / f"{name}.pid"
    # No interrupt may come between the start and the record of it; the child is to have the
    # mask that we had.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    def begin() -> None:
        """In the child, which is on record before it is anything else: we may be killed."""
        own = ProcessId.of(os.getpid())
        if own is not None:
            own.write(pid_file)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        with log.open("ab") as output:
            popen = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=begin,  # noqa: PLW1509  # takes no lock
                env={**os.environ, **(env or {})},
            )
        started = ProcessId.of(popen.pid)
    except OSError:
        pid_file.unlink(missing_ok=True)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Process(name, popen, log, started, pid_file)


def read_pid_file(path: Path) -> ProcessId | None:
    """What `ProcessId.write` wrote; None for a file that was cut off."""
    try:
        pid, started = map(int, path.read_text(encoding="ascii").split())
    except ValueError:
        return None
    return ProcessId(pid, started)


def wait_until(
    condition: Callable[[], T],
    what: str,
    timeout: float = 60,
    *,
    watch: Iterable[Process] = (),
    interval: float = 0.05,
) -> T:
    """Call `condition` until it returns something true, and return that.

    A CommandError out of it means "not yet". Raises LabError with the tails of the watched
    processes' logs after `timeout` seconds, and at once when one of them has ended.
    """
    watched = list(watch)
    deadline = time.monotonic() + timeout
    last = ""
    while True:
        try:
            if value := condition():
                return value
        except CommandError as error:
            last = f" (last: {error})"
        ended = [process for process in watched if not process.alive]
        if ended or time.monotonic() >= deadline:
            why = (
                ", ".join(f"{process.name} ended with {process.returncode}" for process in ended)
                or f"not within {timeout:g} s"
            )
            tails = "\n".join(process.tail() for process in watched)
            raise LabError(f"{what}: {why}{last}", tails)
        time.sleep(interval)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log under a heading."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = "(no log)"
    return f"--- {log}\n" + "\n".join(text.splitlines()[-lines:])


def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True
