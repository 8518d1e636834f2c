"""What all reading commands share: their forms, and that no record speaks to a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabricd.cli.options import FORMS
from tests.unit.cli.conftest import Ctl, Daemon
from tests.unit.cli.test_status import peer, status

HOSTILE = "\x1b]0;taken\x07\x1b[2J\x9b2J\r\u202e<b>'\"`$(id)`\\"
EDGE2 = {"endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"}
RECORDS: dict[str, Any] = {
    "nodes/edge2": {**EDGE2, HOSTILE: HOSTILE},
    "nodes/edge3": {**EDGE2, "endpoint": HOSTILE, "identity": HOSTILE, "community": HOSTILE},
    "nodes/edge4": {"subnets": [HOSTILE], "role": HOSTILE, "priority": HOSTILE},
    "communities/app2": {"members": [HOSTILE, "edge2"], HOSTILE: [HOSTILE]},
}
ACTION = dict.fromkeys(("kind", "target", "reason"), HOSTILE) | {"disruption": "drop"}

COMMANDS = [
    ("status",),
    ("plan",),
    ("plan", "--records", "RECORDS", "--node", "edge2"),
    ("why", "2.2.2.2", "2.2.2.34"),
    ("node", "list"),
    ("node", "get", "edge2"),
    ("node", "get", "edge3"),
    ("node", "get", "edge4"),
    ("community", "list"),
    ("community", "get", "app2"),
    ("graph",),
]


@pytest.fixture
def records(tmp_path: Path, config: Path, daemon: Daemon) -> Path:
    """A store and a daemon that say what somebody hostile has written."""
    folder = tmp_path / "records"
    for key, record in RECORDS.items():
        file = folder / f"{key}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(record))
    daemon.answer(
        "GET /status",
        status(
            peer("edge3", state=HOSTILE, reason=HOSTILE, communities=[HOSTILE], remote=HOSTILE),
            warnings=[HOSTILE],
            held=[HOSTILE],
            rejected=[{"key": HOSTILE, "field": HOSTILE, "reason": HOSTILE}],
            source={"type": HOSTILE, "synced": True, "reason": HOSTILE},
            version=HOSTILE,
        ),
    )
    daemon.answer("GET /plan", {"actions": [ACTION], "unavailable": {HOSTILE: HOSTILE}})
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_in_every_form_and_nothing_in_it_is_obeyed(
    command: tuple[str, ...], form: str, ctl: Ctl, records: Path
) -> None:
    words = (str(records) if word == "RECORDS" else word for word in command)
    found = ctl(*words, "-o", form)
    assert found.exit_code in {0, 1, 2}
    assert found.exception is None or isinstance(found.exception, SystemExit)
    assert "Usage:" not in found.output
    assert found.stdout.count("\n") >= 1
    assert all(line.isprintable() for line in found.stdout.split("\n"))
    assert all(line.isprintable() for line in found.stderr.split("\n"))
    if form in {"json", "yaml"}:
        read = json.loads if form == "json" else yaml.safe_load
        assert isinstance(read(found.stdout), dict)
