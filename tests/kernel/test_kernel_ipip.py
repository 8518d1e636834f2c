"""The cloud side with the kernel's own IPIP and ESP, as with `ipipMode: Always`: what the lab tests
of it, inside User Mode Linux.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import uml
from tests.kernel.inside import run_tests

CALICO = "learns_the_way or blackhole_goes or handed_on or without_the_pool or all_is_right"
GATEWAYS = "child_sas_with or both_ways or nobody_carries or (drained_and and node1)"

LEARNED = r"2\.0\.0\.0/8 via 10\.20\.8\.141 dev tunl0 onlink"
INSIDE_IPIP = r"IP 10\.20\.8\.142 > 10\.20\.8\.143: IP 2\.2\.2\.2 > 10\.233\.91\.3: ICMP"
"""From edge2's pod through its gateway, node2, to a pod of node3's."""


@pytest.mark.skipif(not uml.installed(), reason="user-mode-linux is not installed")
@pytest.mark.parametrize(
    ("tests", "chosen", "passed", "told"),
    [
        ("tests/lab/test_calico.py", CALICO, 6, LEARNED),
        ("tests/lab/test_gateways.py", GATEWAYS, 5, INSIDE_IPIP),
    ],
    ids=["what a node learns", "two gateways"],
)
def test_the_cluster_reaches_edges_through_ipip(
    share: Path, tests: str, chosen: str, passed: int, told: str
) -> None:
    report = run_tests(share, tests, chosen)
    assert f"{passed} passed" in report
    assert re.search(told, report), report
