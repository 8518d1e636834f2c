"""From records in force to one node's kernel and charon."""

from __future__ import annotations

from itertools import pairwise

from fabricd.core.action import Tunnel
from fabricd.core.connections import LIFE
from fabricd.core.desired import NOTHING, DesiredState, desired
from fabricd.core.events import Listed, Put
from fabricd.core.ownership import NUMBER
from fabricd.core.plan_kernel import describe_route
from fabricd.core.rib import Rib
from fabricd.core.state import IfAddress, KernelState, Link, Rule, Sysctl
from fabricd.core.surroundings import (
    Identity,
    Surroundings,
    connected,
    local_addresses,
    tunnel_link,
)
from fabricd.model import Address, Prefix

IDENTITY = Identity(frozenset({"fabric-ca-1"}), "key1", "digest1")

EDGE1 = b'{"subnets": ["2.2.2.0/27", "2.2.2.96/27"], "endpoint": "10.20.8.4", "community": "a"}'
EDGE2 = b'{"subnets": ["2.2.2.32/27"], "community": "a"}'
EDGE3 = b'{"subnets": ["2.2.2.64/27"], "endpoint": "10.20.8.6"}'
GATEWAY = b'{"role": "cloud", "subnets": ["10.233.0.0/16"], "endpoint": "gw.example.net"}'
SEED = {"edge1": EDGE1, "edge2": EDGE2, "edge3": EDGE3, "gw": GATEWAY}


def state_of(
    name: str,
    records: dict[str, bytes] = SEED,
    networks: tuple[str, ...] = ("2.0.0.0/8",),
    link: str | None = "fabric0",
    local: tuple[str, ...] = (),
    identity: Identity | None = IDENTITY,
    outside: tuple[str, ...] = (),
    hour: int = 0,
    doubted: tuple[tuple[str, str], ...] = (),
) -> DesiredState:
    rib = Rib("CN={name}")
    rib.apply(Listed(tuple(Put(f"nodes/{n}", value) for n, value in records.items())), 0)
    assert not rib.in_force().rejected
    around = Surroundings(
        name,
        tuple(map(Prefix, networks)),
        "br-edge",
        link,
        tuple(map(Address, local)),
        identity,
        tuple(map(Prefix, outside)),
        hour=hour,
        doubted=doubted,
    )
    return desired(rib.in_force().nodes, rib.in_force().communities, around)


def routes(state: DesiredState) -> set[str]:
    return {describe_route(route) for route in state.kernel.routes.values()}


def doors(state: DesiredState) -> set[str]:
    return {describe_route(route) for ways in state.doors.values() for route in ways}


# ---------------------------------------------------------------- an edge


def test_the_kernel_of_an_edge() -> None:
    state = state_of("edge1")
    assert state.kernel.links == {
        "fabric0": Link("fabric0", "bridge", up=True, alias="fabricd"),
        "br-edge": Link("br-edge", "bridge", up=True, alias="fabricd"),
    }
    assert set(state.kernel.addresses.values()) == {
        IfAddress("br-edge", "2.2.2.1/27", NUMBER),
        IfAddress("br-edge", "2.2.2.97/27", NUMBER),
    }
    assert routes(state) == {
        # Its own pods: as the main table says.
        "throw 2.2.2.0/27 table 198 metric 10000",
        "throw 2.2.2.96/27 table 198 metric 10000",
        # … and if that does not know them, not at all.
        "unreachable 2.2.2.0/27 table 254 metric 10000",
        "unreachable 2.2.2.96/27 table 254 metric 10000",
        # To peers: from an address that fits the traffic selectors.
        "2.2.2.32/27 dev fabric0 src 2.2.2.1 table 198 metric 100",
        "10.233.0.0/16 dev fabric0 src 2.2.2.1 table 198 metric 100",
        # Everything else of the fabric, and the gateway's subnets when its route is gone.
        "unreachable 2.0.0.0/8 table 198 metric 10000",
        "unreachable 10.233.0.0/16 table 198 metric 10000",
    }
    assert set(state.kernel.rules.values()) == {Rule(4, 198, 198)}
    assert set(state.kernel.sysctls.values()) == {Sysctl("net/ipv4/ip_forward", "1")}


