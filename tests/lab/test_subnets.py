"""A gateway with several subnets: services, pods, and one more that comes and goes in the midst of
traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.topology import SUBNETS
from tests.lab.observe import or_else, own_fabric, sas, wait_converged, wait_sas
from tests.lab.pings import pinging

EDGES: Final = ("edge2", "edge3")
SERVICE: Final = "10.233.0.10"
"""As kube-proxy has it: an address of the node."""
MORE: Final = "10.234.0.0/24"
IN_MORE: Final = "10.234.0.1"

GATEWAY: Final = SUBNETS.records["node1"]


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with own_fabric(SUBNETS) as whole:
        node1 = whole.nodes["node1"]
        # It is for all that will be: nobody has to authenticate anew.
        node1.install_credentials(whole.authority.issue("node1", [*GATEWAY["subnets"], MORE]))
        # charon's userspace ESP wants an address of the gateway in each of its subnets.
        node1.namespace.add_address("lo", f"{SERVICE}/32")
        node1.namespace.add_address("lo", f"{IN_MORE}/32")
        whole.start_services()
        for name, record in SUBNETS.records.items():
            whole.put_record(name, record)
        whole.start_daemons()
        wait_converged(whole)
        yield whole


def children(fabric: Fabric, edge: str) -> dict[str, list[str]]:
    """CHILD_SAs with the gateway, by IKE_SA."""
    return {sa: kids for sa, kids in sas(fabric.nodes[edge].charon).items() if "-node1 #" in sa}


def remotes(found: dict[str, list[str]]) -> list[str]:
    """The gateway's subnets, of SAs as `sas` shows them."""
    names = (kid for sa, kids in found.items() if "-node1 #" in sa for kid in kids)
    return sorted(name.split("-")[1] for name in names)


def reach(fabric: Fabric, edge: str, address: str) -> bool:
    return fabric.namespaces[f"pod-{edge}"].lost(address) == 0


@contextmanager
def every_ping_answered(fabric: Fabric) -> Iterator[None]:
    """One every 10 ms, along all connections of the edges."""
    paths = [path for path in PATHS if path != "c4"]
    with pinging(fabric, *paths, interval=0.01) as lost:
        yield
    assert lost == {path: [] for path in paths}


def test_each_subnet_has_a_child_of_one_connection(fabric: Fabric) -> None:
    for edge in EDGES:
        [(_, kids)] = children(fabric, edge).items()
        assert len(kids) == 2
        assert remotes(children(fabric, edge)) == sorted(GATEWAY["subnets"])
        assert reach(fabric, edge, SERVICE)
        assert (
            fabric.ping(f"pod-{edge}", "pod-node2") == fabric.ping("pod-node2", f"pod-{edge}") == 0
        )
        assert not reach(fabric, edge, IN_MORE)


def test_one_more_is_one_more_child_of_each_edge_and_no_ping_is_lost(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in EDGES}
    with or_else(lambda: fabric.put_record("node1", GATEWAY)), every_ping_answered(fabric):
        fabric.put_record("node1", {**GATEWAY, "subnets": [*GATEWAY["subnets"], MORE]})
        for edge, earlier in before.items():
            wait_sas(fabric, edge, f"has a child for {MORE}", lambda found: MORE in remotes(found))
            now = sas(fabric.nodes[edge].charon)
            assert now.keys() == earlier.keys()
            assert all(set(kids) <= set(now[sa]) for sa, kids in earlier.items())
            assert sum(map(len, now.values())) == sum(map(len, earlier.values())) + 1
        wait_converged(fabric)
        assert all(reach(fabric, edge, IN_MORE) for edge in EDGES)
        fabric.put_record("node1", GATEWAY)
        for edge, earlier in before.items():
            wait_sas(fabric, edge, "has the SAs that it had", earlier.__eq__)
        wait_converged(fabric)
    assert not any(reach(fabric, edge, IN_MORE) for edge in EDGES)
