"""A gateway with 1,000 tunnels: they come up, one more is added, it idles, its daemon is restarted.

Three namespaces on one underlay: the gateway with etcd, charon and fabricd; an edge with charon and
fabricd, whose record comes and goes; and the crowd (`crowd`).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import rundir
from lab.charon import Charon
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS, UNDERLAY, Layout
from tests.bench.bare import Vici
from tests.bench.convergence import p99, put_round
from tests.bench.crowd import GATEWAY, INSIDE, SETTINGS, Crowd
from tests.bench.events import ChildEvents
from tests.bench.node import ENVIRONMENT
from tests.bench.row import Row
from tests.bench.watch import Daemon, cpu

TUNNELS = 1_000
ROUNDS = 100
"""Of the one edge; the crowd comes up in fewer."""
CROWD_ROUNDS = 3
PAUSE = 0.7
"""Seconds between two changes: by then the daemon has done all that the last one entails."""
SETTLED = 20.0
"""Seconds: a sweep, and each tunnel has been probed."""
IDLE = 60.0
"""Seconds: four sweeps."""
EDGE = "edge2"

LAYOUT = Layout(
    underlay={name: UNDERLAY[name] for name in (GATEWAY, EDGE)} | {"crowd": "10.20.8.50"},
    records={GATEWAY: RECORDS[GATEWAY], EDGE: RECORDS[EDGE]},
    blocks={},
    pods=(),
    store=GATEWAY,
)


def rows(rounds: int | None) -> Iterator[Row]:
    number = rounds or ROUNDS
    with _gateway() as fabric:
        events = [ChildEvents(fabric.nodes[name].charon.socket_path) for name in (GATEWAY, EDGE)]
        idle = [_one_edge(fabric, events) for _ in range(number + 1)][1:]
        crowd = Crowd(fabric, TUNNELS)
        crowd.start()
        _put(fabric, crowd)
        yield from _come_up(fabric, crowd, min(max(number // 10, 1), CROWD_ROUNDS))
        _daemon(fabric).steps()
        before = _refused(fabric)
        live = [_one_edge(fabric, events) for _ in range(number + 1)][1:]
        note = f"of {number + 1} first attempts {_refused(fabric) - before} came too early"
        _daemon(fabric).steps()
        for listener in events:
            listener.close()
        what = f"etcdctl put to CHILD_SA, {TUNNELS:,} tunnels live to none"
        for name, pick in (("p50", statistics.median), ("p99", p99)):
            values = pick(live) * 1000, pick(idle) * 1000
            yield Row(f"{what}, {name}", *values, 1.3, "ms", note=note)
        yield from _restart(fabric)
        daemon = _daemon(fabric)
        daemon.steps()
        used = daemon.cpu()
        time.sleep(IDLE)
        share = (daemon.cpu() - used) / IDLE * 100
        yield Row(f"idle with {TUNNELS:,} tunnels, of a core", share, None, 0.3, "%")
        steps = daemon.steps()
        note = "; ".join(f"{took * 1000:.0f} ms {task}" for took, task in steps)
        name = f"longest step of the loop, idle with {TUNNELS:,} tunnels"
        yield Row(name, steps[0][0] * 1000, None, 20, "ms", note=note)


@contextmanager
def _gateway() -> Iterator[Fabric]:
    run = Path("/run/lab-bench-gateway")
    with rundir.claim(run):
        rundir.clear(run)
        try:
            watched = (sys.executable, "-m", "tests.bench.watched", run / "steps")
            fabric = Fabric("bench-gw-", run, LAYOUT, fabricd=watched)
            fabric.build()
            node = fabric.nodes[GATEWAY]
            node.charon = Charon(
                node.namespace, run, name=f"{GATEWAY}-charon", loglevel=0, settings=SETTINGS
            )
            node.namespace.add_bridge("cni0", INSIDE.replace(".0.0/", ".0.1/"))
            fabric.start_services()
            fabric.put_record(GATEWAY, RECORDS[GATEWAY])
            fabric.start_daemons()
            yield fabric
        finally:
            rundir.remove(run)


def _daemon(fabric: Fabric) -> Daemon:
    node = fabric.nodes[GATEWAY]
    assert node.fabricd is not None
    return Daemon(node.fabricd, node.namespace, fabric.run / "steps")


def _put(fabric: Fabric, crowd: Crowd) -> None:
    """All records of the crowd; until the gateway has their connections."""
    fabric.nodes[GATEWAY].namespace.run(
        *(sys.executable, "-m", "tests.bench.put", fabric.etcd.endpoint, "100"),
        stdin=json.dumps(crowd.records()),
        env=ENVIRONMENT,
        timeout=60,
    )
    vici = Vici(fabric.nodes[GATEWAY].charon.socket_path)
    try:
        wait_until(
            lambda: len(vici.conns()) >= TUNNELS,
            "the gateway has all connections",
            60,
            interval=0.2,
        )
    finally:
        vici.close()
    _daemon(fabric).settle()


def _one_edge(fabric: Fabric, events: list[ChildEvents]) -> float:
    def put(*, up: bool) -> None:
        if up:
            fabric.put_record(EDGE, RECORDS[EDGE])
        else:
            time.sleep(PAUSE)
            fabric.delete_record(EDGE)

    took = put_round(put, events, (f"fabric-{EDGE}", f"fabric-{GATEWAY}"))
    time.sleep(PAUSE)
    return took


def _refused(fabric: Fabric) -> int:
    """How often the gateway did not have the edge's connection yet."""
    process = fabric.nodes[EDGE].fabricd
    assert process is not None
    return process.log.read_text().count('"not initiated at once"')


def _come_up(fabric: Fabric, crowd: Crowd, rounds: int) -> Iterator[Row]:
    """In turns: with the daemon, and with charon alone, which keeps the connections."""
    ours, alone = [], []
    for _ in range(rounds):
        fabric.stop_fabricd(GATEWAY)
        alone.append(crowd.come_up())
        crowd.go_down()
        fabric.start_fabricd(GATEWAY)
        _daemon(fabric).settle()
        processes = _daemon(fabric).process, fabric.nodes[GATEWAY].charon.running
        before = [cpu(process) for process in processes]
        ours.append(crowd.come_up())
        used = [cpu(process) - was for process, was in zip(processes, before, strict=True)]
        if len(ours) < rounds:
            crowd.go_down()
    values = statistics.median(ours), statistics.median(alone)
    note = f"the daemon took {used[0]:.1f} s of processor time, its charon {used[1]:.1f} s"
    yield Row(f"{TUNNELS:,} edges come up, to charon alone", *values, 1.1, "s", note=note)
    _wait_up(fabric)


def _wait_up(fabric: Fabric) -> None:
    def all_up() -> bool:
        peers = fabric.ask(GATEWAY, "/status")["peers"]
        return [peer["up"] for peer in peers].count(True) >= TUNNELS

    wait_until(all_up, "the daemon calls all tunnels up", 120, interval=1)


def _restart(fabric: Fabric) -> Iterator[Row]:
    time.sleep(SETTLED)
    fabric.stop_fabricd(GATEWAY)
    began = time.monotonic()
    fabric.spawn_fabricd(GATEWAY)
    daemon = _daemon(fabric)
    wait_until(daemon.ready, "it is ready", 60, watch=[daemon.process], interval=0.1)
    took = time.monotonic() - began
    what = f"restart on {TUNNELS:,} tunnels"
    yield Row(f"{what}, to /readyz", took, None, 2, "s")
    time.sleep(SETTLED)
    _wait_up(fabric)
    yield Row(f"{what}: what it changed", daemon.actions(), None, 0, "")
