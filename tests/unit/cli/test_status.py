"""`fabricctl status` and `confirm`: documents of the daemon, and what an operator sees."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabricd.cli.status import status_text
from fabricd.probe import strongswan_conf
from tests.unit import answering
from tests.unit.cli.conftest import Ctl, Daemon
from tests.unit.cli.test_main import HEAVY, loaded_after


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
                {
                    "key": "/fabric/nodes/edge6",
                    "field": "role",
                    "at": "label fabricd.io/role",
                    "reason": "is neither edge nor cloud",
                },
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
KEY                  FIELD                  REASON
/fabric/nodes/edge4  subnets                2.2.2.1/27 has host bits
/fabric/nodes/edge5                         not a JSON object
/fabric/nodes/edge6  label fabricd.io/role  is neither edge nor cloud

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


# ---------------------------------------------------------------- charon's settings

FABRICD_CONF = Path("contrib/strongswan/fabricd.conf").absolute()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """charon's file."""
    file = tmp_path / "strongswan.conf"
    file.write_text(f"include {FABRICD_CONF}\n")
    monkeypatch.setattr(strongswan_conf, "DEFAULT", file)
    return file


@pytest.fixture
def charon(tmp_path: Path, settings: Path) -> Iterator[None]:
    """This node's, of strongSwan 5.9.8."""
    with answering.charon(tmp_path / "charon.vici", answering.version("5.9.8")):
        yield


def warnings(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("warning: ")]


@pytest.mark.usefixtures("charon")
def test_settings_that_differ_are_warned_of_beside_the_daemons_warnings(
    ctl: Ctl, daemon: Daemon, settings: Path
) -> None:
    document = status(peer("edge3"), warnings=["something else"])
    daemon.answer("GET /status", document)
    assert warnings(ctl("status").stdout) == ["warning: something else"]
    settings.write_text(f"{settings.read_text()}charon {{\n install_routes = yes\n}}\n")
    for form in ("table", "wide"):
        assert warnings(ctl("status", "-o", form).stdout) == [
            "warning: something else",
            "warning: charon's settings: install_routes: yes: charon makes routes of its own, "
            "beside fabricd's. fabricd's strongswan/fabricd.conf belongs into /etc/strongswan.d; "
            "restart charon",
        ]
    for form in ("json", "yaml"):
        assert yaml.safe_load(ctl("status", "-o", form).stdout) == document


@pytest.mark.usefixtures("charon")
def test_with_many_peers_more_settings_count(ctl: Ctl, daemon: Daemon, settings: Path) -> None:
    daemon.answer("GET /status", status(*(peer(f"edge{n}") for n in range(2000))))
    [warning] = warnings(ctl("status").stdout)
    assert "ikesa_table_size: 1, for 2000 peers" in warning
    assert "block_threshold: 5, for 2000 peers" in warning
    large = FABRICD_CONF.with_name("large-gateway.conf")
    settings.write_text(f"{settings.read_text()}include {large}\n")
    assert warnings(ctl("status").stdout) == []


@pytest.mark.usefixtures("charon")
@pytest.mark.parametrize(
    "changed", [{"node": "edge3"}, {"charon": {"ok": False, "reason": "no answer"}}]
)
def test_of_another_nodes_charon_or_one_that_is_silent_nothing_is_said(
    changed: dict[str, Any], ctl: Ctl, daemon: Daemon, settings: Path
) -> None:
    settings.write_text("")
    daemon.answer("GET /status", status())
    assert warnings(ctl("status").stdout)
    daemon.answer("GET /status", status(**changed))
    assert warnings(ctl("status").stdout) == []


@pytest.mark.usefixtures("charon")
def test_of_settings_that_cannot_be_read_nothing_is_said(
    ctl: Ctl, daemon: Daemon, settings: Path
) -> None:
    daemon.answer("GET /status", status())
    settings.write_text("}")
    unreadable = ctl("status")
    settings.unlink()
    missing = ctl("status")
    assert unreadable.exit_code == missing.exit_code == 0
    assert unreadable.stdout == missing.stdout == status_text(status(), wide=False) + "\n"


