"""How costs grow: with the records, with a node's peers, with the changes that come at once.

The same measurements as the rows', at several sizes each; drawn by `chart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tests.bench import burst, memory, passes, sweep
from tests.bench.chart import Chart, Series
from tests.bench.node import node, records

RECORDS: Final = (100, 1_000, 3_000, 10_000)
PEERS: Final = (10, 100, 300, 1_000, 3_000)
CHANGES: Final = (1, 10, 100, 1_000)
MEMORY: Final = (10, 100, 1_000, 3_000, 10_000)

ROUNDS: Final = 20
"""Of each change; of what takes longer there are fewer."""
FEWER: Final = 6


def charts(rounds: int | None, most: int) -> Iterator[tuple[str, Chart]]:
    """Names and charts, one after the other; no size beyond `most` is measured."""
    for name, (sizes, measure) in CHARTS.items():
        yield name, measure([size for size in sizes if size <= most], rounds)


def by_records(sizes: Sequence[int], rounds: int | None) -> Chart:
    costs = passes.by_records(sizes, rounds or ROUNDS)
    return Chart(
        f"One record changes, on a node with {passes.PEERS} peers",
        "records in the store",
        "milliseconds of processor time",
        (
            series("a peer's record", {size: ours for size, (ours, _) in costs.items()}),
            series("a stranger's record", {size: other for size, (_, other) in costs.items()}),
        ),
    )


def by_peers(sizes: Sequence[int], rounds: int | None) -> Chart:
    changes, sweeps, floors = {}, {}, {}
    with node("peers") as here:
        for size in sizes:
            here.put(records(size + 1, size))
            daemon = here.start(size)
            changes[size] = passes.cost(here, rounds or ROUNDS, 3, size)
            sweeps[size], _ = sweep.sweep(daemon, rounds or FEWER)
            floors[size] = sweep.bare(here, sweep.ROUNDS)
            here.stop()
    return Chart(
        "What a node's peers cost it",
        "peers, none of them with a tunnel that is up",
        "milliseconds",
        (
            series("one peer's record changes: processor time", changes),
            series("a sweep that finds nothing to do, every 15 s", sweeps),
            series("floor: the same dumps, read and thrown away", floors, floor=True),
        ),
    )


def by_changes(sizes: Sequence[int], rounds: int | None) -> Chart:
    times = burst.by_changes(sizes, rounds or FEWER)
    return Chart(
        f"Records change at once, on a node with {sizes[-1]:,} peers",
        "peers' records that change, up to 100 in a transaction",
        "milliseconds",
        (
            series(
                "from the first put until all connections and routes are there",
                {size: ours for size, (ours, _) in times.items()},
            ),
            series(
                "floor: the same connections and routes, each as it comes",
                {size: floor for size, (_, floor) in times.items()},
                floor=True,
            ),
        ),
    )


def by_memory(sizes: Sequence[int], _rounds: int | None) -> Chart:
    found = {size: kilobytes / 1000 for size, kilobytes in memory.by_records(sizes).items()}
    return Chart(
        f"Memory of the daemon, on a node with {memory.PEERS} peers",
        "records in the store",
        "MB of resident memory",
        (series("fabricd", found),),
    )


CHARTS: Final[Mapping[str, tuple[Sequence[int], Callable[[Sequence[int], int | None], Chart]]]] = {
    "records": (RECORDS, by_records),
    "peers": (PEERS, by_peers),
    "changes": (CHANGES, by_changes),
    "memory": (MEMORY, by_memory),
}


def series(name: str, values: Mapping[int, float], *, floor: bool = False) -> Series:
    """To three digits: more of them are noise."""
    points = tuple((float(size), float(f"{value:.3g}")) for size, value in values.items())
    return Series(name, points, floor)
