"""`fabricctl why`: what it takes, what it prints, and that it goes on with what answers.

Asked as a node that is neither of the two, so that no kernel and no charon is looked at; those
are the lab's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import Ctl, Daemon
from tests.unit.cli.test_graph import EDGE2, EDGE3, put, status


@pytest.fixture(autouse=True)
def fabric(config: Path, tmp_path: Path) -> Path:
    """The store: two edges whose tunnel is up; asked on another node."""
    config.write_text(config.read_text().replace('"edge2"', '"edge9"'))
    folder = tmp_path / "records"
    put(folder, "nodes/edge2", EDGE2)
    put(folder, "nodes/edge3", EDGE3)
    put(folder, "status/edge2", status("edge2", "edge3"))
    put(folder, "status/edge3", status("edge3", "edge2"))
    return folder


def test_they_can_talk(ctl: Ctl) -> None:
    found = ctl("why", "2.2.2.2", "2.2.2.34")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[-2:] == [
        "2.2.2.2 and 2.2.2.34 can talk",
        "but: node: run fabricctl why 2.2.2.2 2.2.2.34 on edge2 or edge3",
    ]


def test_they_cannot_and_the_broken_hop_and_the_cure_are_the_last_lines(
    ctl: Ctl, fabric: Path
) -> None:
    put(fabric, "nodes/edge3", {**EDGE3, "community": "app2"})
    found = ctl("why", "2.2.2.2", "2.2.2.34")
    assert found.exit_code == 1
    verdict, cure = found.stdout.splitlines()[-2:]
    assert verdict == (
        "2.2.2.2 and 2.2.2.34 cannot talk: peering: edge2 and edge3 share no community: "
        "edge2 is in app1; edge3 is in app2"
    )
    assert cure.startswith("what to do: put both into one community, app1 say")


def test_a_rejected_record_is_found_by_what_it_would_claim(ctl: Ctl, fabric: Path) -> None:
    put(fabric, "nodes/edge3", {**EDGE3, "subnets": ["2.2.2.33/27", 7]})
    document = json.loads(ctl("why", "2.2.2.2", "2.2.2.34", "-o", "json").stdout)
    assert document["broken"] == "destination"
    assert "would be behind edge3, but its record is rejected" in document["detail"]


def test_wide_json_and_yaml(ctl: Ctl) -> None:
    assert "DO" in ctl("why", "2.2.2.2", "2.2.2.99", "-o", "wide").stdout.splitlines()[0]
    found = ctl("why", "2.2.2.2", "2.2.2.99", "-o", "json")
    document = json.loads(found.stdout)
    assert found.exit_code == 1
    assert (document["can"], document["broken"]) == (False, "destination")
    assert [each["ok"] for each in document["hops"]] == [True, True, False]
    assert yaml.safe_load(ctl("why", "2.2.2.2", "2.2.2.99", "-o", "yaml").stdout) == document


def test_what_nobody_knows_here_is_not_called_well(ctl: Ctl, fabric: Path) -> None:
    put(fabric, "nodes/gw", {"role": "cloud", "subnets": ["10.233.0.0/16"]})
    found = ctl("why", "10.233.0.1", "10.233.0.2")
    assert found.exit_code == 1
    assert "may not be able to talk: peering" in found.stdout


def test_what_others_write_does_not_reach_the_terminal_as_it_is(ctl: Ctl, fabric: Path) -> None:
    put(fabric, "status/edge3", status("edge3", "edge2", up=False, state="\x1b[31m", reason="\x1b"))
    found = ctl("why", "2.2.2.2", "2.2.2.34")
    assert found.exit_code == 1
    assert "tunnel to edge2 \\x1b[31m: \\x1b" in found.stdout.splitlines()[-2]
    assert "\x1b" not in found.stdout


@pytest.mark.parametrize(
    "arguments",
    [("2.2.2.2",), ("2.2.2.2", "pod3"), ("2.2.2.2", "2.2.2.0/27"), ("2.2.2.2", "fd00::1")],
)
def test_wrong_usage(ctl: Ctl, arguments: tuple[str, ...]) -> None:
    found = ctl("why", *arguments)
    assert found.exit_code == 2
    assert "Traceback" not in found.output


def test_a_daemon_that_talks_nonsense_is_as_good_as_none(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /status", {"peers": 7})
    assert ctl("why", "2.2.2.2", "2.2.2.34").exit_code == 0
