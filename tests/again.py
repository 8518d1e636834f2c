"""What CI does when tests failed: those of lab and kernel once more, one after the other.

They run real daemons against real clocks on a machine that others use too, four at a time. One that
fails there and passes alone is named, to be looked into; one that fails twice fails. Tests that are
the same wherever they run get no second try, nor do many failures, or some in many files
(docs/decisions/018).

`python -m tests.again`, after a run that ended with failures; exit status as pytest's.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PYTEST: Final = (sys.executable, "-m", "pytest")
LAST_FAILED: Final = ("--last-failed", "--last-failed-no-failures=none")

DIVISIONS: Final = ("tests/lab/", "tests/kernel/")
"""Where machines matter."""

MOST: Final = 8
MOST_FILES: Final = 2
"""A test that fails may leave what its file shares in disorder for those that follow."""


def objection(failed: list[str]) -> str:
    """Why these tests, by node id, get no second try; empty: they do."""
    files = {test.partition("::")[0] for test in failed}
    elsewhere = sorted(file for file in files if not file.startswith(DIVISIONS))
    if not failed:
        return "no test is known to have failed"
    if elsewhere:
        return f"{', '.join(elsewhere)}: the same wherever it runs"
    if len(failed) > MOST or len(files) > MOST_FILES:
        return f"{len(failed)} tests in {len(files)} files are too many to be a coincidence"
    return ""


def last_failed() -> list[str]:
    """Node ids of what failed in the last run."""
    asked = subprocess.run(
        [*PYTEST, *LAST_FAILED, "--collect-only", "-q", "--no-header"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = asked.stdout.splitlines()
    return [line for line in lines if line.startswith("tests/") and "::" in line]


def main() -> int:
    """Returns the exit status."""
    failed = last_failed()
    if why := objection(failed):
        print(f"no second try: {why}")
        return 1
    print(f"{len(failed)} failed among others; once more, alone:", *failed, sep="\n  ", flush=True)
    # Their files as a whole: some are stories, whose tests go on from where others ended.
    files = sorted({test.partition("::")[0] for test in failed})
    again = subprocess.run([*PYTEST, "-n", "0", *files], check=False)
    if again.returncode == 0:
        print("PASSED ONLY ALONE, to be looked into:", *failed, sep="\n  ")
    return again.returncode


if __name__ == "__main__":
    sys.exit(main())
