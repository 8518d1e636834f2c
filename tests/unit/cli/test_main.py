"""What holds for every command: options, exit status, errors of one line, and a light start."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from fabricd import __version__
from fabricd.cli.main import COMMANDS, fabricctl
from tests.unit.cli.conftest import Ctl, Daemon

HEAVY = ("grpc", "etcd3", "pyroute2", "vici", "trio", "cryptography", "rich", "yaml", "msgspec")


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a new interpreter has loaded after `code`."""
    program = f"{code}\nimport sys; print('\\n' + ' '.join(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in output.splitlines()[-1].split()}


def test_importing_fabricctl_loads_nothing_heavy() -> None:
    loaded = loaded_after("import fabricd.cli.main")
    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_after(
        "from fabricd.cli.main import fabricctl\n"
        "fabricctl(['--help'], prog_name='fabricctl', standalone_mode=False)"
    )
    assert loaded.isdisjoint(HEAVY)


def test_asking_the_daemon_loads_no_grpc_netlink_or_cryptography(
    daemon: Daemon, config: Path
) -> None:
    daemon.answer("GET /plan", {"actions": []})
    loaded = loaded_after(
        "from fabricd.cli.main import fabricctl\n"
        f"fabricctl(['plan', '--config', {str(config)!r}], standalone_mode=False)"
    )
    assert daemon.asked == ["GET /plan"]
    assert loaded.isdisjoint(set(HEAVY) - {"msgspec"})


def test_help_says_of_a_command_what_its_own_help_says() -> None:
    for name, entry in COMMANDS.items():
        command = getattr(importlib.import_module(f"fabricd.cli.{entry.module}"), entry.attribute)
        assert command.name == name
        assert command.help.partition("\n")[0] == entry.help


def test_a_shell_can_complete_commands() -> None:
    complete = ShellComplete(fabricctl, {}, "fabricctl", "_FABRICCTL_COMPLETE")
    assert [item.value for item in complete.get_completions([], "p")] == [
        "plan",
        "pod",
        "pki",
        "purge",
    ]
    assert [item.value for item in complete.get_completions(["node"], "l")] == ["list"]


def test_version() -> None:
    result = CliRunner().invoke(fabricctl, ["--version"])
    assert (result.exit_code, result.output) == (0, f"fabricctl {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "CONFIG", "-o", "json", "plan"],
        ["plan", "--config", "CONFIG", "-o", "json"],
        ["-o", "json", "plan", "--config", "CONFIG"],
        ["--config", "/not/there.toml", "-o", "yaml", "plan", "--config", "CONFIG", "-o", "json"],
    ],
)
def test_options_stand_before_or_after_the_command(
    arguments: list[str], config: Path, daemon: Daemon
) -> None:
    daemon.answer("GET /plan", {"actions": []})
    words = [str(config) if word == "CONFIG" else word for word in arguments]
    result = CliRunner().invoke(fabricctl, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"actions": []}


def test_options_stand_between_group_and_verb_too(config: Path) -> None:
    words = ["node", "--config", str(config), "-o", "json", "list"]
    result = CliRunner().invoke(fabricctl, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"nodes": [], "rejected": []}


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["status", "-o", "xml"], ["plan", "--node", "edge2"], ["node", "put"]],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str], ctl: Ctl) -> None:
    result = ctl(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: fabricctl" in result.stderr


def test_a_config_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(fabricctl, ["status", "--config", "/not/there.toml"])
    assert result.exit_code == 1
    assert result.output == (
        "fabricctl: /not/there.toml: cannot be read: No such file or directory\n"
    )


def test_each_fault_of_a_config_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fabricd.toml"
    path.write_text('[kernel]\nbridge = "a/b"\n[nonsense]\n')
    result = CliRunner().invoke(fabricctl, ["status", "--config", str(path)])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"fabricctl: {path}: [nonsense]: unknown section")
    assert lines[1].startswith(f"fabricctl: {path}: kernel.bridge: 'a/b' is no interface name")


@pytest.mark.parametrize("command", ["status", "plan", "confirm"])
def test_without_a_daemon(command: str, ctl: Ctl, tmp_path: Path) -> None:
    result = ctl(command)
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: fabricd is not running here (no socket at {tmp_path}/fabricd.sock): "
        "systemctl start fabricd\n"
    )


def test_with_a_socket_that_a_dead_daemon_left(ctl: Ctl, tmp_path: Path) -> None:
    socket = tmp_path / "fabricd.sock"
    with Daemon(socket):
        pass
    assert socket.is_socket()
    result = ctl("status")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: fabricd is not running here (nobody listens at {socket}): "
        "systemctl start fabricd\n"
    )


def test_what_the_daemon_refuses_is_one_line(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /plan", {"error": "charon: not seen yet"}, status=503)
    result = ctl("plan")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: fabricd at {daemon.socket_path} refused GET /plan: charon: not seen yet\n"
    )


def test_somebody_else_at_the_socket_is_one_line(ctl: Ctl, daemon: Daemon) -> None:
    result = ctl("plan")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: fabricd at {daemon.socket_path} gave no JSON object to GET /plan "
        "(HTTP status 404)\n"
    )
