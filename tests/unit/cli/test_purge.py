"""When `fabricctl purge` refuses. What it removes is tried in the lab, on a real node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.cli.conftest import Ctl, Daemon

NEW_NAMESPACE = ("unshare", "--net", sys.executable, "-c")
FABRICCTL = "from fabricd.cli.main import main; main()"


def test_a_daemon_that_runs_would_put_everything_back(ctl: Ctl, daemon: Daemon) -> None:
    result = ctl("purge")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: fabricd runs here (it listens at {daemon.socket_path}) and would put "
        "everything back: systemctl stop fabricd\n"
    )


def test_what_charon_holds_stays_while_it_does_not_answer(config: Path) -> None:
    script = (
        "import subprocess\n"
        "subprocess.run('ip link add fabric0 type bridge && ip link set fabric0 alias fabricd',"
        " shell=True, check=True)\n"
    )
    done = subprocess.run(
        [*NEW_NAMESPACE, script + FABRICCTL, "purge", "--config", config, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (action,) = json.loads(done.stdout)["actions"]
    assert (action["kind"], action["target"]) == ("link.remove", "fabric0")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fabricctl: charon: no socket {config.parent}/charon.vici")
    assert line.endswith("; run purge again when it answers")
