"""`make simulate SEEDS=N`: many seeds, and for what fails the shortest way to see it fail again."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from tests.simulation.run import Result, run
from tests.simulation.scenario import draw
from tests.simulation.shrink import only, shrink

CHUNK = 20
"""Seeds that a worker is given at once."""

SHOWN = 3
"""Failures that are made small and shown with what happened."""


@dataclass
class Summary:
    """Of some seeds."""

    seeds: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    simulated: float = 0.0
    actions: int = 0
    steps: Counter[str] = field(default_factory=Counter)

    def count(self, result: Result) -> None:
        self.seeds += 1
        self.simulated += result.simulated
        self.actions += result.actions
        self.steps.update(step.name for step in result.scenario.steps)
        if result.verdict:
            self.failures[result.scenario.seed] = result.verdict

    def add(self, other: Summary) -> None:
        self.seeds += other.seeds
        self.failures |= other.failures
        self.simulated += other.simulated
        self.actions += other.actions
        self.steps += other.steps


def hurry() -> None:
    """Log lines and collections of what lives for ever cost more than what they bring."""
    gc.freeze()
    gc.set_threshold(50_000)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def try_all(seeds: Iterable[int]) -> Summary:
    """Run them in this process."""
    summary = Summary()
    for seed in seeds:
        summary.count(run(draw(seed)))
    return summary


def spread(seeds: range, jobs: int) -> Iterator[Summary]:
    """Run them in several processes; a summary for each chunk."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs, initializer=hurry) as pool:
        yield from pool.imap_unordered(try_all, chunks)


def command(seed: int, steps: tuple[int, ...]) -> str:
    """What shows it again."""
    return f"make simulate SEED={seed} STEPS={','.join(map(str, steps)) or '-'}"


def show(seed: int, steps: tuple[int, ...] | None) -> bool:
    """Run one seed and print what happens; whether it is as it should be."""
    scenario = draw(seed)
    result = run(scenario if steps is None else only(scenario, steps))
    print(f"seed {seed}: {', '.join(scenario.cast)}")
    for line in result.trace:
        print(line)
    print(result.verdict or "nothing is wrong", flush=True)
    return not result.verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seed", type=int, help="show one")
    parser.add_argument("--steps", help="of that one only these steps: 0,3; - for none")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        text = arguments.steps
        steps = None if not text else tuple(int(n) for n in text.split(",") if n != "-")
        hurry()
        return 0 if show(arguments.seed, steps) else 1
    total, started = Summary(), time.monotonic()
    for part in spread(range(arguments.start, arguments.start + arguments.seeds), arguments.jobs):
        total.add(part)
        for seed, verdict in part.failures.items():
            print(f"seed {seed}: {verdict}", flush=True)
    hurry()
    for seed in sorted(total.failures)[:SHOWN]:
        steps = shrink(draw(seed))
        print(f"\n{command(seed, steps)}")
        show(seed, steps)
    took = time.monotonic() - started
    print(
        f"{total.seeds} seeds, {len(total.failures)} failures: {total.actions} actions in "
        f"{total.simulated / 3600:.1f} simulated hours, in {took:.0f} s"
    )
    print(", ".join(f"{name} {number}" for name, number in sorted(total.steps.items())))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