def test_without_charon_nothing_is_said(ctl: Ctl, daemon: Daemon, settings: Path) -> None:
    settings.write_text("")
    daemon.answer("GET /status", status())
    assert warnings(ctl("status").stdout) == []


# ---------------------------------------------------------------- what it takes


@pytest.mark.usefixtures("charon")
def test_a_look_loads_nothing_heavy(daemon: Daemon, config: Path) -> None:
    daemon.answer("GET /status", status(peer("edge3"), WAITING))
    loaded = loaded_after(
        "from fabricd.cli.main import fabricctl\n"
        f"fabricctl(['status', '--config', {str(config)!r}], standalone_mode=False)"
    )
    assert daemon.asked == ["GET /status"]
    assert loaded.isdisjoint({*HEAVY, "http", "email", "ssl"} - {"msgspec"})


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


# ---------------------------------------------------------------- watching

IMPATIENT = """\
from fabricd.cli import main, watch
watch.PAUSE = 0.05
main.main()
"""

Watch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watch(config: Path) -> Iterator[Watch]:
    """`fabricctl status --watch`, which looks again sooner; ended whatever the test does."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", IMPATIENT, "status", "--watch", "--config", str(config)]
        environment = {"TERM": "xterm", "COLUMNS": "120", "LINES": "24", **env}
        started.append(
            subprocess.Popen(
                [*argv, *options],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def interrupted(watching: subprocess.Popen[str]) -> tuple[str, str]:
    """What it has said on stdout and stderr when Ctrl-C ends it, in order."""
    watching.send_signal(signal.SIGINT)
    said, errors = watching.communicate(timeout=BOUND)
    assert watching.returncode == 0
    return said, errors


BOUND = 20
"""Seconds; nothing here takes that long."""


def test_on_a_pipe_it_tells_when_something_changes_and_only_then(
    daemon: Daemon, watch: Watch
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    watching = watch()
    daemon.wait_asked(2)
    daemon.answer("GET /status", status(peer("edge3", bytes_in=9999, age=9999)))
    daemon.wait_asked(4)
    daemon.answer("GET /status", status(peer("edge3", up=False, state="connecting")))
    daemon.wait_asked(7)
    said, errors = interrupted(watching)
    first, second = said.split("\n\nedge2 (edge)")
    assert "edge3  edge  up  " in first
    assert "edge3  edge  connecting  " in second
    assert "9.8 KiB" not in said
    assert "\x1b" not in said
    assert errors == ""


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_on_a_pipe_json_is_a_line_and_yaml_a_document_for_each_change(
    form: str, daemon: Daemon, watch: Watch
) -> None:
    documents = [status(), status(peer("edge3")), status(warnings=["a\nb"])]
    daemon.answer("GET /status", documents[0])
    watching = watch("-o", form)
    daemon.wait_asked(1)
    for document in documents:
        daemon.answer("GET /status", document)
        daemon.wait_asked(len(daemon.asked) + 2)
    said, _ = interrupted(watching)
    if form == "json":
        assert [json.loads(line) for line in said.splitlines()] == documents
    else:
        assert list(yaml.safe_load_all(said)) == documents


def test_it_goes_on_while_the_daemon_is_restarted_and_says_so(daemon: Daemon, watch: Watch) -> None:
    daemon.answer("GET /status", status())
    watching = watch("-o", "json")
    daemon.wait_asked(1)
    daemon.answer("GET /status", {"error": "it stops"}, status=503)
    daemon.wait_asked(4)
    daemon.answer("GET /status", status(version="0.2.0"))
    daemon.wait_asked(6)
    said, errors = interrupted(watching)
    versions = [json.loads(line)["version"] for line in said.splitlines()]
    assert versions == ["0.1.0", "0.2.0"], "what is no status is not on stdout"
    refused = f"fabricd at {daemon.socket_path} refused GET /status: it stops"
    assert errors.splitlines() == [
        f"fabricctl: warning: {refused}; waiting for it",
        "fabricctl: warning: fabricd answers again",
    ]


def test_it_ends_when_nobody_reads_any_more(daemon: Daemon, watch: Watch) -> None:
    daemon.answer("GET /status", status())
    watching = watch()
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("edge2")
    watching.stdout.close()
    assert watching.wait(timeout=BOUND) == 0


def test_watch_without_a_daemon_fails(ctl: Ctl) -> None:
    assert ctl("status", "--watch").exit_code == 1


# ---------------------------------------------------------------- on a terminal


class Terminal:
    """A terminal, and what is shown on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._shown = b""

    def wait(self, text: str) -> None:
        """Until a text is shown."""
        while text not in self.shown:
            assert select.select([self._ours], [], [], BOUND)[0], self.shown
            self._shown += os.read(self._ours, 65536)

    @property
    def shown(self) -> str:
        return self._shown.decode()

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_is_redrawn_in_place_and_the_terminal_put_right_at_the_end(
    number: signal.Signals, daemon: Daemon, watch: Watch, terminal: Terminal
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    watching = watch(stdout=terminal.theirs)
    terminal.wait("edge3")
    daemon.answer("GET /status", status(peer("edge4", state="partial")))
    terminal.wait("edge4")
    watching.send_signal(number)
    terminal.wait(LEAVE)
    assert watching.wait(timeout=BOUND) == 0
    assert terminal.shown.startswith(ENTER)
    assert terminal.shown.count("\x1b[H") >= 2
    assert "\x1b[32mup\x1b[0m" in terminal.shown
    assert "\x1b[33mpartial\x1b[0m" in terminal.shown


def test_on_a_terminal_the_last_state_stays_while_there_is_no_daemon(
    daemon: Daemon, watch: Watch, terminal: Terminal
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    watching = watch(stdout=terminal.theirs)
    terminal.wait("edge3")
    daemon.answer("GET /status", {"error": "it stops"}, status=503)
    terminal.wait("it stops")
    terminal.wait("it stops")
    *_, last = terminal.shown.split("\x1b[H")
    assert "no answer since " in last
    daemon.answer("GET /status", status(peer("edge9")))
    terminal.wait("edge9")
    *_, last = terminal.shown.split("\x1b[H")
    assert "no answer" not in last
    assert interrupted(watching)[1] == ""


def test_a_terminal_that_is_too_small_says_what_it_does_not_show(
    daemon: Daemon, watch: Watch, terminal: Terminal
) -> None:
    daemon.answer("GET /status", status(*(peer(f"edge{n}") for n in range(50))))
    watch(stdout=terminal.theirs, LINES="20")
    terminal.wait("37 more lines")
    *_, last = terminal.shown.split("\x1b[H")
    assert last.count("\n") == 19


@pytest.mark.parametrize(
    ("env", "redrawn", "colour"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colours_are_for_terminals_that_have_them_and_those_who_want_them(
    env: dict[str, str],
    redrawn: bool,
    colour: bool,
    daemon: Daemon,
    watch: Watch,
    terminal: Terminal,
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    watching = watch(stdout=terminal.theirs, **env)
    terminal.wait("2h1m")
    daemon.wait_asked(2)
    interrupted(watching)
    assert (ENTER in terminal.shown) is redrawn
    assert ("\x1b[32mup" in terminal.shown) is colour
    assert ("\x1b[1m" in terminal.shown) is colour
    assert ("\x1b" in terminal.shown) is (redrawn or colour)


def test_no_colours_in_a_file_even_if_they_are_forced(
    daemon: Daemon, watch: Watch, tmp_path: Path
) -> None:
    daemon.answer("GET /status", status(peer("edge3")))
    with (tmp_path / "out").open("w") as file:
        watching = watch(stdout=file, FORCE_COLOR="1")
    daemon.wait_asked(2)
    interrupted(watching)
    assert "edge3" in (tmp_path / "out").read_text()
    assert "\x1b" not in (tmp_path / "out").read_text()
