"""A running fabricd as the bench sees it: processor time, memory, steps of its loop, metrics."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from lab.netns import Namespace
from lab.process import CommandError, LabError, Process, wait_until

QUIET = 0.45
"""Seconds without work after which a change has had all its consequences: longer than the daemon's
pause before it writes its status and its snapshot, and than its pause to verify."""

NOISE = 0.003
"""Seconds of processor time that are no work."""


def cpu(process: Process) -> float:
    """Seconds of processor time that all threads of a process have taken, to the nanosecond.

    Its clock is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h.
    """
    return time.clock_gettime(~process.pid << 3 | 2)


class Daemon:
    """One fabricd in its namespace."""

    def __init__(self, process: Process, namespace: Namespace, steps: Path) -> None:
        """`steps`: where `watched` writes."""
        self.process = process
        self._namespace = namespace
        self._steps = steps

    def cpu(self) -> float:
        return cpu(self.process)

    def settle(self, timeout: float = 120) -> None:
        """Until it has had nothing to do for a while."""
        deadline = time.monotonic() + timeout
        used = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(QUIET)
            before, used = used, self.cpu()
            if used - before < NOISE:
                return
        raise LabError("the daemon does not come to rest", self.process.tail())

    def rss(self) -> int:
        """VmRSS in kB (proc_pid_status(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0])

    def steps(self) -> list[tuple[float, str]]:
        """The longest steps of its event loop since the last call: seconds, and whose."""
        self._steps.unlink(missing_ok=True)
        self.process.signal(signal.SIGUSR2)
        wait_until(self._steps.exists, "it tells its steps", 60, watch=[self.process])
        return [(took, task) for took, task in json.loads(self._steps.read_text())]

    def get(self, path: str) -> str:
        """What it answers over HTTP; raises CommandError."""
        url = f"http://127.0.0.1:9815{path}"
        try:
            with (
                self._namespace.around_thread(),
                urllib.request.urlopen(url, timeout=30) as answer,
            ):
                return str(answer.read().decode())
        except OSError as error:
            raise CommandError(("GET", path), "none", "", str(error)) from error

    def ready(self) -> bool:
        return bool(self.get("/readyz"))

    def metrics(self) -> Mapping[str, float]:
        """Samples by name and labels: `fabricd_actions_total,kind=conn.load,outcome=done`."""
        families = text_string_to_metric_families(self.get("/metrics"))
        return {
            ",".join(
                [sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]
            ): sample.value
            for family in families
            for sample in family.samples
        }

    def actions(self) -> float:
        """How many actions it has carried out on kernel and charon."""
        found = self.metrics().items()
        return sum(value for name, value in found if name.startswith("fabricd_actions_total"))
