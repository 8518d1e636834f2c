"""One node with all that a daemon needs, in a single namespace: etcd, charon, and many records.

No peer is there in reality: all of them would have to initiate, so none is waited for. What a
daemon then has to do is load connections and set routes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabricd.core.routing import TUNNEL_METRIC
from fabricd.kernel.routes import decode
from lab import rundir
from lab.charon import Charon
from lab.etcd import Etcd
from lab.netns import Namespace
from lab.pki import Authority
from lab.process import Process, wait_until
from lab.topology import CONFIG
from tests.bench.bare import Rtnl, Vici
from tests.bench.watch import Daemon

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "contrib")])}

NAME = "node"
ADDRESS = "10.20.8.4"
SOURCE = "2.0.0.1"
"""The node's own address inside its subnet."""
TOKEN = "app"

STOCK_SETTINGS = {"threads": "16", "dos_protection": "no"}

Records = Mapping[str, Mapping[str, Any]]


def peer_name(number: int) -> str:
    """Before the node's own name, so that the peer initiates."""
    return f"edge{number:05}"


def subnet(number: int, *, second: bool = False) -> str:
    """A peer's /28; each has another one to change to."""
    value = (2 << 24) + ((129 if second else 1) << 16) + (number << 4)
    return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}/28"


def peer(number: int, peers: int, *, second: bool = False) -> dict[str, Any]:
    """One record among many; those below `peers` are the node's own peers."""
    value = (10 << 24) + (64 << 16) + number
    return {
        "role": "edge",
        "endpoint": f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}",
        "subnets": [subnet(number, second=second)],
        "community": TOKEN if number < peers else f"other{number // 10}",
    }


def records(count: int, peers: int) -> dict[str, dict[str, Any]]:
    """`count` records by key, the node's own among them."""
    own = {"role": "edge", "endpoint": ADDRESS, "subnets": ["2.0.0.0/24"], "community": TOKEN}
    others = {f"/fabric/nodes/{peer_name(n)}": peer(n, peers) for n in range(count - 1)}
    return {f"/fabric/nodes/{NAME}": own, **others}


class Node:
    """The namespace and what runs in it."""

    def __init__(self, prefix: str, run: Path) -> None:
        self.run = run
        self.namespace = Namespace.create(f"{prefix}node", run)
        self.namespace.add_bridge("br-wan", f"{ADDRESS}/24")
        self.etcd = Etcd(run, namespace=self.namespace)
        self.charon = Charon(
            self.namespace, run, name="node-charon", loglevel=0, settings=STOCK_SETTINGS
        )
        self.config = run / "node.toml"
        self.pki = run / "node.pki"
        authority = Authority(self.pki)
        authority.issue(NAME, ["2.0.0.0/24"])
        for kind in ("crt", "key"):
            (self.pki / f"node.{kind}").write_bytes((self.pki / f"{NAME}.{kind}").read_bytes())
        self.config.write_text(
            CONFIG.format(
                name=NAME,
                etcd=self.etcd.endpoint,
                run=run,
                vici=self.charon.socket,
                networks='["2.0.0.0/8"]',
            ),
            encoding="utf-8",
        )
        self.daemon: Daemon | None = None
        self._started = 0
        with self.namespace.around_thread():
            self.rtnl = Rtnl()

    # ------------------------------------------------------------ the daemon

    def spawn(self, *, watched: bool = True) -> Daemon:
        """Start fabricd, under watch or as it is; returns at once."""
        self._started += 1
        name, steps = f"fabricd-{self._started}", self.run / "steps"
        program = (sys.executable, "-m", "tests.bench.watched", steps)
        argv = program if watched else (PROGRAMS / "fabricd",)
        process = self.namespace.popen(*argv, "--config", self.config, name=name, env=ENVIRONMENT)
        self.daemon = Daemon(process, self.namespace, steps)
        return self.daemon

    def start(self, peers: int, *, watched: bool = True) -> Daemon:
        """Start fabricd, wait until it has loaded `peers` connections and come to rest."""
        daemon = self.spawn(watched=watched)
        self.wait_loaded(peers)
        daemon.settle()
        return daemon

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.process.stop(30)
            self.daemon = None

    def clean(self) -> None:
        """As if no daemon had ever run here: charon, kernel, files."""
        self.stop()
        self.namespace.run(*(PROGRAMS / "fabricctl", "purge", "--config", self.config), timeout=120)
        self.charon.restart()
        state = self.run / f"{NAME}.state"
        for path in state.glob("*"):
            path.unlink()

    # ------------------------------------------------------------ records

    def put(self, found: Records, size: int = 100) -> tuple[float, float]:
        """Write records by key, `size` in a transaction; when the first was sent, and the last
        answered (monotonic s).
        """
        done = self.namespace.run(
            *(sys.executable, "-m", "tests.bench.put", self.etcd.endpoint, str(size)),
            stdin=json.dumps(found),
            env=ENVIRONMENT,
            timeout=120,
        )
        began, ended = map(float, done.split())
        return began, ended

    def wipe(self) -> None:
        """No records."""
        self.etcd.delete("/fabric/", "--prefix")

    # ------------------------------------------------------------ looking

    def routes(self, *, with_source: bool = False) -> set[str]:
        """The prefixes of fabricd's routes into tunnels; `with_source`: of those that have one."""
        found = (decode(data, {}) for data in self.rtnl.dump_routes())
        return {
            str(route.prefix)
            for route in found
            if route.metric == TUNNEL_METRIC and (route.source or not with_source)
        }

    def wait_loaded(self, peers: int, timeout: float = 120) -> None:
        """Until there are connections and routes to as many peers."""
        watch: list[Process] = [self.daemon.process] if self.daemon is not None else []
        vici = Vici(self.charon.socket_path)
        try:
            wait_until(
                lambda: len(vici.conns()) >= peers and len(self.rtnl.dump_routes()) >= peers,
                f"{peers} connections are loaded",
                timeout,
                watch=watch,
                interval=0.01,
            )
        finally:
            vici.close()


@contextmanager
def node(name: str) -> Iterator[Node]:
    """A node with its etcd and charon up, removed at the end."""
    run = Path(f"/run/lab-bench-{name}")
    with rundir.claim(run):
        rundir.clear(run)
        found: Node | None = None
        try:
            found = Node(f"bench-{name}-", run)
            found.etcd.start()
            found.charon.start()
            yield found
        finally:
            if found is not None:
                found.rtnl.close()
            rundir.remove(run)
