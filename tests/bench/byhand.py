"""Somebody changes 1,000 routes by hand: until the daemon has put them all right.

Against `ip -batch` that puts the same ones right. The daemon is stopped (SIGSTOP) while they are
changed, so that the time is that of the repair alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from lab.process import wait_until
from tests.bench.node import Node, node, records, subnet
from tests.bench.row import Row

PEERS = 1_000
ROUNDS = 10


def rows(rounds: int | None) -> Iterator[Row]:
    with node("byhand") as here:
        here.put(records(PEERS + 1, PEERS))
        daemon = here.start(PEERS)
        listed = here.namespace.ip("route", "show", "table", "198").splitlines()
        right = [line for line in listed if " src " in line]
        assert len(right) == PEERS, right[:3]
        good, bad = here.run / "good.batch", here.run / "bad.batch"
        _write(good, right)
        _write(bad, [_without_source(line) for line in right])
        ours, floor = [], []
        for _ in range(rounds or ROUNDS):
            daemon.process.freeze()
            _batch(here, bad)
            began = time.monotonic()
            _batch(here, good)
            floor.append(time.monotonic() - began)
            _batch(here, bad)
            began = time.monotonic()
            daemon.process.thaw()
            _wait_right(here)
            ours.append(time.monotonic() - began)
            daemon.settle()
        values = statistics.median(ours) * 1000, statistics.median(floor) * 1000
        yield Row(f"{PEERS:,} routes changed by hand: all repaired", *values, 3, "ms")


def _without_source(line: str) -> str:
    words = line.split()
    place = words.index("src")
    return " ".join(words[:place] + words[place + 2 :])


def _write(path: Path, lines: list[str]) -> None:
    text = "".join(f"route change {line} table 198\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def _batch(here: Node, path: Path) -> None:
    here.namespace.ip("-batch", str(path))


def _wait_right(here: Node) -> None:
    wanted = {subnet(number) for number in range(PEERS)}
    wait_until(
        lambda: here.routes(with_source=True) == wanted,
        "all routes are right again",
        60,
        interval=0.005,
    )
