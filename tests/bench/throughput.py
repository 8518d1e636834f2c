"""TCP between two pods through one tunnel: fabricd's, one written by hand with the same cipher, and
one as the first proof of concept had it (ipsec.conf's defaults).

Three pairs of edges, alike but for who set the tunnel up, measured in turns.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import rundir
from lab.charon import kernel_esp
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import PODS, RECORDS, UNDERLAY, Layout
from tests.bench.node import ENVIRONMENT
from tests.bench.row import Row

ROUNDS = 7
SECONDS = 4

LAYOUT = Layout(
    underlay={name: UNDERLAY[name] for name in ("node1", "edge2", "edge3")},
    records={name: RECORDS[name] for name in ("edge2", "edge3")},
    blocks={},
    pods=PODS[2:],
    store="node1",
)

CONF = """\
connections {{
  net {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    local {{
      auth = pubkey
      certs = node.crt
      id = "C=CN, O=StrongSwan, CN={me}"
    }}
    remote {{
      auth = pubkey
      id = "C=CN, O=StrongSwan, CN={peer}"
    }}
    children {{
      net {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {cipher}
      }}
    }}
  }}
}}
"""

SAME = "aes128gcm16-ecp256"
SEED = "aes128-sha256"
"""What ipsec.conf(5) names as the default of `esp`."""


def rows(rounds: int | None) -> Iterator[Row]:
    with _pairs() as pairs:
        rates: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range((rounds or ROUNDS) + 1):
            for name, fabric in pairs.items():
                rates[name].append(_rate(fabric))
    ours, same, seed = (statistics.median(rates[name][1:]) for name in ("ours", "same", "seed"))
    what = "TCP between pods"
    yield Row(f"{what}, to a tunnel by hand, {SAME}", ours, same, 0.97, "Mbit/s", least=True)
    yield Row(f"{what}, to the first design's, {SEED}", ours, seed, 1, "Mbit/s", least=True)


@contextmanager
def _pairs() -> Iterator[dict[str, Fabric]]:
    run = Path("/run/lab-bench-tcp")
    with rundir.claim(run):
        rundir.clear(run)
        try:
            pairs = {}
            for name in ("ours", "same", "seed"):
                (run / name).mkdir()
                pairs[name] = Fabric(f"bench-{name}-", run / name, LAYOUT)
            pairs["ours"].start_all()
            for name, cipher in (("same", SAME), ("seed", SEED)):
                _by_hand(pairs[name], cipher)
            for fabric in pairs.values():
                fabric.wait_ping("pod-edge2", "pod-edge3", 60)
            yield pairs
        finally:
            rundir.remove(run)


def _by_hand(fabric: Fabric, cipher: str) -> None:
    """What an administrator does on the two edges."""
    fabric.build()
    for node in fabric.nodes.values():
        node.charon.start()
        subnet = str(RECORDS[node.name]["subnets"][0])
        head, _, last = subnet.partition("/")[0].rpartition(".")
        node.namespace.add_bridge("br-edge", f"{head}.{int(last) + 1}/27")
        node.namespace.forward()
    for me, peer in (("edge3", "edge2"), ("edge2", "edge3")):
        node = fabric.nodes[me]
        folder = fabric.run / f"{me}.swanctl"
        for place, source in (("x509", "node.crt"), ("x509ca", "ca.crt"), ("private", "node.key")):
            (folder / place).mkdir(parents=True)
            (folder / place / source).write_bytes((node.pki / source).read_bytes())
        remote_ts = str(RECORDS[peer]["subnets"][0])
        text = CONF.format(
            local=UNDERLAY[me],
            remote=UNDERLAY[peer],
            me=me,
            peer=peer,
            local_ts=RECORDS[me]["subnets"][0],
            remote_ts=remote_ts,
            cipher=cipher,
        )
        (folder / "swanctl.conf").write_text(text, encoding="utf-8")
        uri = ("--uri", node.charon.socket)
        node.namespace.run("swanctl", "--load-all", *uri, env={"SWANCTL_DIR": str(folder)})
        if not kernel_esp():  # charon has a device of its own then
            node.namespace.ip("route", "add", remote_ts, "dev", "ipsec0")
    fabric.nodes["edge2"].charon.swanctl("--initiate", "--child", "net")
    for pod in LAYOUT.pods:
        fabric.attach(pod)


def _rate(fabric: Fabric) -> float:
    """Mbit/s from edge2's pod to edge3's."""
    program = (sys.executable, "-m", "tests.bench.stream")
    source, target = (fabric.namespaces[pod.name] for pod in LAYOUT.pods)
    (fabric.run / "receive.log").unlink(missing_ok=True)
    receiver = target.popen(*program, "receive", name="receive", env=ENVIRONMENT)
    wait_until(lambda: "listens" in receiver.log.read_text(), "it listens", watch=[receiver])
    address = LAYOUT.pods[1].ip
    source.run(*program, "send", address, str(SECONDS), env=ENVIRONMENT, timeout=60)
    receiver.wait(30)
    return float(receiver.log.read_text().partition("rate ")[2])
