"""`fabricctl purge` on a node that is part of a fabric: all that is fabricd's goes, nothing else.

What was there before the daemon came is made first and compared with what is there afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.charon import Charon
from lab.pki import Authority, Credentials
from lab.process import Process, wait_until
from tests.lab.conftest import CharonPair

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

FABRICD = "from fabricd.daemon.main import main; main()"
FABRICCTL = "from fabricd.cli.main import main; main()"

RECORDS = {
    "left": {"endpoint": "192.0.2.1", "subnets": ["2.2.2.0/27"], "community": "app1"},
    "right": {"endpoint": "192.0.2.2", "subnets": ["2.2.2.32/27"], "community": "app1"},
}

OTHERS_CONN = """
connections {
  net-other {
    remote_addrs = 192.0.2.9
    local { auth = pubkey; id = other }
    remote { auth = pubkey; id = %any }
    children { net { remote_ts = 198.51.100.0/24 } }
  }
}
authorities {
  net-ca { cacert = CACERT }
}
"""


@dataclass(frozen=True)
class FabricNode:
    charon: Charon
    config: Path
    fabricd: Process

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-c", FABRICCTL, *arguments, "--config", str(self.config))
        return subprocess.run(
            self.charon.namespace.inside(*argv),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def document(self, *arguments: str) -> dict[str, Any]:
        done = self.ctl(*arguments, "-o", "json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def objects(charon: Charon) -> dict[str, Any]:
    """All that is in a node's kernel and charon, apart from SAs and IPv6."""
    ip = charon.namespace.ip
    return {
        "links": {link["ifname"] for link in json.loads(ip("-j", "link"))},
        "addresses": {
            (link["ifname"], address["local"])
            for link in json.loads(ip("-4", "-j", "address"))
            for address in link["addr_info"]
        },
        "routes": set(ip("-4", "route", "show", "table", "all").splitlines()),
        "rules": ip("rule"),
        "conns": charon.swanctl("--list-conns"),
        "authorities": charon.swanctl("--list-authorities"),
    }


@dataclass(frozen=True)
class Scene:
    left: FabricNode
    before: dict[str, Any]
    """What was on the left node before fabricd came."""


@pytest.fixture
def scene(charon_pair: CharonPair, run_dir: Path) -> Scene:
    """Two nodes that have their tunnel up."""
    pair = charon_pair
    for name, record in RECORDS.items():
        file = run_dir / f"records/nodes/{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    make_others_objects(pair.left, pair.authority.cert, run_dir)
    before = objects(pair.left)
    left = start(run_dir, "left", pair.left, pair.authority, pair.left_credentials)
    right = start(run_dir, "right", pair.right, pair.authority, pair.right_credentials)
    watch = [left.fabricd, right.fabricd]
    wait_until(lambda: left.ctl("status").returncode == 0, "fabricd answers", watch=watch)
    wait_until(lambda: left.document("status")["peers"], "it knows its peer", watch=watch)
    wait_until(lambda: left.document("status")["peers"][0]["up"], "tunnel up", watch=watch)
    return Scene(left, before)


def make_others_objects(charon: Charon, cacert: Path, run_dir: Path) -> None:
    """What looks much like fabricd's, but is not."""
    ip = charon.namespace.ip
    charon.namespace.add_bridge("br-other", "203.0.113.1/24")
    ip("link", "set", "br-other", "alias", "fabricd-not")
    ip("route", "add", "198.51.100.0/24", "dev", "br-other", "table", "198")
    ip("route", "add", "blackhole", "2.0.0.0/8")
    ip("rule", "add", "priority", "197", "lookup", "198")
    conf = run_dir / "other.conf"
    conf.write_text(OTHERS_CONN.replace("CACERT", str(cacert)))
    charon.swanctl("--load-conns", "--file", str(conf))
    charon.swanctl("--load-authorities", "--file", str(conf))


def start(
    run_dir: Path, name: str, charon: Charon, authority: Authority, credentials: Credentials
) -> FabricNode:
    config = run_dir / f"{name}.toml"
    config.write_text(
        f"""\
[node]
name = "{name}"
[store]
type = "dir"
path = "{run_dir}/records"
state_dir = "{run_dir}/{name}.state"
[ike]
socket = "{charon.socket}"
ca = ["{authority.cert}"]
cert = "{credentials.cert}"
key = "{credentials.key}"
[control]
socket = "{run_dir}/{name}.sock"
"""
    )
    argv = (sys.executable, "-c", FABRICD, "--config", config)
    fabricd = charon.namespace.popen(*argv, name=f"{name}-fabricd")
    return FabricNode(charon, config, fabricd)


def test_purge_removes_all_that_is_fabricd_s_and_nothing_else(scene: Scene) -> None:
    left, before = scene.left, scene.before

    refused = left.ctl("purge")
    assert refused.returncode == 1
    assert "systemctl stop fabricd" in refused.stderr
    left.fabricd.stop()
    full = objects(left.charon)
    assert "fabric-right" in left.charon.swanctl("--list-sas")

    dry = left.ctl("purge", "--dry-run", "-o", "json")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert {action["kind"] for action in json.loads(dry.stdout)["actions"]} == {
        "conn.unload",
        "ike.terminate",
        "key.unload",
        "authority.unload",
        "rule.remove",
        "route.remove",
        "address.remove",
        "filter.remove",
        "link.remove",
    }
    assert objects(left.charon) == full

    purged = left.ctl("purge", "-o", "json")
    assert (purged.returncode, purged.stderr) == (0, "")
    assert purged.stdout == dry.stdout
    assert left.charon.swanctl("--list-sas") == ""
    # charon takes its own routes, in table 220, away a moment after its SAs.
    wait_until(lambda: objects(left.charon) == before, "all is as it was")

    again = left.ctl("purge")
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to do\n", "")