def test_charon_of_an_edge() -> None:
    state = state_of("edge1")
    assert state.ike
    assert state.authorities == {"fabric-ca-1"}
    assert state.keys == {"key1"}
    assert list(state.conns) == ["fabric-edge2", "fabric-gw"]
    to_gateway = state.conns["fabric-gw"]
    assert (to_gateway.local_id, to_gateway.remote_id) == ("CN=edge1", "CN=gw")
    assert to_gateway.remote_addrs == ("gw.example.net",)
    digest = to_gateway.digest
    assert state.tunnels["fabric-gw"] == (
        Tunnel("fabric-gw", f"2.2.2.0/27-10.233.0.0/16-{digest}"),
        Tunnel("fabric-gw", f"2.2.2.96/27-10.233.0.0/16-{digest}"),
    )
    # edge2 has no endpoint: it comes from wherever it is, and initiates.
    assert state.conns["fabric-edge2"].remote_addrs == ("%any",)
    assert state.tunnels["fabric-edge2"] == ()


def test_a_peer_that_moves_changes_nothing_where_it_does_not_initiate() -> None:
    moved = SEED | {"edge1": EDGE1.replace(b"10.20.8.4", b"10.20.9.9")}
    assert state_of("gw", moved).conns == state_of("gw").conns
    digests = [state_of("edge2", r).conns["fabric-edge1"].digest for r in (SEED, moved)]
    assert digests[0] != digests[1]


def test_the_digest_covers_everything_but_the_children() -> None:
    digest = state_of("edge1").conns["fabric-gw"].digest
    more = SEED | {"gw": GATEWAY.replace(b'"10.233', b'"10.96.0.0/12", "10.233')}
    assert state_of("edge1", more).conns["fabric-gw"].digest == digest
    for other in (
        state_of("edge1", identity=Identity(frozenset({"fabric-ca-1"}), "key1", "digest2")),
        state_of("edge1", SEED | {"gw": GATEWAY[:-1] + b', "identity": "CN=door"}'}),
        state_of("edge1", SEED | {"edge1": EDGE1[:-1] + b', "identity": "CN=me"}'}),
        state_of("edge1", SEED | {"gw": GATEWAY.replace(b"gw.ex", b"gw2.ex")}),
    ):
        assert other.conns["fabric-gw"].digest != digest


def test_an_initiator_authenticates_anew_once_a_day_each_peer_at_its_hour() -> None:
    def digests(hour: int, conn: str = "fabric-gw", name: str = "edge1") -> str:
        return state_of(name, hour=hour).conns[conn].digest

    days = [digests(hour) for hour in range(3 * LIFE)]
    assert len(set(days)) == 4
    changes = [hour for hour in range(1, 3 * LIFE) if days[hour] != days[hour - 1]]
    assert len(changes) == 3
    assert all(later - one == LIFE for one, later in pairwise(changes))
    assert {digests(hour, "fabric-edge1", "gw") for hour in range(LIFE)} == {
        digests(0, "fabric-edge1", "gw")
    }, "who responds waits"


def test_an_initiator_asks_anew_who_showed_too_narrow_a_certificate() -> None:
    usual = state_of("edge1").conns
    asked = state_of("edge1", doubted=(("gw", "0a"),)).conns
    again = state_of("edge1", doubted=(("gw", "0b"),)).conns
    assert len({conns["fabric-gw"].digest for conns in (usual, asked, again)}) == 3
    assert asked["fabric-edge2"] == usual["fabric-edge2"]
    doubted = state_of("gw", doubted=(("edge1", "0a"),)).conns
    assert doubted == state_of("gw").conns, "who responds waits"


