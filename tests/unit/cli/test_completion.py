"""`fabricctl completion`, and what a shell gets when it asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabricd.cli.completion import SHELLS, VARIABLE
from fabricd.cli.main import COMMANDS
from tests.unit.cli.conftest import Ctl

BIN = Path(sys.executable).parent

BASH = """
source <(fabricctl completion bash)
COMP_WORDS=({words} "{last}"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_fabricctl_completion fabricctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(words: str, last: str) -> list[str]:
    """What bash offers after these words, for one of which the beginning is typed."""
    done = subprocess.run(
        ["bash", "-ec", BASH.format(words=words, last=last)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    return done.stdout.split()


def test_commands_and_options_are_completed_in_bash() -> None:
    assert complete("fabricctl", "") == list(COMMANDS)
    assert complete("fabricctl", "p") == [name for name in COMMANDS if name.startswith("p")]
    assert complete("fabricctl node", "l") == ["list"]
    assert complete("fabricctl node put edge2", "--ro") == ["--role"]
    assert complete("fabricctl status -o", "") == ["table", "wide", "json", "yaml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(ctl: Ctl, shell: str) -> None:
    result = ctl("completion", shell)
    assert result.exit_code == 0
    assert VARIABLE in result.stdout
    assert f"{shell}_complete" in result.stdout
    assert result.stdout.startswith("#compdef fabricctl\n") == (shell == "zsh")


def test_another_shell_has_none(ctl: Ctl) -> None:
    result = ctl("completion", "tcsh")
    assert result.exit_code == 2
    assert "'tcsh' is not one of" in result.stderr


def test_completing_a_command_loads_none() -> None:
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": "fabricctl st", "COMP_CWORD": "1"}
    script = (
        "import atexit, sys; from fabricd.cli.main import main;"
        "atexit.register(lambda: print(*(m for m in sys.modules if m.startswith('fabricd.cli.'))));"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **asked},
        check=False,
    )
    offered, loaded = done.stdout.splitlines()
    assert offered == "plain,status"
    assert set(loaded.split()) == {"fabricd.cli.main", "fabricd.cli.options"}
