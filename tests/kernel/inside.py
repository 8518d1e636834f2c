"""Runs the lab's tests where the kernel has ESP and IPIP of its own: inside User Mode Linux."""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

from lab import uml
from lab.process import tail

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'contrib'}", "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(share: Path, tests: str, chosen: str = "") -> str:
    """Boot a guest and run a file's tests in it, or those that `-k` chooses; they have to pass.

    `share` is the fixture's. Returns pytest's report, with what passing tests have printed.
    """
    # Inside nothing can be written here: each program would compile all of it anew.
    for sources in ("fabricd", "contrib/lab"):
        compileall.compile_dir(ROOT / sources, quiet=1)
    argv = (sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", tests)
    choice = ("-k", chosen) if chosen else ()
    result = uml.run((*argv, *choice), share, directory=ROOT, env=ENVIRONMENT)
    assert result.status == 0, f"{result.output}\n{tail(share / 'uml.log')}"
    return result.output
