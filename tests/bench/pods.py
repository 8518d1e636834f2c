"""A pod attached: by the daemon, and by `fabric-cni`, against CNI's stock `bridge` plugin.

All in one node's namespace, each on its own bridge, in turns: for each round a fresh network
namespace a way. The stock plugin has host-local for its addresses, as ours has the same files.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fabricd.cli.control import ask
from fabricd.cni import plugin
from lab.fabric import Fabric
from lab.netns import Namespace
from tests.bench.convergence import small_fabric
from tests.bench.row import Row

ROUNDS: Final = 20
STOCK: Final = Path("/usr/lib/cni")
OURS: Final = ("/usr/bin/python3", "-IS", plugin.__file__)
"""As it is installed (contrib/install.sh)."""


def rows(rounds: int | None) -> Iterator[Row]:
    """Two rows; the first round of each way is not counted."""
    with small_fabric("pods") as fabric:
        yield from _measure(fabric, rounds or ROUNDS)


def _measure(fabric: Fabric, rounds: int) -> Iterator[Row]:
    node = fabric.namespaces["edge2"]
    socket = fabric.run / "edge2.sock"
    ways: dict[str, Callable[[str], None]] = {
        "attach": lambda name: _attach(socket, name),
        "ours": lambda name: _cni(node, OURS, _our_config(socket), name),
        "stock": lambda name: _cni(node, (STOCK / "bridge",), _stock_config(fabric.run), name),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for n in range(rounds + 1):
        for way, add in ways.items():
            name = f"{fabric.prefix}{way}-{n}"
            subprocess.run(["ip", "netns", "add", name], check=True)
            try:
                started = time.perf_counter()
                add(name)
                times[way].append((time.perf_counter() - started) * 1000)
            finally:
                subprocess.run(["ip", "netns", "delete", name], check=True)
    ours = {way: statistics.median(values[1:]) for way, values in times.items()}
    attach, stock = "pod attach, to stock bridge ADD", ours["stock"]
    yield Row(attach, ours["attach"], stock, 1.0, "ms")
    yield Row("fabric-cni ADD to stock bridge ADD", ours["ours"], stock, 1.5, "ms")


def _attach(socket: Path, name: str) -> None:
    ask(socket, "POST", "/pods/attach", {"name": name, "netns": f"/run/netns/{name}"})


def _cni(node: Namespace, program: Sequence[str | Path], config: dict[str, Any], name: str) -> None:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(STOCK),
    }
    done = subprocess.run(
        ["ip", "netns", "exec", node.name, *program],
        input=json.dumps(config).encode(),
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


def _our_config(socket: Path) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "fabric", "type": "fabric-cni", "socket": str(socket)}


def _stock_config(run: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "stock",
        "type": "bridge",
        "bridge": "br-stock",
        "isDefaultGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(run / "stock.leases"),
            "ranges": [[{"subnet": "198.51.100.0/24"}]],
        },
    }
