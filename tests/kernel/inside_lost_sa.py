"""An SA that a kernel has lost. Only the kernel's own ESP can lose one behind charon's back: this
runs inside User Mode Linux, where `test_kernel_silent` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.topology import UNDERLAY
from tests.lab.observe import Log, sas, wait_converged
from tests.lab.pings import no_ping_lost
from tests.lab.test_silent import probed_fabric


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with probed_fabric() as whole_fabric:
        yield whole_fabric


def test_it_is_made_anew_and_traffic_flows_again_by_itself(fabric: Fabric) -> None:
    """What edge2 sends arrives and can't be decrypted. (Of an SA to send by, that is missing, the
    kernel tells charon as soon as it is wanted.)
    """
    assert not fabric.userspace_esp
    edge2, edge3 = fabric.nodes["edge2"], fabric.nodes["edge3"]
    wait_converged(fabric)
    before = set(sas(edge2.charon))
    log = Log(fabric, "edge2")
    pair = ("src", UNDERLAY["edge2"], "dst", UNDERLAY["edge3"], "proto", "esp")
    with no_ping_lost(fabric, "c1", "c3"):
        found = edge3.namespace.ip("xfrm", "state", "list", *pair)
        [spi] = re.findall(r"spi (0x[0-9a-f]+)", found)
        edge3.namespace.ip("xfrm", "state", "delete", *pair, "spi", spi)
        assert log.wait("tunnel is silent")["peer"] == "edge3"
        assert log.wait("tunnel is alive again")["peer"] == "edge3"
    wait_converged(fabric)
    assert fabric.ping(*PATHS["c2"]) == 0
    assert set(sas(edge2.charon)) == before, "its IKE_SA was all right"
