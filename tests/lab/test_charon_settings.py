"""charon's settings as they are shipped: charon takes them, and they are what is asked for; what
`fabricctl status` says where they are not, and where they can't be seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fabricd.core.charon_settings import settings_warnings
from fabricd.probe.charon_files import running, settings
from lab.charon import BINARY, Charon
from lab.debian import CHECKOUT
from lab.fabric import Fabric
from lab.netns import Namespace
from lab.process import wait_until

SHIPPED = CHECKOUT / "contrib/strongswan"


@pytest.fixture
def charon(namespace: Callable[[str], Namespace], run_dir: Path) -> Charon:
    """One with the shipped files, whose group this machine may not have."""
    made = Charon(namespace("node"), run_dir, settings={"group": "root"})
    sections = "\n".join(f"include {SHIPPED / name}" for name in FILES)
    # Its own section comes before that of all charons: nothing but the files shall speak here.
    own = re.sub(r"  (install|retransmit|make)_\w+ = .*\n", "", made.conf.read_text())
    made.conf.write_text(f"{own}\n{sections}\n")
    made.start()
    return made


FILES = ("fabricd.conf", "large-gateway.conf")


def test_charon_takes_the_shipped_files(charon: Charon) -> None:
    assert "worker threads: 32 total" in charon.swanctl("--stats")
    assert not re.search(r"invalid|failed to (load|parse)|syntax|threshold", charon.log.read_text())


def test_with_the_shipped_files_2000_peers_give_no_warning(charon: Charon) -> None:
    found = running(str(charon.socket_path))
    assert found.pid == charon.running.pid
    values = settings([found.pid])
    assert values.file == str(charon.conf)
    assert values.values["cookie_threshold"] == "5000"
    assert settings_warnings(values, found.version, 2000) == []


def test_files_of_a_charon_in_a_container_cannot_be_seen(charon: Charon, run_dir: Path) -> None:
    """In a mount namespace of its own, with another file under the same name."""
    charon.stop()
    other = run_dir / "other.conf"
    other.write_text(charon.conf.read_text())
    script = f"mount --bind {other} {charon.conf}; exec {BINARY}"
    env = {"STRONGSWAN_CONF": str(charon.conf)}
    inside = charon.namespace.popen("unshare", "--mount", "sh", "-ec", script, name="in", env=env)
    try:
        wait_until(charon.answers, "it answers", watch=[inside])
        with pytest.raises(FileNotFoundError, match="runs in a container"):
            settings([running(str(charon.socket_path)).pid])
    finally:
        inside.stop()


def test_status_says_what_is_wrong_with_the_settings_of_this_nodes_charon(fabric: Fabric) -> None:
    assert "warning" not in fabric.fabricctl("edge2", "status")
    conf = fabric.nodes["edge3"].charon.conf
    before = conf.read_text()
    conf.write_text(before.replace("retransmit_", "# "))
    try:
        said = fabric.fabricctl("edge3", "status")
        assert fabric.status("edge3")["warnings"] == [], "JSON is the daemon's document"
    finally:
        conf.write_text(before)
    assert "warning: charon's settings: retransmission: a dead peer is given up after 165 s" in said
    assert "warning" not in fabric.fabricctl("edge3", "status")
