"""`fabricctl drain` and `undrain`, on a store that is a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ctl

GATEWAY = {"role": "cloud", "endpoint": "10.20.8.141", "subnets": ["10.233.0.0/16"], "note": "x"}
EDGE = {"subnets": ["2.2.2.0/27"]}


@pytest.fixture
def records(config: Path) -> Path:
    folder = config.parent / "records" / "nodes"
    folder.mkdir(parents=True)
    for name, fields in (("gw1", GATEWAY), ("gw2", GATEWAY), ("edge9", EDGE)):
        (folder / f"{name}.json").write_text(json.dumps(fields))
    return folder


def test_drain_and_undrain(ctl: Ctl, records: Path) -> None:
    assert ctl("drain", "gw1").output == "nodes/gw1: is drained\n"
    assert json.loads((records / "gw1.json").read_text()) == GATEWAY | {"drained": True}
    assert ctl("drain", "gw1").output == "nodes/gw1: already was drained\n"
    assert ctl("undrain", "gw1").output == "nodes/gw1: is in use\n"
    assert json.loads((records / "gw1.json").read_text()) == GATEWAY


def test_the_last_one_is_drained_with_a_warning(ctl: Ctl, records: Path) -> None:
    ctl("drain", "gw1")
    done = ctl("drain", "gw2")
    assert done.exit_code == 0
    assert "no other gateway has its subnets: the edges stay where they are" in done.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [("edge9", "is no gateway (role cloud)"), ("gw9", "there is no such record")],
)
def test_what_can_t_be_drained(ctl: Ctl, records: Path, name: str, reason: str) -> None:
    refused = ctl("drain", name)
    assert refused.exit_code == 1
    assert reason in refused.stderr
