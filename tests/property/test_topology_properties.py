"""Both ends of a peering compute the same from the same records."""

from __future__ import annotations

from hypothesis import given

from fabricd.core.index import Index
from fabricd.core.rib import InForce
from fabricd.core.state import Child
from fabricd.core.topology import peerings
from tests.property.strategies import in_force, record_sets

forces = record_sets(at_least=6).map(in_force)


def _mirrored(children: frozenset[Child]) -> frozenset[Child]:
    return frozenset(Child(child.remote, child.local) for child in children)


@given(forces)
def test_both_ends_agree(force: InForce) -> None:
    index = Index.of(force.nodes, force.communities)
    seen = {
        name: {p.peer.name: p for p in peerings(node, index)} for name, node in force.nodes.items()
    }
    for name, found in seen.items():
        for peer, here in found.items():
            there = seen[peer][name]
            assert here.initiate != there.initiate
            assert here.children == _mirrored(there.children)
            assert here.carried == _mirrored(there.carried)
            assert here.carried <= here.children
            assert here.obstacle == there.obstacle
            assert here.because == there.because
            assert here.standby == there.standby


@given(forces)
def test_each_edge_reaches_each_subnet_of_the_cloud_through_one_gateway(force: InForce) -> None:
    clouds = {n for node in force.nodes.values() if node.role == "cloud" for n in node.subnets}
    index = Index.of(force.nodes, force.communities)
    for edge in (node for node in force.nodes.values() if node.role == "edge"):
        found = peerings(edge, index)
        for subnet in clouds:
            for local in edge.subnets:
                through = [p for p in found if Child(local, subnet) in p.carried]
                assert len(through) == ((":" in local) == (":" in subnet))
