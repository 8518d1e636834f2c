"""Pings between pods while something else goes on: which of them were lost, and how long there was
no answer.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.process import Process, spawn, wait_until
from tests.lab.observe import SOON

INTERVAL: Final = 0.02
"""Seconds between two pings."""


class Pings:
    """Pings between two pods, one after the other, until `stop`."""

    def __init__(
        self, fabric: Fabric, source: str, target: str, interval: float = INTERVAL
    ) -> None:
        """Pods by name or address; `interval` in seconds."""
        self.path = f"{source} to {target}"
        folder = fabric.run / "pings"
        folder.mkdir(exist_ok=True)
        pod = fabric.layout.pod
        inside = fabric.namespaces[pod(source).name].inside
        argv = inside("ping", "-n", "-D", "-i", str(interval), pod(target).ip)
        self._process: Process = spawn(
            *argv, run=folder, name=f"{source}-{target}-{time.monotonic_ns()}"
        )

    def answered(self) -> list[int]:
        """Numbers of the pings that were answered so far."""
        return [number for _, number in self._answers()]

    def longest_silence(self) -> float:
        """The most seconds between one answer and the next."""
        times = [at for at, _ in self._answers()]
        return max((later - at for at, later in pairwise(times)), default=0.0)

    def _answers(self) -> list[tuple[float, int]]:
        """When each came, Unix seconds, and its number."""
        text = self._process.log.read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+)", text)
        return [(float(at), int(number)) for at, number in found]

    def wait_answer(self) -> None:
        """Wait for one more answer."""
        before = len(self.answered())
        wait_until(lambda: len(self.answered()) > before, f"{self.path}: an answer", SOON)

    def stop(self) -> list[int]:
        """The numbers of those that were lost: sent between the first one that was answered and
        the last, and not answered.
        """
        self._process.signal(signal.SIGINT)
        self._process.wait(SOON)
        answered = self.answered()
        self._process.stop()
        return sorted(
            set(range(min(answered, default=0), max(answered, default=0))) - set(answered)
        )


@contextmanager
def answered(running: Iterable[Pings]) -> Iterator[None]:
    """Each of them is answered once more before and afterwards."""
    pings = list(running)
    for each in pings:
        each.wait_answer()
    yield
    for each in pings:
        each.wait_answer()


@contextmanager
def pinging(
    fabric: Fabric, *paths: str, interval: float = INTERVAL
) -> Iterator[dict[str, list[int]]]:
    """Ping along connections (`c1`) all the while; afterwards the dict says what was lost.

    It begins and ends with a ping that is answered.
    """
    lost: dict[str, list[int]] = {}
    running = {path: Pings(fabric, *PATHS[path], interval) for path in paths}
    try:
        with answered(running.values()):
            yield lost
    finally:
        lost.update({path: pings.stop() for path, pings in running.items()})


@contextmanager
def ping_taken_over(fabric: Fabric, *paths: str, times: int = 1) -> Iterator[None]:
    """A ping every 10 ms along these connections while CHILD_SAs take over from others, so many
    times: none is lost, with the kernel's ESP. libipsec uses a new CHILD_SA at once, before the
    initiator can, for as long as that takes on a busy machine.
    """
    with pinging(fabric, *paths, interval=0.01) as lost:
        yield
    limit = 3 * times if fabric.userspace_esp else 0
    assert {path: numbers for path, numbers in lost.items() if len(numbers) > limit} == {}


@contextmanager
def no_ping_lost(fabric: Fabric, *paths: str) -> Iterator[None]:
    """Along these connections every single ping is answered meanwhile."""
    with pinging(fabric, *paths) as lost:
        yield
    assert lost == {path: [] for path in paths}
