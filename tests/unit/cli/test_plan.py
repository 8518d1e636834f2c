"""`fabricctl plan`, live and from files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ctl, Daemon

ROUTE = {
    "kind": "route.remove",
    "target": "2.2.2.32/27 dev fabric0 table 198 metric 100",
    "disruption": "drop",
    "reason": "no record asks for it",
}
LOAD = {
    "kind": "conn.load",
    "target": "fabric-node1",
    "disruption": "none",
    "reason": "the records ask for it, it is missing",
}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three nodes and a community."""
    path = tmp_path / "written"
    for key, record in {
        "nodes/node1": {"role": "cloud", "endpoint": "10.20.8.141", "subnets": ["10.233.0.0/16"]},
        "nodes/edge2": {"endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"},
        "nodes/edge3": {"endpoint": "10.20.8.12", "subnets": ["2.2.2.32/27"]},
        "communities/app1": {"members": ["edge3"]},
    }.items():
        file = path / f"{key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    return path


# ---------------------------------------------------------------- live


def test_nothing_to_do(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /plan", {"actions": []})
    result = ctl("plan")
    assert (result.exit_code, result.output) == (0, "nothing to do\n")


def test_changes_pending(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /plan", {"actions": [LOAD, ROUTE]})
    result = ctl("plan")
    assert result.exit_code == 2
    target = "2.2.2.32/27 dev fabric0 table 198 metric 100"
    assert (
        result.output
        == f"""\
KIND          TARGET                                        DISRUPTION  REASON
conn.load     fabric-node1                                  none        {LOAD["reason"]}
route.remove  {target}  drop        no record asks for it

disruption: 1 none, 1 drop
"""
    )


def test_json_is_the_daemon_s_document(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /plan", {"actions": [LOAD, ROUTE]})
    result = ctl("plan", "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"actions": [LOAD, ROUTE]}


# ---------------------------------------------------------------- from files alone


def test_an_edge_from_files_alone(ctl: Ctl, records: Path) -> None:
    result = ctl("plan", "--records", str(records), "--node", "edge2", "-o", "json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["rejected"] == []
    assert {action["disruption"] for action in document["actions"]} == {"none"}
    # A child's name ends in a digest of its connection.
    assert [
        f"{action['kind']} {action['target']}".rsplit("-", 1)[0]
        if action["kind"] == "child.initiate"
        else f"{action['kind']} {action['target']}"
        for action in document["actions"]
    ] == [
        "sysctl.set net/ipv4/ip_forward=1",
        "link.add br-edge",
        "link.add fabric0",
        "address.add 2.2.2.1/27 dev br-edge",
        "filter.set nftables table fabricd",
        "route.set unreachable 2.2.2.0/27 table 254 metric 10000",
        "route.set throw 2.2.2.0/27 table 198 metric 10000",
        "route.set 10.233.0.0/16 dev fabric0 src 2.2.2.1 table 198 metric 100",
        "route.set 2.2.2.32/27 dev fabric0 src 2.2.2.1 table 198 metric 100",
        "route.set unreachable 10.233.0.0/16 table 198 metric 10000",
        "route.set unreachable 2.0.0.0/8 table 198 metric 10000",
        "rule.add 198: from all lookup 198 (IPv4)",
        "authority.load fabric-ca-of-edge2",
        "key.load private-key-of-edge2",
        "conn.load fabric-edge3",
        "conn.load fabric-node1",
        "child.initiate fabric-edge3 2.2.2.0/27-2.2.2.32/27",
        "child.initiate fabric-node1 2.2.2.0/27-10.233.0.0/16",
    ]


def test_the_node_of_the_config_is_the_default(ctl: Ctl, records: Path) -> None:
    named = ctl("plan", "--records", str(records), "--node", "edge2", "-o", "json")
    own = ctl("plan", "--records", str(records), "-o", "json")
    assert own.exit_code == 2
    assert own.stdout == named.stdout


def test_rejected_records_are_warned_of(ctl: Ctl, records: Path) -> None:
    (records / "nodes/edge4.json").write_text('{"subnets": ["2.2.2.1/27"], "colour": 1}')
    result = ctl("plan", "--records", str(records), "--node", "edge2", "-o", "json")
    assert result.exit_code == 2
    reason = "'2.2.2.1/27': has host bits set; the network is 2.2.2.0/27"
    assert result.stderr == (
        f"fabricctl: warning: rejected: nodes/edge4: subnets: {reason}\n"
        "fabricctl: warning: nodes/edge4: unknown field 'colour' is ignored\n"
    )
    assert json.loads(result.stdout)["rejected"] == [
        {"key": "/fabric/nodes/edge4", "field": "subnets", "reason": reason}
    ]


def test_a_node_without_a_record(ctl: Ctl, records: Path) -> None:
    result = ctl("plan", "--records", str(records), "--node", "edge9")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: nodes/edge9 is not in {records} (nodes there: edge2, edge3, node1): "
        "name one with --node\n"
    )


def test_a_node_whose_record_is_rejected(ctl: Ctl, records: Path) -> None:
    (records / "nodes/edge2.json").write_text("{}")
    result = ctl("plan", "--records", str(records), "--node", "edge2")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        f"fabricctl: nodes/edge2 in {records} is rejected: mend the record"
    )


def test_a_directory_that_is_not_there(ctl: Ctl, tmp_path: Path) -> None:
    result = ctl("plan", "--records", str(tmp_path / "nowhere"), "--node", "edge2")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: store: {tmp_path}/nowhere: cannot be read: No such file or directory\n"
    )
