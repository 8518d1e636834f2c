"""What it takes to start `fabricctl`, against an interpreter that does nothing."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator

from lab.process import Argument
from tests.bench.node import PROGRAMS, Node, node, records
from tests.bench.row import Row

PEERS = 5
ROUNDS = 20


def rows(rounds: int | None) -> Iterator[Row]:
    fabricctl = PROGRAMS / "fabricctl"
    with node("programs") as here:
        here.put(records(10, PEERS))
        here.start(PEERS, watched=False)
        ways: dict[str, tuple[Argument, ...]] = {
            "nothing": (sys.executable, "-c", "pass"),
            "fabricctl --help": (fabricctl, "--help"),
            "fabricctl status": (fabricctl, "status", "--config", here.config),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range((rounds or ROUNDS) + 1):
            for way, argv in ways.items():
                times[way].append(_time(here, argv))
    median = {way: statistics.median(values[1:]) * 1000 for way, values in times.items()}
    for way, aim in (("fabricctl --help", 80), ("fabricctl status", 200)):
        yield Row(f"{way}, to python", median[way], median["nothing"], aim, "ms", absolute=True)


def _time(here: Node, argv: tuple[Argument, ...]) -> float:
    began = time.perf_counter()
    here.namespace.run(*argv)
    return time.perf_counter() - began
