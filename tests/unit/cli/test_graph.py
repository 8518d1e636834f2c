"""`fabricctl graph`: records from the store or the snapshot, states from whoever tells them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


# ---------------------------------------------------------------- as any other list


def test_as_a_document_and_as_a_table(ctl: Ctl, config: Path, records: Path) -> None:
    put(records, "status/edge3", status("edge3", "edge2", up=False, state="partial", reason="slow"))
    document = json.loads(ctl("graph", "-o", "json").stdout)
    assert document == {
        "nodes": [
            {"name": n, "role": "edge", "subnets": r["subnets"], "communities": ["app1"]}
            for n, r in (("edge2", EDGE2), ("edge3", EDGE3))
        ],
        "tunnels": [
            {
                "initiator": "edge2",
                "responder": "edge3",
                "communities": ["app1"],
                "state": "partial",
                "reason": "slow",
            }
        ],
    }
    assert yaml.safe_load(ctl("graph", "-o", "yaml").stdout) == document
    tunnels = (
        "INITIATOR  RESPONDER  COMMUNITIES  STATE    REASON\n"
        "edge2      edge3      app1         partial  slow\n"
    )
    assert ctl("graph", "-o", "table").stdout == tunnels
    nodes = (
        "NODE   ROLE  SUBNETS      COMMUNITIES\n"
        "edge2  edge  2.2.2.0/27   app1\n"
        "edge3  edge  2.2.2.32/27  app1\n"
    )
    assert ctl("graph", "-o", "wide").stdout == f"{nodes}\n{tunnels}"


def test_the_form_may_stand_before_the_command(ctl: Ctl, config: Path, records: Path) -> None:
    assert json.loads(ctl("-o", "json", "graph").stdout)["nodes"]
    assert ctl("-o", "json", "graph", "-o", "mermaid").stdout.startswith("flowchart")


# ---------------------------------------------------------------- what others write

HOSTILE = '"]; a -> b; <script>alert(1)</script>\n\x1b[2J\x9b2J\u202e&<!--]]>\\'


@pytest.mark.parametrize("form", ["dot", "mermaid", "svg", "json", "yaml", "table", "wide"])
def test_whatever_others_write_stays_text(
    form: str, ctl: Ctl, config: Path, records: Path, daemon: Daemon
) -> None:
    hostile = {"up": False, "state": HOSTILE, "reason": HOSTILE}
    put(records, "nodes/edge4", {**EDGE2, "subnets": ["2.2.2.64/27"], "identity": f"CN={HOSTILE}"})
    put(records, "communities/app2", {"members": [HOSTILE, "edge2"]})
    put(records, "status/edge3", status("edge3", "edge2", **hostile))
    daemon.answer("GET /status", status("edge2", "edge3", **hostile))
    found = ctl("graph", "-o", form)
    assert found.exit_code == 0
    assert "edge2" in found.stdout
    assert all(line.isprintable() for line in found.output.splitlines())
    if form in {"mermaid", "svg"}:
        assert "<script" not in found.stdout
    if form in {"dot", "mermaid", "svg"}:
        assert re.search(r'(?<!\\)"\]; a -> b', found.stdout) is None
