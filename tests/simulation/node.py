"""One node of a world: what stays when its daemon dies, and the daemon itself, life after life."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import trio

from fabricd.config import Config, parse
from fabricd.core.state import Child, Conn, IfAddress, Link, Sysctl
from fabricd.daemon.daemon import Daemon
from fabricd.daemon.reconcile import Reconciler
from fabricd.model import Prefix
from tests.simulation.charon import Charon
from tests.simulation.ike import Half, Process
from tests.simulation.kernel import SimulatedKernel
from tests.simulation.machine import Disk, SimulatedMachine
from tests.simulation.mood import Mood
from tests.simulation.network import Network
from tests.simulation.pki import EPOCH, credentials
from tests.simulation.store import LATENCY, Records
from tests.simulation.store import Client as StoreClient
from tests.simulation.vici import Client

TUN: Final = Link("ipsec0", "tun", up=True, mtu=1400)


@lru_cache(maxsize=64)
def config(name: str, *, probe: bool) -> Config:
    health = {"probe": 5.0 if probe else 0.0}
    return parse({"node": {"name": name}, "health": health}, Path("fabricd.toml"))


@dataclass(eq=False)
class Life:
    """One daemon, from its start to its end."""

    daemon: Daemon
    machine: SimulatedMachine
    store: StoreClient
    scope: trio.CancelScope

    @property
    def reconciler(self) -> Reconciler:
        return self.daemon._reconciler

    @property
    def settled(self) -> bool:
        """Whether it has done its first pass."""
        return self.reconciler.picture.passes > 0


def _office(process: Process) -> None:
    """What somebody else has in charon: a connection, an SA, a CA, a key."""
    pair = Child(Prefix("2.2.7.0/27"), Prefix("192.168.7.0/24"))
    conn = Conn("office", "d", frozenset({pair}), remote_addrs=("198.51.100.7",))
    process.keep(conn, credentials("office"))
    process.authorities.add("office-ca")
    process.keys.add("office-key")
    half = Half(
        process, process.next_id(), process.set_ups["office"], True, "198.51.100.7", "the office"
    )
    half.state, half.born = "ESTABLISHED", trio.current_time()
    half.suspected = True  # its peer is not of this world
    half.add(conn.child_name(pair), pair, half.born)
    process.halves[half.id] = half


class Node:
    """Kernel, charon and disk; a daemon on them."""

    def __init__(
        self, name: str, address: str, network: Network, records: Records, seed: str
    ) -> None:
        self.name = name
        self.address = address
        self.records = records
        self.seed = seed
        self.clock_offset = 0.0
        self.mood = Mood(network.nursery, random.Random(f"{seed} {name} mood"))
        self.kernel = SimulatedKernel(self.mood)
        self.charon = Charon(name, address, network, self.mood, setup=_office)
        self.issue = 1
        """The number of its certificate."""
        self.disk = Disk(credentials(name))
        self.store_cut = False
        self.store_latency = LATENCY
        self.life: Life | None = None
        self.lives = 0
        self.looked_in = 0
        self.down_for = 0.0
        """Seconds until the next daemon starts."""
        self.kill_after = -1
        """Actions until the daemon is killed; negative: it is not to be."""
        self.hands: Callable[[], None] = lambda: None
        """Called when somebody else has changed something."""
        network.charons[name] = self.charon
        network.hosts[address] = name
        self._furnish()

    def _furnish(self) -> None:
        """What a machine has before anybody brings fabricd."""
        held = self.kernel.held
        for link in (Link("lo", "", up=True), Link("eth0", "", up=True, mtu=1500)):
            held.links[link.name] = link
        held.addresses["lo", "127.0.0.1/8"] = IfAddress("lo", "127.0.0.1/8")
        text = f"{self.address}/24"
        held.addresses["eth0", text] = IfAddress("eth0", text)
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            held.sysctls[name] = Sysctl(name, "0")

    def now(self) -> float:
        """What its clock says, Unix seconds."""
        return EPOCH.timestamp() + trio.current_time() + self.clock_offset

    async def run(self) -> None:
        """Daemon after daemon; a bug in one ends the world."""
        while True:
            self.lives += 1
            rng = random.Random(f"{self.seed} {self.name} {self.lives}")
            machine = SimulatedMachine(self.disk, self.now)
            store = self.records.client(self.name)
            store.cut, store.latency = self.store_cut, self.store_latency
            daemon = Daemon(
                config(self.name, probe=False),
                store,
                self.kernel,
                Client(self.charon, rng),
                rng,
                self.now,
                machine,
            )
            with trio.CancelScope() as scope:
                self.life = Life(daemon, machine, store, scope)
                await daemon.run()
            self.life = None
            await trio.sleep(self.down_for)
            self.down_for = 0.0

    def start_charon(self) -> None:
        """With `kernel-libipsec` its tun device comes with it."""
        if self.charon.process is not None:
            return
        if self.charon.userspace_esp:
            self.kernel.held.set_link(TUN)
            self._tun_changed()
        self.charon.start()
        self.hands()

    def stop_charon(self, *, told: bool) -> None:
        """`told`: the peers are told."""
        if self.charon.process is None:
            return
        if told:
            self.charon.stop()
        else:
            self.charon.kill()
        if self.charon.userspace_esp and TUN.name in self.kernel.held.links:
            self.kernel.held.remove_link(TUN.name)
            self._tun_changed()
        self.hands()

    def _tun_changed(self) -> None:
        self.kernel.hands += 1
        self.kernel.tell([f"link {TUN.name}"])

    def kill(self, down_for: float) -> None:
        """SIGKILL, and systemd starts it again."""
        self.kill_after = -1
        self.down_for = down_for
        if self.life is not None:
            self.life.scope.cancel()

    def looked(self) -> None:
        """Its daemon looks at the kernel, in the pass that comes next."""
        if self.life is not None:
            self.looked_in = self.life.reconciler.picture.passes

    @property
    def obeyed(self) -> bool:
        """Whether its daemon has put right what is in the kernel, as far as it knew."""
        return (
            self.life is not None
            and self.kernel.hands == self.kernel.hands_seen
            and self.looked_in < self.life.reconciler.picture.passes
        )

    def acted(self) -> None:
        """Its daemon has done something."""
        if self.kill_after >= 0:
            self.kill_after -= 1
            if self.kill_after < 0:
                self.kill(self.down_for)

    def status(self) -> dict[str, Any] | None:
        """What the daemon says of itself; None: there is none."""
        if self.life is None:
            return None
        return self.life.daemon.report.glance()
