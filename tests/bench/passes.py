"""One record changes among many: what that costs the daemon in processor time.

The node has the same peers each time, the store ever more records. Once it is a peer's subnet that
changes, which takes a connection and a route; once it is a record that is nothing to the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.bench.node import Node, node, peer, peer_name, records
from tests.bench.row import Row

SIZES = (100, 1_000, 10_000)
PEERS = 20
ROUNDS = 50


def rows(rounds: int | None) -> Iterator[Row]:
    costs = by_records(SIZES, rounds or ROUNDS)
    few = SIZES[0]
    for size in SIZES[1:]:
        for kind, what in enumerate(("a peer's record", "a stranger's record")):
            name = f"{what} changes: CPU of it, {size:,} records against {few}"
            yield Row(name, costs[size][kind], costs[few][kind], 1.5, "ms")


def by_records(sizes: Sequence[int], rounds: int) -> dict[int, tuple[float, float]]:
    """By number of records: milliseconds of processor time for a change of a peer's record, and of
    a stranger's.
    """
    costs = {}
    with node("passes") as here:
        for size in sizes:
            here.put(records(size, PEERS))
            here.start(PEERS)
            costs[size] = (
                cost(here, rounds, 3, PEERS),
                cost(here, rounds, size - 3, PEERS),
            )
            here.stop()
    return costs


def cost(here: Node, rounds: int, number: int, peers: int) -> float:
    """Milliseconds of processor time for a change of one record, by its number; the node has as
    many `peers`. The daemon is let come to rest after each change.
    """
    daemon = here.daemon
    assert daemon is not None
    key = f"/fabric/nodes/{peer_name(number)}"
    daemon.settle()
    daemon.steps()
    used = daemon.cpu()
    for turn in range(rounds):
        here.etcd.put(key, peer(number, peers, second=turn % 2 == 0))
        daemon.settle()
    used = daemon.cpu() - used
    daemon.steps()
    if number < peers:
        wanted = peer(number, peers, second=rounds % 2 == 1)["subnets"]
        assert set(wanted) <= here.routes(), "the last change is in force"
    return used / rounds * 1000
