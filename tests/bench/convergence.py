"""From `etcdctl put` to the CHILD_SA installed on both ends of an idle fabric.

Two edges of the lab's fabric. In each round the same pair of charons brings the same tunnel up
twice: once because fabricd saw a record change, once because the floor (floor.py) saw its key
change. Both times the clock runs from before the write to the later of both charons' events.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab import rundir
from lab.fabric import RECORDS, UNDERLAY, Fabric, Record
from lab.pki import Authority
from lab.process import Process, wait_until
from tests.bench.events import ChildEvents
from tests.bench.row import Row

ROUNDS = 200
FLOOR_KEY = "/floor"
FLOOR = Path(__file__).with_name("floor.py")


def rows(rounds: int | None) -> Iterator[Row]:
    number = rounds or ROUNDS
    with small_fabric("tunnels", {**RECORDS, "edge3": _edge3(joined=False)}) as fabric:
        floors = _start_floor(fabric)
        events = [ChildEvents(fabric.nodes[name].charon.socket_path) for name in ("edge2", "edge3")]
        try:
            pairs = [
                (_fabricd(fabric, events), _floor(fabric, events, floors, n))
                for n in range(number + 1)
            ][1:]
        finally:
            for listener in events:
                listener.close()
    for name, pick in (("p50", statistics.median), ("p99", p99)):
        ours, floor = (pick([pair[n] * 1000 for pair in pairs]) for n in (0, 1))
        yield Row(f"etcdctl put to CHILD_SA on both ends, {name}", ours, floor, 1.2, "ms")


@contextmanager
def small_fabric(name: str, records: Mapping[str, Record] = RECORDS) -> Iterator[Fabric]:
    """The lab's fabric, converged; removed at the end."""
    run = Path(f"/run/lab-bench-{name}")
    with rundir.claim(run):
        rundir.clear(run)
        try:
            fabric = Fabric(f"bench-{name}-", run)
            fabric.start_all(records)
            fabric.wait_converged()
            yield fabric
        finally:
            rundir.remove(run)


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def _edge3(*, joined: bool) -> dict[str, object]:
    record = dict(RECORDS["edge3"])
    if not joined:
        record.pop("community")
    return record


def _fabricd(fabric: Fabric, events: list[ChildEvents]) -> float:
    def put(*, up: bool) -> None:
        fabric.put_record("edge3", _edge3(joined=up))

    return put_round(put, events, ("fabric-edge3", "fabric-edge2"))


def _floor(fabric: Fabric, events: list[ChildEvents], floors: list[Process], earlier: int) -> float:
    def put(*, up: bool) -> None:
        fabric.etcd.put(FLOOR_KEY, "up" if up else "down")

    seconds = put_round(put, events, ("floor", "floor"))
    wait_until(
        lambda: all(p.log.read_text().count("done") == 2 * (earlier + 1) for p in floors),
        "the floor is done",
        watch=floors,
        interval=0.01,
    )
    return seconds


def put_round(put: Callable[..., None], events: list[ChildEvents], conns: tuple[str, str]) -> float:
    """Up and down again; seconds from before the write until both ends were up."""
    start = time.monotonic()
    put(up=True)
    ends = [
        listener.wait(conn, up=True, after=start)
        for listener, conn in zip(events, conns, strict=True)
    ]
    down = time.monotonic()
    put(up=False)
    for listener, conn in zip(events, conns, strict=True):
        listener.wait(conn, up=False, after=down)
    return float(max(ends) - start)


def _start_floor(fabric: Fabric) -> list[Process]:
    # Identities of its own: neither may be answered by the other's connection.
    authority = Authority(fabric.run / "floor-pki", dn="C=CN, O=StrongSwan, CN=Floor CA")
    processes = []
    for me, peer in (("edge2", "edge3"), ("edge3", "edge2")):
        node = fabric.nodes[me]
        credentials = authority.issue(f"floor-{me}")
        spec = {
            "ca": str(authority.cert),
            "cert": str(credentials.cert),
            "key": str(credentials.key),
            "local_id": f"C=CN, O=StrongSwan, CN=floor-{me}",
            "remote_id": f"C=CN, O=StrongSwan, CN=floor-{peer}",
            "remote_addr": UNDERLAY[peer] if me == "edge2" else "%any",
            "local_ts": RECORDS[me]["subnets"][0],
            "remote_ts": RECORDS[peer]["subnets"][0],
            "initiate": me == "edge2",
        }
        process = node.namespace.popen(
            sys.executable,
            FLOOR,
            fabric.etcd.endpoint.removeprefix("http://"),
            FLOOR_KEY,
            str(node.charon.socket_path),
            json.dumps(spec),
            name=f"{me}-floor",
        )
        processes.append(process)
    wait_until(
        lambda: all("ready" in process.log.read_text() for process in processes),
        "the floor watches",
        watch=processes,
    )
    return processes
