"""The same fabric with the kernel's own ESP and IPIP: the demo, inside User Mode Linux.

Where Debian's user-mode-linux is installed it has to boot: a kernel that does not is a failure,
not a reason to skip.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import uml
from lab.process import tail
from tests.kernel.inside import ENVIRONMENT, ROOT, run_tests


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
def test_the_demo_holds_with_the_kernels_esp(share: Path) -> None:
    demo = (sys.executable, "-m", "lab", "demo", "--esp", "kernel")
    result = uml.run(demo, share, directory=ROOT, env=ENVIRONMENT)

    assert result.status == 0, f"{result.output}\n{tail(share / 'uml.log')}"
    assert "with the kernel's ESP" in result.output
    assert "BIRD on node1 and node2, with IPIP between them" in result.output
    # What node2 has learned: as with Calico's own BIRD and `ipipMode: Always`, to the letter.
    assert "2.0.0.0/8 via 10.20.8.141 dev tunl0 onlink" in result.output


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
def test_certificates_and_cas_change_without_a_lost_ping(share: Path) -> None:
    report = run_tests(share, "tests/lab/test_identity.py", "renewed or change_of_cas")
    assert "3 passed" in report
