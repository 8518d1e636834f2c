"""1,000 records change at once, ten transactions of a hundred: until connections and routes are
those of the new records. Against the floor, which does each hundred as it comes.

When routes come and go is heard from the kernel: who kept asking would take the time that is
measured. The old routes go last, connections are loaded by then.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby

from lab.process import wait_until
from tests.bench import bulk_floor
from tests.bench.node import Node, node, peer, peer_name, records, subnet
from tests.bench.route_events import RouteEvents
from tests.bench.row import Row

PEERS = 1_000
ROUNDS = 6


def rows(rounds: int | None) -> Iterator[Row]:
    number = _even(rounds or ROUNDS)
    what = f"{PEERS:,} records change at once"
    with node("burst") as here:
        here.put(records(PEERS + 1, PEERS))
        daemon = here.start(PEERS)
        log, skip = daemon.process.log, len(daemon.process.log.read_text())
        daemon.steps()
        ours = _ours(here, PEERS, number)
        daemon.steps()
        kinds = [json.loads(line).get("kind") for line in log.read_text()[skip:].splitlines()]
        here.clean()
        (floor,) = _floor(here, (PEERS,), number).values()
        yield Row(what, ours, floor, 1.5, "ms")
        loads = [len(list(run)) for kind, run in groupby(kinds) if kind == "conn.load"]
        note = f"connections loaded by each plan: {', '.join(map(str, loads))}"
        yield Row(f"{what}: plans", len(loads) / number, None, 1, "", note=note)
        again = sum(loads) / number / PEERS
        yield Row(f"{what}: loads a connection", again, None, 1, "")


def by_changes(sizes: Sequence[int], rounds: int) -> dict[int, tuple[float, float]]:
    """By number of records that change at once, among as many as the last of `sizes`: milliseconds
    until all is loaded, and what the floor takes.
    """
    peers = sizes[-1]
    with node("burst") as here:
        here.put(records(peers + 1, peers))
        here.start(peers)
        ours = {size: _ours(here, size, rounds) for size in sizes}
        here.clean()
        floor = _floor(here, sizes, rounds)
    return {size: (ours[size], floor[size]) for size in sizes}


def _ours(here: Node, size: int, rounds: int) -> float:
    """Milliseconds, the median. All records are the first version before and after."""
    daemon = here.daemon
    assert daemon is not None
    times = []
    with closing(RouteEvents(here.namespace)) as events:
        for turn in range(_even(rounds)):
            began = _change(here, size, turn)
            new, old = (_subnets(size, turn + step) for step in (0, 1))
            times.append(events.wait(new, old, began) - began)
            assert (here.routes() & (new | old)) == new
            daemon.settle()
    return statistics.median(times) * 1000


def _floor(here: Node, sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """The same of the floor, by size."""
    bulk_floor.prepare(here)
    process = bulk_floor.spawn(here, watch=True)
    wait_until(lambda: "watches" in process.log.read_text(), "it watches", watch=[process])
    found = {}
    for size in sizes:
        times = []
        for turn in range(_even(rounds)):
            skip = len(bulk_floor.told(process))
            began = _change(here, size, turn)
            times.append(bulk_floor.wait_done(process, size, skip) - began)
        found[size] = statistics.median(times) * 1000
    process.stop()
    bulk_floor.remove(here)
    return found


def _even(rounds: int) -> int:
    """There and back again, as often as that."""
    return rounds + rounds % 2


def _change(here: Node, size: int, turn: int) -> float:
    """When the first of them was sent (monotonic s)."""
    changed = {
        f"/fabric/nodes/{peer_name(n)}": peer(n, size, second=turn % 2 == 0) for n in range(size)
    }
    began, _ = here.put(changed)
    return began


def _subnets(size: int, turn: int) -> set[str]:
    """What the records have after this turn."""
    return {subnet(n, second=turn % 2 == 0) for n in range(size)}
