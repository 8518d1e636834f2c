"""`fabricctl doctor` on a machine where next to nothing is there. What is wrong with machines that
have something is for tests/unit/core/test_checkup.py and tests/lab/test_doctor.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.cli.conftest import Ctl


def checks(ctl: Ctl) -> dict[str, Any]:
    result = ctl("doctor", "-o", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["fit"] is False
    return {check["name"]: check for check in document["checks"]}


def test_what_is_missing_is_named_with_what_to_do(ctl: Ctl, tmp_path: Path) -> None:
    found = checks(ctl)
    assert found["config"]["verdict"] == "ok"
    assert found["charon"]["ok"] is False
    assert f"no socket {tmp_path}/charon.vici" in found["charon"]["detail"]
    assert "systemctl start strongswan" in found["charon"]["do"]
    assert found["credentials"]["ok"] is False
    assert found["store"]["detail"] == f"directory {tmp_path}/records: 0 nodes"
    assert found["record"]["do"] == "fabricctl node put edge2 --subnet CIDR"
    assert found["fabricd"]["verdict"] == "warning"


def test_without_a_config_the_rest_is_looked_at(ctl: Ctl, config: Path) -> None:
    config.unlink()
    found = checks(ctl)
    assert found["config"]["ok"] is False
    assert str(config) in found["config"]["detail"]
    assert "charon" in found
    assert "store" not in found


def test_the_table_ends_with_what_to_do_and_the_verdict(ctl: Ctl) -> None:
    result = ctl("doctor")
    table, advice, verdict = result.stdout.strip().split("\n\n")
    assert table.splitlines()[0].split() == ["CHECK", "IS", "DETAIL"]
    assert advice.startswith("WHAT TO DO")
    assert "fabricd:" in advice
    assert verdict == "not fit to be a node yet"
    wide = ctl("doctor", "-o", "wide").stdout
    assert wide.splitlines()[0].split() == ["CHECK", "IS", "DETAIL", "DO"]
    assert "WHAT TO DO" not in wide
