"""Tunnels that carry nothing, with the kernel's own ESP: inside User Mode Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import uml
from tests.kernel.inside import run_tests


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
def test_an_sa_that_a_kernel_has_lost_is_made_anew(share: Path) -> None:
    assert "1 passed" in run_tests(share, "tests/kernel/inside_lost_sa.py")
