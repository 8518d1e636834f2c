"""SAs that a killed charon leaves in the kernel: inside User Mode Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import uml
from tests.kernel.inside import run_tests


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
def test_doctor_finds_the_sas_of_a_charon_that_was_killed(share: Path) -> None:
    assert "1 passed" in run_tests(share, "tests/kernel/inside_orphans.py")
