"""Runs the floor for many records (`bulk`) on a node, as fabricd would run there."""

from __future__ import annotations

import json
import sys

from lab.charon import kernel_esp
from lab.process import Process, wait_until
from tests.bench.node import ENVIRONMENT, NAME, SOURCE, TOKEN, Node

Done = tuple[int, float]
"""How many records, and when (monotonic s)."""


def spawn(node: Node, *, watch: bool) -> Process:
    """Start it; returns at once."""
    spec = {
        "name": NAME,
        "token": TOKEN,
        "source": SOURCE,
        "subnet": "2.0.0.0/24",
        "etcd": node.etcd.endpoint,
        "vici": str(node.charon.socket_path),
        "ca": str(node.pki / "ca.crt"),
        "cert": str(node.pki / "node.crt"),
        "key": str(node.pki / "node.key"),
        "link": "fabric0" if kernel_esp() else "ipsec0",
        "watch": watch,
    }
    (node.run / "floor.log").unlink(missing_ok=True)
    return node.namespace.popen(
        *(sys.executable, "-m", "tests.bench.bulk", json.dumps(spec)), name="floor", env=ENVIRONMENT
    )


def told(process: Process) -> list[Done]:
    """What it has said so far."""
    lines = (line.split() for line in process.log.read_text().splitlines())
    return [(int(line[1]), float(line[2])) for line in lines if line[0] == "done"]


def wait_done(process: Process, count: int, skip: int = 0) -> float:
    """When it was done with `count` records, after it had said so `skip` times."""

    def at() -> float:
        total = 0
        for number, when in told(process)[skip:]:
            total += number
            if total >= count:
                return when
        return 0.0

    watch = [] if process.popen.poll() == 0 else [process]
    return wait_until(at, f"the floor has done {count}", 120, watch=watch, interval=0.02)


def prepare(node: Node) -> None:
    """What the floor finds when it starts, and fabricd makes by itself: the bridge with the
    node's address, and the link that routes lead to.
    """
    node.namespace.add_bridge("br-floor", f"{SOURCE}/24")
    if kernel_esp():
        node.namespace.add_bridge("fabric0")


def remove(node: Node) -> None:
    """What the floor has left in the kernel."""
    node.namespace.ip("route", "flush", "table", "198")
    node.namespace.ip("link", "delete", "br-floor")
    if kernel_esp():
        node.namespace.ip("link", "delete", "fabric0")