def test_without_a_common_family_there_is_no_connection() -> None:
    records = SEED | {"gw": GATEWAY.replace(b"10.233.0.0/16", b"fd00:c::/48")}
    state = state_of("edge3", records)
    assert state.conns == {}
    assert state.peerings[0].obstacle
    assert "unreachable fd00:c::/48 table 198 metric 10000" in routes(state)


def test_a_gateway_that_stands_by_gets_an_ike_sa_alone() -> None:
    records = SEED | {"gw2": GATEWAY[:-1] + b', "priority": 200}'}
    state = state_of("edge3", records)
    assert state.tunnels["fabric-gw"] == (Tunnel("fabric-gw", ""),)
    assert state.carried["fabric-gw"] == frozenset()
    assert state.conns["fabric-gw"].children == state.conns["fabric-gw2"].children
    (tunnel,) = state.tunnels["fabric-gw2"]
    assert tunnel.child.startswith("2.2.2.64/27-10.233.0.0/16-")


def test_ipv6_beside_ipv4() -> None:
    records = {
        "edge1": b'{"subnets": ["2.2.2.0/27", "fd00:2::/64"], "endpoint": "2001:db8::4"}',
        "gw": b'{"role": "cloud", "subnets": ["10.233.0.0/16", "fd00:c::/48"], "endpoint": "g"}',
    }
    state = state_of("edge1", records)
    assert ("br-edge", "fd00:2::1/64") in state.kernel.addresses
    assert routes(state) >= {
        "fd00:c::/48 dev fabric0 src fd00:2::1 table 198 metric 100",
        "unreachable fd00:c::/48 table 198 metric 10000",
        "throw fd00:2::/64 table 198 metric 10000",
    }
    assert set(state.kernel.rules) == {(4, 198), (6, 198)}
    assert set(state.kernel.sysctls) == {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}
    assert len(state.tunnels["fabric-gw"]) == 2


def test_small_subnets_have_a_first_host_too() -> None:
    records = {"edge1": b'{"subnets": ["2.2.2.4/31", "2.2.2.9/32", "fd00:2::2/127"]}'}
    assert {address for _, address in state_of("edge1", records).kernel.addresses} == {
        "2.2.2.4/31",
        "2.2.2.9/32",
        "fd00:2::2/127",
        "fe80::1/64",
    }


def test_a_bridge_has_a_link_local_address_of_its_own_where_pods_have_ipv6() -> None:
    both = {"edge1": b'{"subnets": ["2.2.2.0/27", "fd00:2::/64"]}'}
    item = state_of("edge1", both).kernel.addresses["br-edge", "fe80::1/64"]
    assert item.protocol == NUMBER
    four = {"edge1": b'{"subnets": ["2.2.2.0/27"]}'}
    assert {address for _, address in state_of("edge1", four).kernel.addresses} == {"2.2.2.1/27"}


def test_a_subnet_outside_of_the_networks_is_refused_by_itself() -> None:
    records = SEED | {"edge9": b'{"subnets": ["3.3.3.0/27"]}'}
    assert "unreachable 3.3.3.0/27 table 198 metric 10000" in routes(state_of("edge1", records))
    assert "throw 3.3.3.0/27 table 198 metric 10000" in routes(state_of("edge9", records))


def test_a_network_that_is_just_the_nodes_own_subnet() -> None:
    state = state_of("edge3", {"edge3": EDGE3}, networks=("2.2.2.64/27",))
    assert routes(state) == {
        "throw 2.2.2.64/27 table 198 metric 10000",
        "unreachable 2.2.2.64/27 table 254 metric 10000",
    }


def test_an_underlay_inside_a_network_of_the_fabric_stays_reachable() -> None:
    networks = ("2.0.0.0/8", "10.0.0.0/8")
    found = routes(state_of("edge1", networks=networks, outside=("10.20.9.0/24",)))
    assert "unreachable 10.0.0.0/8 table 198 metric 10000" in found
    assert "throw 10.20.9.0/24 table 198 metric 10000" in found
    assert "throw 10.20.8.6/32 table 198 metric 10000" in found


