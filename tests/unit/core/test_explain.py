"""Why two pods can or cannot talk, from facts alone: which hop is named, and in what words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fabricd.core.desired import desired
from fabricd.core.events import Listed, Put
from fabricd.core.explain import Explanation, explain
from fabricd.core.facts import (
    Echo,
    Facts,
    Here,
    Lookup,
    NodeView,
    Obstacle,
    PeerView,
    Policy,
    Records,
)
from fabricd.core.hop import Hop, Verdict
from fabricd.core.rib import Rib
from fabricd.core.state import Child, ChildSa, Conn, IkeSa, IkeState, KernelState, Link
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Address, Prefix

P2, P3, CLOUD_POD = Address("2.2.2.2"), Address("2.2.2.34"), Address("10.233.96.2")
PAIR = Child(Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27"))

EDGE2 = '{"endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"}'
EDGE3 = '{"endpoint": "10.20.8.12", "subnets": ["2.2.2.32/27"], "community": "app1"}'
GATEWAY = '{"role": "cloud", "endpoint": "10.20.8.141", "subnets": ["10.233.0.0/16"]}'
FABRIC = {"edge2": EDGE2, "edge3": EDGE3, "node1": GATEWAY}


def records(nodes: dict[str, str] = FABRIC, **communities: str) -> Records:
    """What the store has."""
    puts = [
        Put(f"nodes/{name}", value.encode(), i) for i, (name, value) in enumerate(nodes.items())
    ]
    puts += [Put(f"communities/{name}", value.encode()) for name, value in communities.items()]
    rib = Rib("CN={name}")
    rib.apply(Listed(tuple(puts)), 0)
    found = rib.in_force()
    return Records(found.nodes, found.communities, found.rejected)


def view(node: str, peer: str, **more: Any) -> NodeView:
    fields = {"up": True, "state": "up", **more}
    return NodeView(node, {peer: PeerView(peer, **fields)})


def at_edge2(found: Records | None = None) -> Facts:
    """Everything is well between edge2 and edge3, looked at on edge2."""
    found = found or records()
    around = Surroundings(
        "edge2",
        (Prefix("2.0.0.0/8"),),
        "br-edge",
        "fabric0",
        identity=Identity(frozenset(), "key", "digest"),
    )
    wanted = desired(found.nodes, found.communities, around)
    sa = ChildSa(
        1,
        "2.2.2.0/27-2.2.2.32/27-1",
        "INSTALLED",
        frozenset({PAIR.local}),
        frozenset({PAIR.remote}),
    )
    here = Here(
        local=P2,
        remote=P3,
        desired=wanted,
        kernel=wanted.kernel,
        ike=IkeState(
            conns={"fabric-edge3": Conn("fabric-edge3", "d", frozenset({PAIR}))},
            sas=(IkeSa(1, "fabric-edge3", "ESTABLISHED", True, "10.20.8.12", 5, (sa,)),),
        ),
        endpoint=Lookup("10.20.8.12", "eth0", source="10.20.8.4"),
        endpoint_echo=Echo(Address("10.20.8.12"), answered=True),
        out=Lookup("2.2.2.34 from 2.2.2.2 iif br-edge", "fabric0", "198"),
        delivery=Lookup("2.2.2.2 from 2.2.2.34 iif fabric0", "br-edge", "main"),
        policies=tuple(
            Policy(direction, "2.2.2.0/27 to 2.2.2.32/27", 9, template="10.20.8.4 to 10.20.8.12")
            for direction in ("out", "in", "fwd")
        ),
        local_echo=Echo(P2, answered=True),
        remote_echo=Echo(P3, answered=True, source="2.2.2.1"),
        peer_echo=Echo(Address("2.2.2.33"), answered=True),
        big_echo=Echo(P3, answered=True, size=1400),
    )
    return Facts(
        name="edge2",
        source=P2,
        destination=P3,
        records=found,
        daemon=view("edge2", "edge3"),
        published={"edge2": view("edge2", "edge3"), "edge3": view("edge3", "edge2")},
        here=here,
    )


def with_here(**changes: Any) -> Facts:
    facts = at_edge2()
    assert facts.here is not None
    return replace(facts, here=replace(facts.here, **changes))


def without_sa(**changes: Any) -> Facts:
    """The connection is loaded, and that is all."""
    loaded = {"fabric-edge3": Conn("fabric-edge3", "d", frozenset({PAIR}))}
    return replace(with_here(ike=IkeState(conns=loaded)), **changes)


def broken(facts: Facts) -> Hop:
    """The first broken hop."""
    found = explain(facts).broken
    assert found is not None
    return found


def hop(found: Explanation, name: str) -> Hop:
    [one] = [each for each in found.hops if each.name == name]
    return one


# ---------------------------------------------------------------- all is well


def test_every_hop_from_the_records_to_the_mtu() -> None:
    found = explain(at_edge2())
    assert found.can
    assert {each.verdict for each in found.hops} == {Verdict.OK}
    assert " ".join(each.name.replace(" ", "_") for each in found.hops) == (
        "records source destination peering node fabricd charon certificate underlay connection "
        "IKE_SA CHILD_SA rule route forwarding way_out delivery ESP packet_filter local_pod "
        "other_node probe MTU"
    )


def test_the_document_is_as_the_contract_says() -> None:
    document = explain(at_edge2()).document()
    assert document["can"] is True
    assert document["broken"] is None
    assert document["hops"][0] == {
        "name": "records",
        "ok": True,
        "verdict": "ok",
        "detail": "3 nodes in force, read from the store",
        "do": "",
    }
    document = explain(with_here(ike=None, ike_fault="gone")).document()
    assert (document["can"], document["broken"], document["detail"]) == (False, "charon", "gone")


def test_both_ends_name_the_same_hops() -> None:
    facts = at_edge2()
    turned = replace(facts, source=P3, destination=P2)
    assert [each.name for each in explain(turned).hops] == [e.name for e in explain(facts).hops]
    assert explain(turned).can


# ---------------------------------------------------------------- records


def elsewhere(source: Address, destination: Address, found: Records, **more: Any) -> Facts:
    """Asked on a node that is none of the two."""
    return Facts("edge9", source, destination, found, **more)


def test_nobodys_address() -> None:
    found = broken(elsewhere(P2, Address("2.2.9.9"), records()))
    assert (found.name, found.detail) == ("destination", "no record claims 2.2.9.9")
    assert broken(elsewhere(Address("2.2.9.9"), P2, records())).name == "source"


def test_an_endpoint_is_no_pod() -> None:
    found = broken(elsewhere(P2, Address("10.20.8.12"), records()))
    assert "endpoint of edge3" in found.detail


def test_the_record_that_would_claim_it_is_rejected() -> None:
    bad = EDGE3.replace("2.2.2.32/27", "2.2.2.33/27")
    known = records({**FABRIC, "edge3": bad})
    found = broken(elsewhere(P2, P3, replace(known, claims={"nodes/edge3": ("2.2.2.32/27",)})))
    assert "would be behind edge3, but its record is rejected" in found.detail
    assert "host bits" in found.detail
    assert found.do == "mend the record /fabric/nodes/edge3"
    # Without a way to read its claims, it is at least mentioned.
    assert "may be meant to: nodes/edge3" in broken(elsewhere(P2, P3, known)).detail


def test_no_records_at_all() -> None:
    found = explain(elsewhere(P2, P3, Records(fault="no answer")))
    assert [each.name for each in found.hops] == ["records"]
    assert not found.can


def test_records_of_the_snapshot_are_a_warning() -> None:
    facts = at_edge2()
    found = explain(replace(facts, records=replace(facts.records, fault="no answer")))
    assert found.can
    assert hop(found, "records").verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("edge3", "communities", "says"),
    [
        ("", {}, "edge2 is in app1; edge3 is in no community"),
        ("app2", {}, "edge2 is in app1; edge3 is in app2"),
        ("app2", {"app1": '{"members": ["edge3", 7]}'}, "communities/app1: members"),
    ],
)
def test_no_community_in_common(edge3: str, communities: dict[str, str], says: str) -> None:
    nodes = {**FABRIC, "edge3": EDGE3.replace("app1", edge3)}
    found = broken(elsewhere(P2, P3, records(nodes, **communities)))
    assert found.name == "peering"
    assert says in found.detail
    assert "put both into one community, app1 say" in found.do


def test_neither_has_an_endpoint() -> None:
    nodes = {name: value.replace('"endpoint": ', '"note": ') for name, value in FABRIC.items()}
    found = broken(elsewhere(P2, P3, records(nodes)))
    assert found.name == "peering"
    assert "neither edge2 nor edge3 has an endpoint" in found.detail


def test_of_two_gateways_the_one_that_carries_the_edge_counts() -> None:
    second = (
        '{"role": "cloud", "endpoint": "10.20.8.142", "subnets": ["10.233.0.0/16"], "priority": 7}'
    )
    found = explain(elsewhere(P2, CLOUD_POD, records({**FABRIC, "node2": second})))
    assert hop(found, "destination").detail == (
        "10.233.96.2 is behind node1 (cloud, 10.233.0.0/16) and node2 (cloud, 10.233.0.0/16)"
    )
    assert "edge2 and node1 are an edge and a gateway" in hop(found, "peering").detail


def test_but_where_the_edge_has_gone_counts_more() -> None:
    second = GATEWAY.replace("141", "142").replace("}", ', "priority": 7}')
    both = records({**FABRIC, "node2": second})
    standby = PeerView("node1", up=True, state="standby")
    used = PeerView("node2", up=True, state="up")
    said = {"edge2": NodeView("edge2", {"node1": standby, "node2": used})}
    for ends in ((P2, CLOUD_POD), (CLOUD_POD, P2)):
        found = explain(elsewhere(*ends, both, published=said))
        assert "node2" in hop(found, "peering").detail
        lost = replace(used, up=False, state="connecting")
        away = {"edge2": NodeView("edge2", {"node1": standby, "node2": lost})}
        found = explain(elsewhere(*ends, both, published=away))
        assert "node1" in hop(found, "peering").detail


def test_within_the_cluster_nobody_knows() -> None:
    found = explain(elsewhere(CLOUD_POD, Address("10.233.90.3"), records()))
    assert not found.can
    assert found.document()["hops"][-1]["ok"] is None


# ---------------------------------------------------------------- asked elsewhere


def test_a_third_node_has_what_the_two_publish() -> None:
    published = {"edge2": view("edge2", "edge3"), "edge3": view("edge3", "edge2")}
    found = explain(elsewhere(P2, P3, records(), published=published))
    assert found.can
    assert hop(found, "node").do == "run fabricctl why 2.2.2.2 2.2.2.34 on edge2 or edge3"

    gone = broken(elsewhere(P2, P3, records(), published={"edge2": published["edge2"]}))
    assert (gone.name, "publishes no status" in gone.detail) == ("status of edge3", True)
    down = view("edge3", "edge2", up=False, state="waiting", reason="edge2 has to initiate")
    found = explain(elsewhere(P2, P3, records(), published={**published, "edge3": down}))
    assert found.broken is not None
    assert found.broken.detail == "edge3: tunnel to edge2 waiting: edge2 has to initiate"
    unread = elsewhere(P2, P3, records(), published_fault="the store does not answer")
    assert broken(unread).name == "status of edge2"


def test_two_pods_of_one_node() -> None:
    other = Address("2.2.2.3")
    assert "only edge2 can tell more" in broken(elsewhere(P2, other, records())).detail
    facts = with_here(remote=other, remote_echo=Echo(other, answered=False))
    found = broken(replace(facts, destination=other))
    assert (found.name, found.detail) == ("probe", "2.2.2.3 does not answer to ICMP echo")


# ---------------------------------------------------------------- daemons and charon


def test_a_dead_fabricd_stops_nothing_but_is_told() -> None:
    facts = replace(at_edge2(), daemon=None, daemon_fault="fabricd is not running here")
    found = explain(facts)
    assert found.can
    assert hop(found, "fabricd").verdict is Verdict.WARNING

    assert facts.here is not None
    bare = replace(facts, here=replace(facts.here, kernel=KernelState()))
    assert broken(bare).do == "start fabricd, which puts it back: systemctl start fabricd"


def test_no_connection() -> None:
    assert broken(with_here(ike=IkeState())).detail == "charon: fabric-edge3 is not loaded"
    here = at_edge2().here
    assert here is not None
    assert here.ike is not None
    found = explain(with_here(ike=replace(here.ike, conns={})))
    assert found.can, "its SAs live"
    assert hop(found, "connection").verdict is Verdict.WARNING


def test_no_ike_sa_and_who_says_what_about_it() -> None:
    down = view("edge2", "edge3", up=False, state="connecting", last_error="AUTHENTICATION_FAILED")
    theirs = view("edge3", "edge2", up=False, state="waiting", reason="1 of 1 CHILD_SAs missing")
    found = broken(without_sa(daemon=down, published={"edge3": theirs}))
    assert found.name == "IKE_SA"
    assert "there is none; fabricd says: AUTHENTICATION_FAILED; edge3 says: 1 of 1" in found.detail
    found = broken(without_sa(published={}))
    assert "edge3 publishes no status" in found.detail
    assert found.do == "look at edge3: systemctl status fabricd strongswan"


def test_no_child_sa_and_a_narrowed_one() -> None:
    alone = IkeSa(1, "fabric-edge3", "ESTABLISHED", True, "10.20.8.12", 5)
    loaded = {"fabric-edge3": Conn("fabric-edge3", "d", frozenset({PAIR}))}
    found = broken(with_here(ike=IkeState(conns=loaded, sas=(alone,))))
    assert (found.name, "there is none" in found.detail) == ("CHILD_SA", True)
    narrow = ChildSa(
        2,
        "2.2.2.0/27-2.2.2.32/27-1",
        "INSTALLED",
        frozenset({"2.2.2.0/27"}),
        frozenset({"2.2.2.32/28"}),
    )
    sas = (replace(alone, children=(narrow,)),)
    found = broken(with_here(ike=IkeState(conns=loaded, sas=sas)))
    assert "narrowed to 2.2.2.0/27 === 2.2.2.32/28" in found.detail


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"not_after": 99.0}, "edge3's certificate has expired"),
        ({"blocks": ("2.2.2.32/28",)}, "is for 2.2.2.32/28, not for 2.2.2.32/27"),
        ({"blocks": ()}, "is for no addresses at all"),
        ({"blocks": ("2.2.2.40-2.2.2.70",)}, "is for 2.2.2.40-2.2.2.70"),
    ],
)
def test_a_certificate_that_does_not_do(seen: dict[str, Any], says: str) -> None:
    facts = without_sa(daemon=view("edge2", "edge3", **seen), now=100.0)
    found = broken(facts)
    assert found.name == "certificate"
    assert says in found.detail


@pytest.mark.parametrize(
    "blocks", [("2.2.2.32/27",), ("::/0", "2.2.2.0/24"), ("2.2.2.8-2.2.2.63",)]
)
def test_a_certificate_that_does(blocks: tuple[str, ...]) -> None:
    facts = replace(
        at_edge2(), daemon=view("edge2", "edge3", blocks=blocks, not_after=101.0), now=100
    )
    assert hop(explain(facts), "certificate").verdict is Verdict.OK


def test_own_credentials_matter_as_long_as_there_is_no_sa() -> None:
    faults = ("node.key: No such file or directory",)
    assert explain(with_here(credential_faults=faults)).can
    facts = without_sa()
    assert facts.here is not None
    found = broken(replace(facts, here=replace(facts.here, credential_faults=faults)))
    assert (found.name, faults[0] in found.detail) == ("certificate", True)


def test_the_underlay() -> None:
    lost = Lookup("10.20.8.12", refused="no route (Network is unreachable)")
    assert broken(with_here(endpoint=lost)).name == "underlay"
    drop = Obstacle(
        "IKE (UDP 500) to 10.20.8.12", "nft table inet t: chain c", "drops", certain=True
    )
    assert hop(explain(with_here(ike_obstacles=(drop,))), "underlay").verdict is Verdict.WARNING
    facts = without_sa()
    assert facts.here is not None
    found = broken(replace(facts, here=replace(facts.here, ike_obstacles=(drop,))))
    assert found.detail == "nft table inet t: chain c drops IKE (UDP 500) to 10.20.8.12"


# ---------------------------------------------------------------- kernel


def kernel_without(part: str) -> KernelState:
    here = at_edge2().here
    assert here is not None
    assert here.kernel is not None
    empty: Any = {part: {}}
    return replace(here.kernel, **empty)


@pytest.mark.parametrize(
    ("part", "name", "says"),
    [
        ("rules", "rule", "the rule 198: from all lookup 198 is missing"),
        ("routes", "route", "2.2.2.32/27 dev fabric0 src 2.2.2.1 table 198 metric 100 is missing"),
        ("sysctls", "forwarding", "net/ipv4/ip_forward is missing"),
    ],
)
def test_what_the_kernel_lacks(part: str, name: str, says: str) -> None:
    found = broken(with_here(kernel=kernel_without(part)))
    assert found.name == name
    assert says in found.detail
    assert "fabricctl plan" in found.do


def test_the_door_of_a_gateway() -> None:
    around = Surroundings(
        "node1", (Prefix("2.0.0.0/8"),), "", "fabric0", local_addresses=(Address("10.233.96.1"),)
    )
    known = records()
    wanted = desired(known.nodes, known.communities, around)
    here = Here(local=CLOUD_POD, remote=P2, desired=wanted, kernel=wanted.kernel, ike=IkeState())
    found = explain(Facts("node1", P2, CLOUD_POD, known, here=here))
    shut = hop(found, "route")
    assert shut.verdict is Verdict.BROKEN
    assert "2.2.2.0/27 dev fabric0 src 10.233.96.1" in shut.detail
    [door] = wanted.doors[Prefix("2.2.2.0/27")]
    routes = {**wanted.kernel.routes, door.key: door}
    opened = replace(here, kernel=replace(wanted.kernel, routes=routes))
    assert hop(explain(Facts("node1", P2, CLOUD_POD, known, here=opened)), "route").verdict is (
        Verdict.OK
    )


def test_where_the_kernel_sends_it() -> None:
    refused = Lookup("2.2.2.34 from 2.2.2.2 iif br-edge", refused="blackhole (Invalid argument)")
    found = broken(with_here(out=refused))
    assert (found.name, "blackhole" in found.detail) == ("way out", True)
    found = broken(with_here(out=replace(refused, link="eth0", table="9", refused="")))
    assert (
        found.detail == "2.2.2.34 from 2.2.2.2 iif br-edge goes to eth0 by table 9, not to fabric0"
    )
    back = Lookup("2.2.2.2 from 2.2.2.34 iif fabric0", "fabric0", "198")
    assert broken(with_here(delivery=back)).detail.endswith("back into the tunnel")


def test_xfrm_policies() -> None:
    found = broken(with_here(policies=()))
    assert "no XFRM policy for 2.2.2.0/27 === 2.2.2.32/27 (out, in, fwd)" in found.detail
    block = Policy("fwd", "0.0.0.0/0 to 0.0.0.0/0", 1, block=True)
    here = at_edge2().here
    assert here is not None
    assert "blocks 0.0.0.0/0" in broken(with_here(policies=(*here.policies, block))).detail
    later = replace(block, priority=1000)
    assert explain(with_here(policies=(*here.policies, later))).can


def test_charons_tun_device() -> None:
    here = at_edge2().here
    assert here is not None
    assert here.ike is not None
    assert here.kernel is not None
    userspace = replace(here.ike, userspace_esp=True)
    assert "ipsec0 is missing" in broken(with_here(ike=userspace)).detail
    links = {"ipsec0": Link("ipsec0", "tun", up=False)}
    kernel = replace(here.kernel, links=links)
    assert "ipsec0 is down" in broken(with_here(ike=userspace, kernel=kernel)).detail


def test_a_rule_that_may_drop_is_a_warning_one_that_does_is_the_end() -> None:
    drop = Obstacle("2.2.2.2 to 2.2.2.34", "nft table ip t: chain c", "drops", certain=True)
    assert broken(with_here(obstacles=(drop,))).name == "packet filter"
    perhaps = replace(drop, certain=False)
    found = explain(with_here(obstacles=(perhaps,)))
    assert found.can
    assert hop(found, "packet filter").verdict is Verdict.WARNING
    snat = replace(drop, does="changes the source of")
    assert "no tunnel is for it" in broken(with_here(obstacles=(perhaps, snat))).detail
    assert (
        hop(explain(with_here(filter_fault="no nft")), "packet filter").verdict is Verdict.UNKNOWN
    )


# ---------------------------------------------------------------- the path


def test_nobody_answers_for_the_local_pod() -> None:
    silent = Echo(P2, answered=False)
    assert broken(with_here(local_echo=silent, neighbour="FAILED")).name == "local pod"
    found = explain(with_here(local_echo=silent, neighbour="REACHABLE"))
    assert found.can, "it may take no ICMP"


def test_no_answer_through_the_tunnel() -> None:
    silent = Echo(P3, answered=False, source="2.2.2.1")
    found = broken(with_here(remote_echo=silent))
    assert "edge3's own 2.2.2.33 does: the tunnel is well" in found.detail
    nobody = replace(silent, target=Address("2.2.2.33"))
    found = broken(with_here(remote_echo=silent, peer_echo=nobody))
    assert found.do == "run fabricctl why 2.2.2.2 2.2.2.34 on edge3"
    unsent = replace(silent, fault="EPERM")
    assert explain(with_here(remote_echo=unsent)).document()["hops"][-1]["ok"] is None


def test_the_other_nodes_word_counts_when_nothing_comes_back() -> None:
    down = view("edge3", "edge2", up=False, state="unknown", reason="charon does not answer")
    answered = replace(at_edge2(), published={"edge3": down})
    assert explain(answered).can, "it lags behind"
    silent = replace(with_here(remote_echo=Echo(P3, answered=False)), published={"edge3": down})
    assert broken(silent).name == "other node"


def test_large_packets() -> None:
    found = broken(with_here(big_echo=Echo(P3, answered=False, size=1400)))
    assert (found.name, "one of 1400 octets does not" in found.detail) == ("MTU", True)
