"""`fabricctl graph`: records from the store or the snapshot, states from whoever tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabricd.core.events import Put
from fabricd.daemon import snapshot
from tests.unit.cli.conftest import Ctl, Daemon

EDGE2 = {"endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"}
EDGE3 = {"endpoint": "10.20.8.12", "subnets": ["2.2.2.32/27"], "community": "app1"}


def put(folder: Path, key: str, value: dict[str, Any]) -> None:
    file = folder / f"{key}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def status(node: str, peer: str, **fields: Any) -> dict[str, Any]:
    peer_fields = {"name": peer, "up": True, "state": "up", "reason": "", **fields}
    return {"node": node, "synced": True, "peers": [peer_fields]}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """The store: two edges that share a community."""
    folder = tmp_path / "records"
    folder.mkdir(exist_ok=True)
    put(folder, "nodes/edge2", EDGE2)
    put(folder, "nodes/edge3", EDGE3)
    return folder


def test_dot_is_the_default_and_states_are_those_published(
    ctl: Ctl, config: Path, records: Path
) -> None:
    put(records, "status/edge3", status("edge3", "edge2"))
    found = ctl("graph")
    assert found.exit_code == 0
    assert found.stdout.startswith("digraph fabric {\n")
    assert '"edge2" -> "edge3" [color="#2e8b57"' in found.stdout
    assert ctl("graph", "-o", "dot").stdout == found.stdout


def test_this_nodes_daemon_knows_better_than_its_published_status(
    ctl: Ctl, config: Path, records: Path, daemon: Daemon
) -> None:
    put(records, "status/edge2", status("edge2", "edge3"))
    daemon.answer(
        "GET /status", status("edge2", "edge3", up=False, state="connecting", reason="no")
    )
    assert 'label="app1, down"' in ctl("graph").stdout


def test_mermaid_and_svg(ctl: Ctl, config: Path, records: Path) -> None:
    assert ctl("graph", "-o", "mermaid").stdout.startswith("flowchart LR\n")
    assert ctl("graph", "-o", "svg").stdout.startswith(
        '<?xml version="1.0" encoding="UTF-8"?>\n<svg'
    )
    assert ctl("graph", "-o", "png").exit_code == 2


def test_a_status_that_is_none_is_as_good_as_nothing(ctl: Ctl, config: Path, records: Path) -> None:
    put(records, "status/edge2", {"node": "edge2", "peers": "all"})
    (records / "status/edge3.json").write_text("[" * 100_000)
    assert 'label="app1, unknown"' in ctl("graph").stdout


def test_without_the_store_the_last_good_records_are_drawn(
    ctl: Ctl, config: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    text = config.read_text().replace("[ike]", f'state_dir = "{state}"\n[ike]')
    config.write_text(text.replace('/records"', '/gone"'))
    found = ctl("graph")
    assert found.exit_code == 1
    assert "gone" in found.stderr
    assert "no earlier records are kept here" in found.stderr

    puts = (
        Put(f"nodes/{n}", json.dumps(v).encode()) for n, v in (("edge2", EDGE2), ("edge3", EDGE3))
    )
    snapshot.save(state, puts)
    found = ctl("graph")
    assert found.exit_code == 0
    assert "these are the last good records" in found.stderr
    assert '"edge2" -> "edge3"' in found.stdout