def test_no_record_opens_a_way_around_the_tunnels() -> None:
    rogue = SEED | {"rogue": b'{"subnets": ["2.9.8.0/27"], "endpoint": "2.9.9.9"}'}
    assert not any("2.9.9.9" in route for route in routes(state_of("edge1", rogue)))
    outside = routes(state_of("edge1", rogue, outside=("10.20.8.0/24",)))
    assert not any("2.9.9.9" in route for route in outside)


def test_what_the_node_is_connected_to_is_not_drawn_into_a_tunnel() -> None:
    rogue = SEED | {"rogue": b'{"role": "cloud", "subnets": ["10.20.0.0/16"]}'}
    rogue["rogue2"] = b'{"role": "cloud", "subnets": ["10.20.9.9/32"]}'
    records = {name: value for name, value in rogue.items() if name not in {"edge1", "edge3"}}
    records["edge1"] = b'{"subnets": ["2.2.2.0/27"]}'
    found = routes(state_of("edge1", records, outside=("10.20.8.0/24", "10.20.9.9/32")))
    assert "10.20.0.0/16 dev fabric0 src 2.2.2.1 table 198 metric 100" in found
    assert "throw 10.20.8.0/24 table 198 metric 10000" in found
    assert "throw 10.20.9.9/32 table 198 metric 10000" in found
    assert not any(route.startswith("10.20.9.9/32") for route in found)
    state = state_of("edge1", records, outside=("10.20.8.0/24", "10.20.9.9/32"))
    assert state.unroutable == (("rogue2", "10.20.9.9/32", "10.20.9.9/32"),)


def test_a_machine_of_the_cluster_without_a_record_keeps_its_pod_network() -> None:
    gone = {"gw": GATEWAY, "edge2": EDGE2}
    found = routes(state_of("gw2", gone, local=("10.233.64.1",)))
    assert found == {"unreachable 2.0.0.0/8 table 198 metric 10000"}
    elsewhere = routes(state_of("edge9", gone, local=("192.168.0.9",)))
    assert "unreachable 10.233.0.0/16 table 198 metric 10000" in elsewhere


def test_what_the_node_is_connected_to() -> None:
    addresses = [
        IfAddress("lo", "127.0.0.1/8"),
        IfAddress("eth0", "10.20.8.4/24"),
        IfAddress("eth0", "fe80::1/64"),
        IfAddress("eth0", "10.20.8.5/24", NUMBER),
        IfAddress("br-edge", "2.2.2.1/8"),
    ]
    state = KernelState(addresses={(item.link, item.address): item for item in addresses})
    assert connected(state, "br-edge") == ("10.20.8.0/24",)


def test_without_a_safe_link_there_is_no_way_to_peers() -> None:
    foreign = KernelState(links={"fabric0": Link("fabric0", "bridge", True, "theirs")})
    assert tunnel_link(foreign, False) is None
    found = routes(state_of("edge1", link=None))
    assert not any("dev" in route for route in found)
    assert "unreachable 10.233.0.0/16 table 198 metric 10000" in found


def test_charons_own_device_carries_the_tunnels_if_it_does_esp() -> None:
    assert "10.233.0.0/16 dev ipsec0 src 2.2.2.1 table 198 metric 100" in routes(
        state_of("edge1", link="ipsec0")
    )


def test_without_credentials_the_kernel_is_closed_and_charon_left_alone() -> None:
    state = state_of("edge1", identity=None)
    assert not state.ike
    assert not any([state.conns, state.tunnels, state.carried])
    assert state.kernel == state_of("edge1").kernel


# ---------------------------------------------------------------- a gateway


