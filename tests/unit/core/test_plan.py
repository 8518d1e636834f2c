"""Ordered actions, each with its disruption and its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabricd.core.action import Action, Disruption, Kind
from fabricd.core.desired import NOTHING, DesiredState, desired
from fabricd.core.ownership import NUMBER
from fabricd.core.plan import ORDER, REMOVALS, Planner, plan
from fabricd.core.plan_kernel import foreign_link
from fabricd.core.pods import Attachment, Pods, with_pods
from fabricd.core.state import (
    Child,
    ChildSa,
    Conn,
    Filter,
    IfAddress,
    IkeSa,
    IkeState,
    KernelState,
    Link,
    Route,
    RouteKind,
    Rule,
    Sysctl,
)
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Node, Prefix, Role

EDGE = Node("edge1", Role.EDGE, (Prefix("2.2.2.0/27"),), "CN=edge1", "10.20.8.4")
GATEWAY = Node("gw", Role.CLOUD, (Prefix("10.233.0.0/16"),), "CN=gw", "10.20.8.9")

AROUND = Surroundings(
    "edge1",
    (Prefix("2.0.0.0/8"),),
    "br-edge",
    identity=Identity(frozenset({"fabric-ca-1"}), "key1", "d"),
)

WANT = desired({"edge1": EDGE, "gw": GATEWAY}, {}, AROUND)
THERE = IkeState(
    authorities=WANT.authorities,
    keys=WANT.keys,
    conns=dict(WANT.conns),
)


def kernel(**changes: object) -> KernelState:
    """As desired, but for some objects: added, or with None taken away."""
    parts: dict[str, dict[object, object]] = {
        part: dict(getattr(WANT.kernel, part))
        for part in ("links", "addresses", "routes", "rules", "sysctls", "pods")
    }
    for part, change in changes.items():
        assert isinstance(change, dict)
        for key, value in change.items():
            parts[part].pop(key, None)
            if value is not None:
                parts[part][key] = value
    return KernelState(filter=WANT.kernel.filter, **parts)  # type: ignore[arg-type] # own fields


def short(actions: tuple[Action, ...]) -> list[str]:
    return [f"{action.kind.value} {action.target}" for action in actions]


def steps(state: KernelState, want: DesiredState = WANT, *, removals: bool = True) -> list[str]:
    return short(plan(want, state, None, removals=removals))


# ---------------------------------------------------------------- order


def test_everything_from_nothing_in_order() -> None:
    assert short(plan(WANT, KernelState(), IkeState())) == [
        "sysctl.set net/ipv4/ip_forward=1",
        "link.add br-edge",
        "link.add fabric0",
        "address.add 2.2.2.1/27 dev br-edge",
        "filter.set nftables table fabricd",
        "route.set unreachable 2.2.2.0/27 table 254 metric 10000",
        "route.set throw 2.2.2.0/27 table 198 metric 10000",
        "route.set 10.233.0.0/16 dev fabric0 src 2.2.2.1 table 198 metric 100",
        "route.set unreachable 10.233.0.0/16 table 198 metric 10000",
        "route.set unreachable 2.0.0.0/8 table 198 metric 10000",
        "rule.add 198: from all lookup 198 (IPv4)",
        "authority.load fabric-ca-1",
        "key.load key1",
        "conn.load fabric-gw",
        f"child.initiate fabric-gw 2.2.2.0/27-10.233.0.0/16-{WANT.conns['fabric-gw'].digest}",
    ]


def test_nothing_from_everything_in_the_reverse_order() -> None:
    sa = IkeSa(7, "fabric-gw", "ESTABLISHED", initiator=True)
    actions = plan(NOTHING, kernel(), replace(THERE, sas=(sa,)))
    assert short(actions) == [
        "conn.unload fabric-gw",
        "ike.terminate fabric-gw #7",
        "authority.unload fabric-ca-1",
        "rule.remove 198: from all lookup 198 (IPv4)",
        "route.remove unreachable 10.233.0.0/16 table 198 metric 10000",
        "route.remove unreachable 2.0.0.0/8 table 198 metric 10000",
        "route.remove 10.233.0.0/16 dev fabric0 src 2.2.2.1 table 198 metric 100",
        "route.remove throw 2.2.2.0/27 table 198 metric 10000",
        "route.remove unreachable 2.2.2.0/27 table 254 metric 10000",
        "address.remove 2.2.2.1/27 dev br-edge",
        "filter.remove nftables table fabricd",
        "link.remove br-edge",
        "link.remove fabric0",
    ]
    assert {action.kind for action in actions} <= REMOVALS


def test_new_before_old() -> None:
    """Another subnet: the old address goes last, when no route has it as its source."""
    other = replace(EDGE, subnets=(Prefix("2.2.2.32/27"),))
    want = desired({"edge1": other, "gw": GATEWAY}, {}, AROUND)
    assert steps(kernel(), want) == [
        "address.add 2.2.2.33/27 dev br-edge",
        "filter.set nftables table fabricd",
        "route.set unreachable 2.2.2.32/27 table 254 metric 10000",
        "route.set throw 2.2.2.32/27 table 198 metric 10000",
        "route.set 10.233.0.0/16 dev fabric0 src 2.2.2.33 table 198 metric 100",
        "route.remove throw 2.2.2.0/27 table 198 metric 10000",
        "route.remove unreachable 2.2.2.0/27 table 254 metric 10000",
        "address.remove 2.2.2.1/27 dev br-edge",
    ]


def test_the_order_names_every_kind_once() -> None:
    assert sorted(ORDER) == sorted(Kind)


def test_what_is_right_is_left_alone() -> None:
    assert steps(kernel()) == []
    assert {a.kind for a in plan(WANT, kernel(), THERE)} == {Kind.CHILD_INITIATE}


def test_a_part_that_could_not_be_observed_is_left_alone() -> None:
    assert plan(WANT, None, None) == ()
    kinds = {action.kind.drift for action in plan(WANT, None, IkeState())}
    assert kinds == {"authority", "key", "conn", "child"}
    blind = desired({"edge1": EDGE, "gw": GATEWAY}, {}, replace(AROUND, identity=None))
    assert plan(blind, None, THERE) == (), "no credentials: charon stays as it is"


# ---------------------------------------------------------------- removals wait for the source


def test_removals_are_gated() -> None:
    sa = IkeSa(7, "fabric-gone", "ESTABLISHED", initiator=True)
    stray = Route(198, Prefix("7.7.7.0/24"), RouteKind.UNREACHABLE, metric=5)
    ike = replace(
        THERE,
        authorities=frozenset({"fabric-ca-old"}),
        conns={"fabric-gone": Conn("fabric-gone", "x", frozenset())},
        sas=(sa,),
    )
    state = kernel(routes={(198, "7.7.7.0/24", 5): stray}, links={"br-edge": None})
    assert short(plan(WANT, state, ike, removals=False)) == [
        "link.add br-edge",
        "authority.load fabric-ca-1",
        "conn.load fabric-gw",
        f"child.initiate fabric-gw 2.2.2.0/27-10.233.0.0/16-{WANT.conns['fabric-gw'].digest}",
    ]
    gated = set(plan(WANT, state, ike)) - set(plan(WANT, state, ike, removals=False))
    assert {action.kind.value for action in gated} == {
        "conn.unload",
        "ike.terminate",
        "authority.unload",
        "route.remove",
    }


# ---------------------------------------------------------------- kernel objects, one by one


def test_a_link_that_is_down() -> None:
    down = Link("fabric0", "bridge", up=False, alias="fabricd")
    assert steps(kernel(links={"fabric0": down})) == ["link.set fabric0 up"]


def test_a_foreign_link_in_the_place_of_ours_is_used_and_not_changed() -> None:
    theirs = Link("br-edge", "bridge", up=False, alias="somebody")
    state = kernel(links={"br-edge": theirs}, addresses={("br-edge", "2.2.2.1/27"): None})
    assert steps(state) == ["address.add 2.2.2.1/27 dev br-edge"]
    assert foreign_link(WANT, state) == (theirs,)
    assert foreign_link(WANT, kernel()) == ()


def test_a_link_of_ours_of_another_kind_makes_room() -> None:
    veth = Link("fabric0", "veth", up=True, alias="fabricd")
    assert steps(kernel(links={"fabric0": veth})) == ["link.remove fabric0"]


def test_links_by_their_alias() -> None:
    ours = Link("old0", "bridge", up=True, alias="fabricd")
    theirs = Link("docker0", "bridge", up=True, alias="fabricd2")
    (action,) = plan(WANT, kernel(links={"old0": ours, "docker0": theirs}), None)
    assert (action.kind, action.target, action.disruption) == (
        Kind.LINK_REMOVE,
        "old0",
        Disruption.DROP,
    )


def test_the_bridge_of_a_node_without_a_record_stays_with_its_addresses() -> None:
    nobody = desired({"gw": GATEWAY}, {}, AROUND)
    removed = [step for step in steps(kernel(), nobody) if "br-edge" in step]
    assert removed == []
    purged = [step for step in steps(kernel(), NOTHING) if "br-edge" in step]
    assert purged == ["address.remove 2.2.2.1/27 dev br-edge", "link.remove br-edge"]


@pytest.mark.parametrize(
    ("address", "removed"),
    [
        (IfAddress("br-edge", "2.2.9.1/27", NUMBER), True),
        (IfAddress("eth0", "2.2.9.1/27", NUMBER), True),
        (IfAddress("br-edge", "2.2.9.1/27"), False),  # an operator's
        (IfAddress("eth0", "10.20.8.4/24"), False),
        (IfAddress("br-edge", "fe80::1/64"), False),  # the kernel's
        (IfAddress("br-edge", "fe80::1/64", NUMBER), True),
    ],
)
def test_addresses_by_their_protocol(address: IfAddress, removed: bool) -> None:
    key = (address.link, address.address)
    wanted = [f"address.remove {address.address} dev {address.link}"] if removed else []
    assert steps(kernel(addresses={key: address})) == wanted


def test_somebody_elses_address_serves_as_well() -> None:
    theirs = IfAddress("br-edge", "2.2.2.1/27")
    assert steps(kernel(addresses={("br-edge", "2.2.2.1/27"): theirs})) == []
    assert "address" not in " ".join(
        steps(kernel(addresses={("br-edge", "2.2.2.1/27"): theirs}), NOTHING)
    )


def test_a_route_that_differs_is_replaced() -> None:
    key = (198, "10.233.0.0/16", 100)
    other = Route(198, Prefix("10.233.0.0/16"), link="ipsec0", metric=100)
    (action,) = plan(WANT, kernel(routes={key: other}), None)
    assert action.kind is Kind.ROUTE_SET
    assert action.item == WANT.kernel.routes[key]
    assert action.disruption is Disruption.NONE
    assert "found 10.233.0.0/16 dev ipsec0 table 198 metric 100" in action.reason


def test_a_route_that_goes_drops_traffic_if_it_carried_any() -> None:
    stray = [
        Route(198, Prefix("7.7.7.0/24"), link="fabric0", metric=100),
        Route(198, Prefix("7.7.8.0/24"), RouteKind.UNREACHABLE, metric=100),
    ]
    actions = plan(WANT, kernel(routes={r.key: r for r in stray}), None)
    assert {action.target: action.disruption for action in actions} == {
        "7.7.7.0/24 dev fabric0 table 198 metric 100": Disruption.DROP,
        "unreachable 7.7.8.0/24 table 198 metric 100": Disruption.NONE,
    }


def test_rules() -> None:
    assert steps(kernel(rules={(4, 198): None})) == ["rule.add 198: from all lookup 198 (IPv4)"]
    assert steps(kernel(rules={(6, 198): Rule(6, 198, 198)})) == [
        "rule.remove 198: from all lookup 198 (IPv6)"
    ]
    assert steps(kernel(rules={(4, 198): Rule(4, 198, 77)})) == [
        "rule.add 198: from all lookup 198 (IPv4)"
    ]


@pytest.mark.parametrize("found", [None, Sysctl("net/ipv4/ip_forward", "0")])
def test_sysctls(found: Sysctl | None) -> None:
    state = kernel(sysctls={"net/ipv4/ip_forward": found})
    assert steps(state) == ["sysctl.set net/ipv4/ip_forward=1"]
    assert steps(kernel(), NOTHING)[0].startswith("rule.remove"), "a switch is never put back"


# ---------------------------------------------------------------- charon, but for SAs


def ike_steps(state: IkeState) -> list[str]:
    steps = [a for a in plan(WANT, None, state) if a.kind is not Kind.CHILD_INITIATE]
    return [f"{a.kind.value} {a.target} ({a.disruption}): {a.reason}" for a in steps]


def test_connections_differ_by_digest_and_children() -> None:
    right = WANT.conns["fabric-gw"]
    more = right.children | {Child(Prefix("2.2.2.0/27"), Prefix("7.7.7.0/24"))}
    for other, why in (
        (replace(right, children=more), "its children differ"),
        (replace(right, digest="old"), "it is set up otherwise"),
        (replace(right, digest=""), "it is set up otherwise"),
    ):
        assert ike_steps(replace(THERE, conns={"fabric-gw": other})) == [
            f"conn.load fabric-gw (none): the records ask for it, {why}"
        ]
    seen = replace(right, remote_id="CN=gw (in charon's words)", remote_addrs=("10.20.8.9/32",))
    assert ike_steps(replace(THERE, conns={"fabric-gw": seen})) == []


def test_foreign_things_in_charon_are_invisible() -> None:
    state = replace(
        THERE,
        authorities=THERE.authorities | {"office-ca"},
        keys=THERE.keys | {"office-key"},
        conns={**THERE.conns, "office": Conn("office", "x", frozenset())},
        sas=(IkeSa(1, "office", "ESTABLISHED", initiator=True),),
    )
    assert ike_steps(state) == []
    assert not [s for s in short(plan(NOTHING, None, state)) if "office" in s]


# ---------------------------------------------------------------- trust


def test_a_revocation_list_is_loaded_when_charon_has_none_or_an_older_one() -> None:
    identity = replace(AROUND.identity or Identity(frozenset(), "", ""), crls=(("CN=Root", 4),))
    want = desired({"edge1": EDGE, "gw": GATEWAY}, {}, replace(AROUND, identity=identity))
    ike = replace(THERE, conns=dict(want.conns))
    for numbers, expected in (
        ({}, "revocation list number 4, charon has none"),
        ({"CN=Root": 3}, "revocation list number 4, charon has number 3"),
        ({"CN=Root": 4}, None),
        ({"CN=Root": 5, "CN=Other": 1}, None),
    ):
        actions = plan(want, None, replace(ike, crls=numbers))
        found = [action.reason for action in actions if action.kind is Kind.CRL_LOAD]
        assert found == ([expected] if expected else [])
    assert ORDER.index(Kind.CRL_LOAD) < ORDER.index(Kind.CONN_LOAD), "before anybody comes in"


def test_a_key_that_was_retired_goes_after_the_connections_have_the_new_one() -> None:
    identity = replace(AROUND.identity or Identity(frozenset(), "", ""), retired=frozenset({"old"}))
    want = desired({"edge1": EDGE, "gw": GATEWAY}, {}, replace(AROUND, identity=identity))
    ike = replace(THERE, keys=frozenset({"key1", "old", "somebody's"}), conns={})
    steps = short(plan(want, None, ike))
    assert [step for step in steps if step.startswith("key.")] == ["key.unload old"]
    assert steps.index("key.unload old") > steps.index("conn.load fabric-gw")
    assert "key.unload old" not in short(plan(want, None, ike, removals=False))


def test_a_peer_that_is_no_longer_trusted_is_cut_off_whatever_the_store_does() -> None:
    [tunnel] = WANT.tunnels["fabric-gw"]
    pair = Child(EDGE.subnets[0], GATEWAY.subnets[0])
    child = ChildSa(8, tunnel.child, "INSTALLED", frozenset({pair.local}), frozenset({pair.remote}))
    sas = tuple(
        IkeSa(number, "fabric-gw", "ESTABLISHED", initiator=True, children=(child,))
        for number in (7, 9)
    )
    ike = replace(THERE, sas=sas[:1])
    assert plan(WANT, None, ike) == ()
    for removals in (True, False):
        actions = Planner().plan(
            WANT, None, ike, removals=removals, distrusted={7: "it was revoked"}
        )
        assert [(a.name, a.disruption, a.reason) for a in actions if a.item == sas[0]] == [
            ("ike.terminate fabric-gw #7", Disruption.DROP, "it was revoked")
        ]
        # It is asked for again at once: with another certificate it may come in.
        assert f"child.initiate fabric-gw {tunnel.child}" in short(actions)
    both = Planner().plan(WANT, None, replace(THERE, sas=sas), distrusted={9: "it was revoked"})
    assert short(both) == ["ike.terminate fabric-gw #9"]


# ---------------------------------------------------------------- pods


ATTACHED = Pods((Attachment("pod1", "/run/netns/1", "eth0", ("2.2.2.2/27",)),))
PODDED = with_pods(WANT, ATTACHED, "br-edge")
POD = PODDED.kernel.pods["pod1"]
PORT = Link(POD.port, "veth", up=True, alias="fabricd", mtu=POD.mtu)


def test_a_pod_is_set_behind_the_bridge_and_its_addresses() -> None:
    assert steps(kernel(), PODDED) == ["pod.set pod1"]
    everything = steps(KernelState(), PODDED)
    assert everything.index("address.add 2.2.2.1/27 dev br-edge") < everything.index("pod.set pod1")
    [action] = plan(PODDED, kernel(), None)
    assert (action.item, action.disruption) == (POD, Disruption.NONE)
    assert action.reason == "it is attached, it is missing"


def test_a_pod_that_is_right_is_left_alone_and_one_that_is_not_is_put_right() -> None:
    right = kernel(links={PORT.name: PORT}, pods={"pod1": POD})
    assert steps(right, PODDED) == []
    wrong = kernel(links={PORT.name: PORT}, pods={"pod1": replace(POD, bridge="", mtu=1500)})
    [action] = plan(PODDED, wrong, None)
    assert action.name == "pod.set pod1"
    assert action.reason == (
        f"it is attached, it is off the bridge br-edge, its MTU is 1500, not {POD.mtu}"
    )


def test_a_pod_whose_namespace_is_gone_is_not_set() -> None:
    assert steps(replace(kernel(), departed=frozenset({"pod1"})), PODDED) == []


@pytest.mark.parametrize("removals", [True, False])
def test_a_port_without_a_pod_goes_whatever_the_store_does(removals: bool) -> None:
    state = kernel(links={PORT.name: PORT})
    [action] = plan(WANT, state, None, removals=removals)
    assert action.name == f"link.remove {PORT.name}"
    assert (action.reason, action.disruption) == ("no pod is attached by it", Disruption.DROP)


def test_no_port_goes_while_not_all_pods_are_known() -> None:
    unsure = with_pods(WANT, Pods(all_known=False), "br-edge")
    assert steps(kernel(links={PORT.name: PORT}), unsure) == []
    one = with_pods(WANT, Pods(leaving=frozenset({"pod1"}), all_known=False), "br-edge")
    other = replace(PORT, name="pod0")
    state = kernel(links={PORT.name: PORT, "pod0": other})
    assert steps(state, one) == [f"link.remove {PORT.name}"], "that one is known"


def test_links_that_only_look_like_ports_stay() -> None:
    foreign = replace(PORT, alias="")
    assert steps(kernel(links={PORT.name: foreign})) == []


def test_nothing_of_a_pod_is_left_of_a_purge() -> None:
    state = kernel(links={PORT.name: PORT}, pods={"pod1": POD})
    assert f"link.remove {PORT.name}" in steps(state, NOTHING)


# ---------------------------------------------------------------- the table of nftables


def filtered(found: Filter | None, fault: str = "", want: DesiredState = WANT) -> list[str]:
    state = replace(kernel(), filter=found, filter_fault=fault)
    return [a.reason for a in plan(want, state, None) if a.kind.drift == "filter"]


def test_the_table_is_loaded_when_it_is_not_as_it_should_be() -> None:
    assert WANT.kernel.filter is not None
    right = WANT.kernel.filter
    assert filtered(right) == []
    assert filtered(None) == ["the records ask for it, it is missing"]
    assert filtered(replace(right, inside=())) == [
        "the records ask for it, other prefixes are in it"
    ]
    assert filtered(replace(right, intact=False)) == [
        "the records ask for it, its rules are not those"
    ]


def test_a_table_that_cannot_be_seen_is_left_alone() -> None:
    assert filtered(None, "there is no nft: install the package nftables") == []


def test_the_table_stays_as_long_as_pods_hang_on_the_bridge() -> None:
    gone = desired({"gw": GATEWAY}, {}, AROUND)
    assert gone.kernel.filter is None
    assert filtered(WANT.kernel.filter, want=gone) == []
    assert filtered(WANT.kernel.filter, want=NOTHING) == ["no record asks for it"]
