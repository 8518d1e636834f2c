"""`fabricctl status` and `confirm`: documents of the daemon, and what an operator sees."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cli.conftest import Ctl, Daemon


def peer(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "role": "edge",
        "up": True,
        "state": "up",
        "reason": "",
        "initiator": True,
        "endpoint": "10.20.8.12",
        "remote": "10.20.8.12",
        "communities": ["app1"],
        "age": 7260,
        "bytes_in": 1536,
        "bytes_out": 0,
        "last_error": None,
        "children": [child("2.2.2.32/27")],
        **fields,
    }


def child(remote: str, **fields: Any) -> dict[str, Any]:
    return {
        "local": "2.2.2.0/27",
        "remote": remote,
        "up": True,
        "state": "INSTALLED",
        "bytes_in": 1536,
        "bytes_out": 0,
        "age": 65,
        **fields,
    }


def status(*peers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "node": "edge2",
        "role": "edge",
        "version": "0.1.0",
        "time": 1_700_000_000,
        "synced": True,
        "source": {"type": "etcd", "synced": True, "reason": ""},
        "kernel": {"ok": True, "reason": ""},
        "charon": {"ok": True, "reason": "", "userspace_esp": False},
        "peers": list(peers),
        "rejected": [],
        "warnings": [],
        "held": [],
        **fields,
    }


WAITING = peer(
    "node1",
    role="cloud",
    up=False,
    state="waiting",
    reason="tries again in 4 s",
    communities=[],
    remote="",
    age=None,
    bytes_in=0,
    last_error="NO_PROPOSAL_CHOSEN",
    children=[
        child("10.233.0.0/17", age=None, bytes_in=0, up=False, state="none"),
        child("10.233.128.0/17"),
    ],
)


def test_all_is_well(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /status", status(peer("edge9"), peer("edge3", bytes_out=5 << 30)))
    result = ctl("status")
    assert result.exit_code == 0
    assert (
        result.output
        == """\
edge2 (edge), fabricd 0.1.0
source: etcd in sync
kernel: ok
charon: ok

PEER   ROLE  STATE   UP       IN      OUT   AGE  REASON
edge3  edge  up     1/1  1.5 KiB  5.0 GiB  2h1m
edge9  edge  up     1/1  1.5 KiB      0 B  2h1m
"""
    )


def test_all_that_can_be_wrong(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer(
        "GET /status",
        status(
            WAITING,
            peer("edge3"),
            synced=False,
            source={"type": "etcd", "synced": False, "reason": "http://10.20.8.141:2379: silent"},
            kernel={"ok": False, "reason": "netlink: Operation not permitted"},
            charon={"ok": True, "reason": "", "userspace_esp": True},
            rejected=[
                {
                    "key": "/fabric/nodes/edge4",
                    "field": "subnets",
                    "reason": "2.2.2.1/27 has host bits",
                },
                {"key": "/fabric/nodes/edge5", "field": "", "reason": "not a JSON object"},
            ],
            warnings=["nodes/edge6: unknown field 'colour' is ignored"],
            held=["/fabric/nodes/edge7", "/fabric/nodes/edge8"],
        ),
    )
    result = ctl("status")
    assert result.exit_code == 0
    assert (
        result.output
        == """\
edge2 (edge), fabricd 0.1.0
source: etcd not in sync: http://10.20.8.141:2379: silent
kernel: not ok: netlink: Operation not permitted
charon: ok, userspace ESP

PEER   ROLE   STATE     UP       IN  OUT   AGE  REASON
edge3  edge   up       1/1  1.5 KiB  0 B  2h1m
node1  cloud  waiting  1/2      0 B  0 B     -  tries again in 4 s; last error: NO_PROPOSAL_CHOSEN

Rejected records
KEY                  FIELD    REASON
/fabric/nodes/edge4  subnets  2.2.2.1/27 has host bits
/fabric/nodes/edge5           not a JSON object

warning: nodes/edge6: unknown field 'colour' is ignored

held, not obeyed: the loss of /fabric/nodes/edge7, /fabric/nodes/edge8
"""
    )


def test_wide_shows_children_endpoints_communities_and_who_initiates(
    ctl: Ctl, daemon: Daemon
) -> None:
    daemon.answer("GET /status", status(peer("edge3", initiator=False, ike="ESTABLISHED"), WAITING))
    lines = ctl("status", "-o", "wide").stdout.splitlines()[5:]
    assert [" ".join(line.split()) for line in lines] == [
        "PEER ROLE STATE UP IN OUT AGE IKE INITIATOR ENDPOINT REMOTE COMMUNITIES REASON LAST ERROR",
        "edge3 edge up 1/1 1.5 KiB 0 B 2h1m ESTABLISHED peer 10.20.8.12 10.20.8.12 app1 -",
        "2.2.2.0/27 === 2.2.2.32/27 INSTALLED yes 1.5 KiB 0 B 1m5s",
        "node1 cloud waiting 1/2 0 B 0 B - - this node 10.20.8.12 - - "
        "tries again in 4 s NO_PROPOSAL_CHOSEN",
        "2.2.2.0/27 === 10.233.0.0/17 none no 0 B 0 B -",
        "2.2.2.0/27 === 10.233.128.0/17 INSTALLED yes 1.5 KiB 0 B 1m5s",
    ]


def test_a_node_without_a_record(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /status", status(role=None))
    assert (
        ctl("status").stdout
        == """\