def test_the_kernel_of_a_gateway() -> None:
    state = state_of("gw", local=("10.20.8.9", "10.233.7.1", "fd00::1"))
    assert list(state.kernel.links) == ["fabric0"]
    assert state.kernel.addresses == {}
    assert routes(state) == {
        "unreachable 2.0.0.0/8 table 198 metric 10000",
        # Calico's BIRD learns it and announces it.
        "blackhole 2.0.0.0/8 table 254 metric 198",
    }
    assert state.kernel.rules == {
        (4, 197): Rule(4, 197, 254, Prefix("2.0.0.0/8"), 8),
        (4, 198): Rule(4, 198, 198),
    }
    assert doors(state) == {
        "2.2.2.0/27 dev fabric0 src 10.233.7.1 table 254 metric 16",
        "2.2.2.32/27 dev fabric0 src 10.233.7.1 table 254 metric 16",
        "2.2.2.64/27 dev fabric0 src 10.233.7.1 table 254 metric 16",
        "2.2.2.96/27 dev fabric0 src 10.233.7.1 table 254 metric 16",
    }


def test_a_gateway_without_an_address_in_its_subnets() -> None:
    assert "2.2.2.0/27 dev fabric0 table 254 metric 16" in doors(state_of("gw"))


def test_a_gateway_only_responds() -> None:
    state = state_of("gw")
    assert list(state.conns) == ["fabric-edge1", "fabric-edge2", "fabric-edge3"]
    assert all(conn.remote_addrs == ("%any",) for conn in state.conns.values())
    assert set(state.tunnels.values()) == {()}


def test_the_second_gateways_doors_are_halves_of_the_firsts() -> None:
    records = SEED | {"gw2": GATEWAY[:-1] + b', "priority": 200}'}
    first, second = state_of("gw2", records), state_of("gw", records)
    assert routes(second) == {
        "unreachable 2.0.0.0/8 table 198 metric 10000",
        "blackhole 2.0.0.0/8 table 254 metric 198",
    }
    assert "2.2.2.64/27 dev fabric0 table 254 metric 16" in doors(first)
    assert {"2.2.2.64/28 dev fabric0 table 254 metric 16"} < doors(second)
    assert {"2.2.2.80/28 dev fabric0 table 254 metric 16"} < doors(second)


def test_local_addresses_leaves_out_our_own() -> None:
    """A route must not take its source from an address that the same plan removes."""
    ours = [
        IfAddress("br-edge", "10.233.0.1/16", NUMBER),
        IfAddress("br-edge", "10.233.0.2/32"),
        IfAddress("eth0", "10.233.0.3/32", NUMBER),
    ]
    theirs = [IfAddress("cali0", "10.233.0.9/32"), IfAddress("eth0", "fd00::1/64")]
    state = KernelState(
        links={"br-edge": Link("br-edge", "bridge", up=True, alias="fabricd")},
        addresses={(a.link, a.address): a for a in ours + theirs},
    )
    assert local_addresses(state) == ("10.233.0.9", "fd00::1")


# ---------------------------------------------------------------- no record, nothing


def test_a_node_without_a_record_is_closed_and_keeps_its_bridge() -> None:
    state = state_of("stranger")
    assert state.node is None
    assert state.peerings == ()
    assert routes(state) == {
        "unreachable 2.0.0.0/8 table 198 metric 10000",
        "unreachable 10.233.0.0/16 table 198 metric 10000",
    }
    assert set(state.kernel.rules) == {(4, 198)}
    assert state.kept_links == {"br-edge"}
    assert not any([state.kernel.addresses, state.kernel.sysctls, state.conns])


def test_nothing_is_nothing() -> None:
    assert NOTHING.kernel == KernelState()
    assert not NOTHING.conns
    assert not NOTHING.kept_links
    assert NOTHING.ike


# ---------------------------------------------------------------- where tunnels lead


def test_the_tunnel_link() -> None:
    tun = KernelState(links={"ipsec0": Link("ipsec0", "tun", up=True)})
    other = KernelState(links={"ipsec0": Link("ipsec0", "dummy", up=True)})
    assert [tunnel_link(tun, esp) for esp in (True, None, False)] == ["ipsec0", "ipsec0", "fabric0"]
    assert tunnel_link(other, True) == "fabric0"
    assert tunnel_link(KernelState(), True) == "fabric0"
