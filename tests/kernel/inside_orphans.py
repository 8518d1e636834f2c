"""SAs of a charon that was killed. Only the kernel's own ESP keeps some: this runs inside User Mode
Linux, where `test_kernel_orphans` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.fabric import Fabric
from lab.netns import Namespace
from tests.lab.observe import wait_converged, whole_fabric
from tests.lab.test_doctor import doctor


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with whole_fabric() as built:
        yield built


def sas(namespace: Namespace) -> dict[str, list[str]]:
    """SAs in a node's kernel: by SPI, how ip-xfrm(8) names the ends."""
    text = namespace.ip("xfrm", "state", "list", "nokeys")
    found = re.findall(r"^(src \S+ dst \S+)\n\tproto esp spi (0x\w+) ", text, re.MULTILINE)
    return {spi: ends.split() for ends, spi in found}


def said(fabric: Fabric) -> tuple[str, str]:
    row = doctor(fabric, "edge2")["orphaned SAs"]
    return row["verdict"], row["detail"]


def test_they_are_found_and_are_gone_after_what_doctor_says(fabric: Fabric) -> None:
    assert not fabric.userspace_esp
    node = fabric.nodes["edge2"]
    assert said(fabric) == ("ok", "none")
    left = sas(node.namespace)
    node.charon.kill()
    assert said(fabric)[0] == "unknown"
    node.charon.start()
    wait_converged(fabric)
    assert left.keys() < sas(node.namespace).keys(), "a new charon does not remove them"
    verdict, detail = said(fabric)
    assert verdict == "warning"
    named = re.findall(r"spi (0x\w+)", detail)
    assert set(named) <= left.keys()
    assert detail.endswith("1 more: left by one that was killed, or another program's")
    # One, while the tunnels go on.
    node.namespace.ip("xfrm", "state", "delete", *left[named[0]], "proto", "esp", "spi", named[0])
    assert "more" not in said(fabric)[1]
    wait_converged(fabric)
    # All, without charon.
    node.charon.stop()
    for what in ("state", "policy"):
        node.namespace.ip("xfrm", what, "flush")
    node.charon.start()
    wait_converged(fabric)
    assert said(fabric) == ("ok", "none")
    assert not left.keys() & sas(node.namespace).keys()
