"""A look at everything when nothing has changed: 5,000 connections, 5,000 routes.

SIGHUP asks for the same pass as the clock does. The floor reads the same dumps, and throws them
away. Beside that: the longest step of the event loop, in which nothing else can run.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from socket import AF_INET, AF_INET6

from fabricd.kernel import codec, links, routes
from fabricd.kernel.netlink import Request
from tests.bench.bare import Rtnl, Vici, listing, request
from tests.bench.node import Node, node, records
from tests.bench.row import Row
from tests.bench.watch import Daemon

PEERS = 5_000
ROUNDS = 15
LONGEST_STEP = 20
"""Milliseconds."""

VICI = [
    request("get-authorities"),
    request("get-keys"),
    *listing("list-certs", "list-cert", {"type": "ANY"}),
    *listing("list-conns", "list-conn"),
    *listing("list-sas", "list-sa"),
    request("stats"),
]
"""As fabricd asks (ike/observer.py)."""

RTNETLINK: list[Request] = [
    links.dump(),
    *(
        question(family)
        for question in (
            *(codec.dump_addresses, routes.dump, routes.dump_learned, codec.dump_rules),
        )
        for family in (AF_INET, AF_INET6)
    ),
]
"""As it asks the kernel (kernel/observer.py)."""


Steps = list[tuple[float, str]]
"""The longest first: seconds, and whose."""


def rows(rounds: int | None) -> Iterator[Row]:
    number = rounds or ROUNDS
    with node("sweep") as here:
        here.put(records(PEERS + 1, PEERS))
        daemon = here.start(PEERS)
        ours, steps = sweep(daemon, number)
        daemon.steps()
        floor = bare(here, number)
        what = f"{PEERS:,} connections and routes"
        yield Row(f"no-op sweep, {what}", ours, floor, 1.3, "ms")
        yield _longest(f"longest step of the loop, sweeps over {what}", steps)
        yield _longest("the same while /metrics and the status are asked for", _asked(daemon))


def sweep(daemon: Daemon, rounds: int) -> tuple[float, Steps]:
    """Milliseconds that a sweep takes, where there is nothing to do; and the longest steps of the
    loop meanwhile.
    """
    before = daemon.metrics()
    daemon.settle()
    daemon.steps()
    for _ in range(rounds):
        daemon.process.signal(signal.SIGHUP)
        daemon.settle()
    steps = daemon.steps()
    return _mean(before, daemon.metrics()), steps


def bare(here: Node, rounds: int) -> float:
    """Milliseconds that its floor takes."""
    return statistics.median(_bare(here) for _ in range(rounds)) * 1000


def _mean(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Milliseconds that a pass took."""
    name = "fabricd_reconcile_duration_seconds"
    seconds, passes = (
        after[f"{name}_{part}"] - before[f"{name}_{part}"] for part in ("sum", "count")
    )
    return seconds / passes * 1000


def _bare(here: Node) -> float:
    vici = Vici(here.charon.socket_path)
    with here.namespace.around_thread():
        rtnl = Rtnl()
    began = time.perf_counter()
    for question in RTNETLINK:
        rtnl.dump(question.kind, question.body)
    vici.exchange(VICI)
    took = time.perf_counter() - began
    rtnl.close()
    vici.close()
    return took


def _asked(daemon: Daemon) -> Steps:
    for _ in range(3):
        daemon.metrics()
        daemon.get("/")
    return daemon.steps()


def _longest(name: str, steps: Steps) -> Row:
    note = "; ".join(f"{took * 1000:.0f} ms {task}" for took, task in steps)
    return Row(name, steps[0][0] * 1000, None, LONGEST_STEP, "ms", note=note)