edge2 (no record is in force), fabricd 0.1.0
source: etcd in sync
kernel: ok
charon: ok

no peers
"""
    )


def test_json_and_yaml_are_the_daemon_s_document(ctl: Ctl, daemon: Daemon) -> None:
    document = status(WAITING, warnings=["communities/组1: \x1b[2J\x9b2J"])
    daemon.answer("GET /status", document)
    as_json, as_yaml = ctl("status", "-o", "json").stdout, ctl("status", "-o", "yaml").stdout
    assert json.loads(as_json) == yaml.safe_load(as_yaml) == document
    assert "组1" in as_json
    assert "组1" in as_yaml
    assert not {"\x1b", "\x9b"} & set(as_json + as_yaml)


def test_what_others_wrote_does_not_reach_the_terminal_as_commands(
    ctl: Ctl, daemon: Daemon
) -> None:
    nasty = "\x1b[2J[red]:smile:\n"
    daemon.answer(
        "GET /status",
        status(
            peer("edge3", reason=nasty),
            rejected=[{"key": nasty, "field": nasty, "reason": nasty}],
            warnings=[nasty],
            held=[nasty],
        ),
    )
    output = ctl("status").stdout
    assert "\x1b" not in output
    assert output.count(r"\x1b[2J[red]:smile:\n") == 6


def test_confirm(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("POST /confirm", {"confirmed": ["/fabric/nodes/edge7", "/fabric/nodes/edge8"]})
    result = ctl("confirm")
    assert (result.exit_code, result.output) == (
        0,
        "/fabric/nodes/edge7: its loss is obeyed\n/fabric/nodes/edge8: its loss is obeyed\n",
    )


def test_confirm_when_nothing_is_held(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("POST /confirm", {"confirmed": []})
    result = ctl("confirm")
    assert (result.exit_code, result.output) == (0, "nothing is held\n")


# ---------------------------------------------------------------- on a terminal, and watching

IMPATIENT = """\
from fabricd.cli import main, status
status.REDRAW = 0.05
main.main()
"""
FABRICCTL = (sys.executable, "-c", IMPATIENT)


def test_watch_appends_where_it_is_no_terminal(daemon: Daemon, config: Path) -> None:
    daemon.answer("GET /status", status())
    watching = subprocess.Popen(
        [*FABRICCTL, "status", "--watch", "--config", config], stdout=subprocess.PIPE, text=True
    )
    daemon.wait_asked(2)
    watching.send_signal(signal.SIGINT)
    output, _ = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert output.startswith("edge2 (edge), fabricd 0.1.0\n")
    assert "\x1b" not in output


def test_watch_goes_on_while_the_daemon_is_restarted(daemon: Daemon, config: Path) -> None:
    daemon.answer("GET /status", status())
    watching = subprocess.Popen(
        [*FABRICCTL, "status", "--watch", "--config", config], stdout=subprocess.PIPE, text=True
    )
    daemon.wait_asked(1)
    daemon.answer("GET /status", {"error": "it stops"}, status=503)
    daemon.wait_asked(2)
    daemon.answer("GET /status", status(node="edge2-again"))
    daemon.wait_asked(4)
    watching.send_signal(signal.SIGINT)
    output, _ = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert output.index("edge2 (edge)") < output.index("it stops") < output.index("edge2-again")


def test_watch_without_a_daemon_fails(ctl: Ctl) -> None:
    assert ctl("status", "--watch").exit_code == 1


@pytest.mark.parametrize("redirected", [False, True])
def test_colours_and_redrawing_are_for_terminals(
    redirected: bool, daemon: Daemon, config: Path, tmp_path: Path
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    terminal, inside = pty.openpty()
    with (tmp_path / "out").open("wb") as file:
        watching = subprocess.Popen(
            [*FABRICCTL, "status", "--watch", "--config", config],
            stdin=inside,
            stdout=file if redirected else inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "FORCE_COLOR": "1"},
        )
    os.close(inside)
    daemon.wait_asked(2)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=20) == 0
    shown = (tmp_path / "out").read_bytes() if redirected else os.read(terminal, 4096)
    os.close(terminal)
    assert b"edge3" in shown
    assert (b"\x1b[2J" in shown) is not redirected
    assert (b"\x1b[32mup" in shown) is not redirected
