"""A node with many peers starts from nothing: until all connections are loaded and routes there.

Against the floor (`bulk`), and against what people do: write a file a connection, and run
`swanctl --load-all` at each change.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.bench import bulk_floor
from tests.bench.node import ADDRESS, NAME, Node, node, peer_name, records, subnet
from tests.bench.row import Row

RECORDS = 10_000
PEERS = 1_000
ROUNDS = 3
SAMPLES = (200, 400, 600, 800, 1_000)
"""How many connections there are when one changes."""

CONN = """\
connections {{
  {peer} {{
    version = 2
    proposals = aes128gcm16-prfsha256-ecp256
    local_addrs = {address}
    remote_addrs = %any
    local {{
      auth = pubkey
      certs = node.crt
      id = "C=CN, O=StrongSwan, CN={name}"
    }}
    remote {{
      auth = pubkey
      id = "C=CN, O=StrongSwan, CN={peer}"
    }}
    children {{
      net {{
        local_ts = 2.0.0.0/24
        remote_ts = {subnet}
        esp_proposals = aes128gcm16-ecp256
      }}
    }}
  }}
}}
"""


def rows(rounds: int | None) -> Iterator[Row]:
    with node("cold") as here:
        here.put(records(RECORDS, PEERS))
        pairs = [(_fabricd(here), _floor(here)) for _ in range(rounds or ROUNDS)]
        ours, floor = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
        what = f"{RECORDS:,} records, {PEERS:,} peers, from start to all loaded"
        yield Row(what, ours, floor, 1.5, "ms")
        each = _swanctl(here) * 1000
        note = (
            f"one swanctl --load-all takes {each:.0f} ms, the mean of {len(SAMPLES)} at "
            f"{SAMPLES[0]} to {SAMPLES[-1]:,} connections; times {PEERS:,}"
        )
        yield Row(f"{what}, to swanctl", ours, each * PEERS, 0.1, "ms", note=note)


def _fabricd(here: Node) -> float:
    began = time.monotonic()
    daemon = here.spawn()
    here.wait_loaded(PEERS)
    took = time.monotonic() - began
    daemon.settle()
    daemon.steps()
    here.clean()
    return took


def _floor(here: Node) -> float:
    bulk_floor.prepare(here)
    began = time.monotonic()
    process = bulk_floor.spawn(here, watch=False)
    took = bulk_floor.wait_done(process, PEERS) - began
    process.stop()
    bulk_floor.remove(here)
    here.charon.restart()
    return took


def _swanctl(here: Node) -> float:
    """Seconds for a change, on average over a number of connections that grows."""
    folder = here.run / "swanctl"
    for name, source in (("x509", "node.crt"), ("x509ca", "ca.crt"), ("private", "node.key")):
        (folder / name).mkdir(parents=True)
        (folder / name / source).write_bytes((here.pki / source).read_bytes())
    (folder / "conf.d").mkdir()
    (folder / "swanctl.conf").write_text("include conf.d/*.conf\n", encoding="utf-8")
    times = []
    for number in range(SAMPLES[-1]):
        began = time.monotonic()
        peer = peer_name(number)
        text = CONN.format(peer=peer, name=NAME, address=ADDRESS, subnet=subnet(number))
        (folder / "conf.d" / f"{peer}.conf").write_text(text, encoding="utf-8")
        if number + 1 in SAMPLES:
            here.namespace.run(
                *("swanctl", "--load-all", "--uri", here.charon.socket),
                env={"SWANCTL_DIR": str(folder)},
                timeout=120,
            )
            times.append(time.monotonic() - began)
    return statistics.mean(times)
