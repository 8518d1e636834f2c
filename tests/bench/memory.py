"""The daemon's resident memory with ever more records, of which few are of its peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.bench.node import node, records
from tests.bench.row import Row

SIZES = (10, 1_000, 10_000)
PEERS = 5
MOST = 70
"""MB with the fewest."""
A_RECORD = 4
"""kB."""


def rows(rounds: int | None) -> Iterator[Row]:
    found = by_records(SIZES)
    few = SIZES[0]
    yield Row(f"resident memory, {few} records", found[few] / 1000, None, MOST, "MB")
    for size in SIZES[1:]:
        each = (found[size] - found[few]) / (size - few)
        note = f"{found[size] / 1000:.1f} MB in all"
        yield Row(
            f"resident memory, {size:,} records: each more", each, None, A_RECORD, "kB", note=note
        )


def by_records(sizes: Sequence[int]) -> dict[int, int]:
    """Resident memory in kB by number of records."""
    found = {}
    with node("memory") as here:
        for size in sizes:
            here.put(records(size, PEERS))
            here.start(PEERS, watched=False)
            here.stop()  # the second start has a snapshot to read, as all but the first do
            found[size] = here.start(PEERS, watched=False).rss()
            here.stop()
    return found
