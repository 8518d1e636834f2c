"""Faults with the kernel's own ESP: what the lab does to a fabric, inside User Mode Linux.

charon's userspace ESP has one tun device for all tunnels and no policies in the kernel, so what
is true with it need not be true where packets meet XFRM.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import uml
from tests.kernel.inside import run_tests


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
def test_a_fabric_with_the_kernels_esp_gets_over_it(share: Path) -> None:
    assert "16 passed" in run_tests(share, "tests/kernel/inside_faults.py")
