"""Nothing leaves in clear text: a packet to the fabric ends up in a tunnel or nowhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabricd.model import Prefix, Role, network
from tests.property.strategies import World, changes, worlds
from tests.property.world import Kernel, Machine

SAFE = {"fabric0", "ipsec0", "unreachable", "blackhole"}


def _own(world: World) -> tuple[Prefix, ...]:
    node = world.in_force.nodes.get(world.around.name)
    return node.subnets if node else ()


def _secret(world: World) -> list[Prefix]:
    """The fabric's networks and, except to another gateway, the gateways' subnets."""
    self = world.in_force.nodes.get(world.around.name)
    gateways = [
        subnet
        for node in world.in_force.nodes.values()
        if node.role is Role.CLOUD and not (self and self.role is Role.CLOUD)
        for subnet in node.subnets
    ]
    return [*world.around.networks, *gateways]


def _addresses(world: World, data: st.DataObject) -> list[str]:
    """Addresses at the edges and in the middle of all that is secret, but for the node's own."""
    own = [network(subnet) for subnet in _own(world)]
    secret = [network(subnet) for subnet in _secret(world)]
    corners = {
        net[index]
        for node in world.in_force.nodes.values()
        for net in map(network, node.subnets)
        for index in (0, -1)
    }
    corners |= {neighbour + step for neighbour in corners for step in (-1, 1)}
    for net in secret:
        offset = data.draw(st.integers(0, net.num_addresses - 1))
        corners |= {net[0], net[-1], net[offset]}
    return [
        str(address)
        for address in corners
        if any(address in net for net in secret) and not any(address in net for net in own)
    ]


def _leaks(kernel: Kernel, world: World, addresses: list[str]) -> set[tuple[str, str]]:
    ways = {(text, kernel.way(text, _own(world))) for text in addresses}
    return {(text, way) for text, way in ways if way not in SAFE}


@given(worlds, st.data())
def test_in_the_desired_state(world: World, data: st.DataObject) -> None:
    machine = Machine()
    machine.apply(machine.plan(machine.desire(world.in_force, world.around)))
    assert not _leaks(machine.kernel, world, _addresses(world, data))


@given(worlds)
def test_own_pods_are_reached_as_the_main_table_says(world: World) -> None:
    machine = Machine()
    machine.apply(machine.plan(machine.desire(world.in_force, world.around)))
    for subnet in _own(world):
        if any(network(other).overlaps(network(subnet)) for other in world.around.networks):
            assert machine.kernel.way(str(network(subnet)[-1]), _own(world)) == "pods"


@given(changes(), st.data())
def test_on_the_way_from_one_state_to_the_next(
    change: tuple[World, World], data: st.DataObject
) -> None:
    """What is refused or carried before and after is so between any two actions."""
    before, after = change
    machine = Machine()
    machine.settle(machine.desire(before.in_force, before.around))
    both = set(_addresses(before, data)) & set(_addresses(after, data))
    for action in machine.plan(machine.desire(after.in_force, after.around)):
        machine.apply([action])
        assert not _leaks(machine.kernel, after, sorted(both)), action
