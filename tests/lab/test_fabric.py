"""The whole fabric, real in every part, as its operator and its pods see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS, UNDERLAY
from tests.lab.observe import (
    SOON,
    get,
    ike,
    look_again,
    metrics,
    or_else,
    sas,
    session,
    status,
    wait_converged,
    wait_peers,
    wait_sas,
    wait_status,
)
from tests.lab.pings import no_ping_lost, ping_taken_over, pinging

PEERS = {
    "node1": {"edge2", "edge3"},
    "edge2": {"node1", "edge3"},
    "edge3": {"node1", "edge2"},
}

nodes = pytest.mark.parametrize("name", PEERS)


@pytest.mark.parametrize("path", PATHS)
def test_pods_talk_both_ways(fabric: Fabric, path: str) -> None:
    one, other = PATHS[path]
    assert fabric.ping(one, other) == 0
    assert fabric.ping(other, one) == 0


@nodes
def test_a_converged_node_has_nothing_to_do_and_says_so_everywhere(
    fabric: Fabric, name: str
) -> None:
    assert fabric.fabricctl(name, "plan") == "nothing to do\n"
    assert get(fabric, name, "/readyz") == (200, "ok\n")
    assert get(fabric, name, "/healthz") == (200, "ok\n")
    status = fabric.status(name)
    assert {peer["name"]: peer["state"] for peer in status["peers"]} == dict.fromkeys(
        PEERS[name], "up"
    )
    assert (status["node"], status["synced"]) == (name, True)
    assert (status["rejected"], status["warnings"], status["held"]) == ([], [], [])
    seen = metrics(fabric, name)
    assert {s: v for s, v in seen.items() if s.startswith("fabricd_tunnel_up")} == {
        f'fabricd_tunnel_up{{peer="{peer}"}}': 1.0 for peer in PEERS[name]
    }
    assert seen["fabricd_source_synced"] == 1
    assert seen['fabricd_records{kind="node"}'] == 3


@nodes
def test_its_status_stands_in_the_store_for_as_long_as_it_lives(fabric: Fabric, name: str) -> None:
    def published() -> dict[str, object]:
        answer = json.loads(fabric.etcd.ctl("get", f"/fabric/status/{name}", "-w", "json"))
        [found] = answer["kvs"]
        return dict(found)

    def peers() -> set[str]:
        status = json.loads(fabric.etcd.get(f"/fabric/status/{name}") or '{"peers": []}')
        return {peer["name"] for peer in status["peers"]}

    wait_until(lambda: peers() == PEERS[name], "it is published", SOON)
    lease = f"{published()['lease']:x}"
    assert "remaining" in fabric.etcd.ctl("lease", "timetolive", lease)


def take_from_edge3(fabric: Fabric) -> None:
    fabric.put_record("edge3", {**RECORDS["edge3"], "community": ""})


def give_to_edge3(fabric: Fabric) -> None:
    fabric.put_record("edge3", RECORDS["edge3"])


def take_the_record(fabric: Fabric) -> None:
    fabric.etcd.delete("/fabric/communities/app2")


def give_the_record(fabric: Fabric) -> None:
    fabric.etcd.put("/fabric/communities/app2", {"members": ["edge2", "edge3"]})


@pytest.fixture
def together_by_record(fabric: Fabric) -> Iterator[None]:
    """What edge2 and edge3 share is a community's record instead of a token in their own."""
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        give_the_record(fabric)
        for name in ("edge2", "edge3"):
            fabric.put_record(name, {**RECORDS[name], "community": ""})
        for name in ("edge2", "edge3"):
            wait_status(fabric, name, "shares app2 alone", lambda seen: shared(seen) == ["app2"])
    yield
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        for name in ("edge2", "edge3"):
            fabric.put_record(name, RECORDS[name])
        for name in ("edge2", "edge3"):
            wait_status(fabric, name, "shares app1", lambda seen: "app1" in shared(seen))
        take_the_record(fabric)
        wait_converged(fabric)


def mend(fabric: Fabric) -> None:
    """The records as they have to be."""
    for name, record in RECORDS.items():
        fabric.put_record(name, record)
    take_the_record(fabric)
    wait_converged(fabric)


def shared(status: dict[str, Any]) -> list[str]:
    """The communities because of which an edge has edges for peers."""
    return [c for peer in status["peers"] if peer["role"] == "edge" for c in peer["communities"]]


Change = Callable[[Fabric], None]


def lose_and_regain_c2(fabric: Fabric, take: Change, give: Change) -> None:
    with no_ping_lost(fabric, "c1", "c3"):
        one, other = PATHS["c2"]
        take(fabric)
        try:
            for edge, peer in (("edge2", "edge3"), ("edge3", "edge2")):
                wait_peers(fabric, edge, "node1")
                assert f"fabric-{peer}" not in ike(fabric.nodes[edge].charon)["conns"]
                assert not [sa for sa in sas(fabric.nodes[edge].charon) if peer in sa]
            assert fabric.ping(one, other, 1) == fabric.ping(other, one, 1) == 1
        finally:
            give(fabric)
        for name, peers in PEERS.items():
            wait_peers(fabric, name, *peers)
        assert fabric.ping(one, other) == fabric.ping(other, one) == 0


def test_a_community_taken_from_a_node_stops_their_connection_and_no_other(
    fabric: Fabric,
) -> None:
    lose_and_regain_c2(fabric, take_from_edge3, give_to_edge3)


def test_so_does_a_community_s_record(fabric: Fabric, together_by_record: None) -> None:
    lose_and_regain_c2(fabric, take_the_record, give_the_record)


def test_one_more_subnet_is_one_more_child_and_disturbs_no_other(fabric: Fabric) -> None:
    gateway = fabric.namespaces["node1"]
    # charon's userspace ESP wants an address of the gateway in each of its subnets.
    gateway.ip("address", "add", "10.234.0.1/24", "dev", "cni0")
    try:
        with or_else(lambda: mend(fabric)):
            one_more_subnet(fabric)
    finally:
        gateway.ip("address", "delete", "10.234.0.1/24", "dev", "cni0")
    wait_converged(fabric)


def one_more_subnet(fabric: Fabric) -> None:
    before = {edge: sas(fabric.nodes[edge].charon) for edge in ("edge2", "edge3")}
    more = [*RECORDS["node1"]["subnets"], "10.234.0.0/24"]

    def put(subnets: list[str]) -> None:
        fabric.put_record("node1", {**RECORDS["node1"], "subnets": subnets})
        for edge in before:
            wait_sas(
                fabric,
                edge,
                f"has {len(subnets)} CHILD_SAs with the gateway",
                lambda found: len(to_gateway(found)) == len(subnets),
            )

    with ping_taken_over(fabric, "c1", "c2", "c3"):
        # The edges ask for the new certificate when the record claims more than the old one.
        keys = ike(fabric.nodes["node1"].charon)["keys"]
        fabric.nodes["node1"].install_credentials(fabric.authority.issue("node1", more))
        wait_until(
            lambda: ike(fabric.nodes["node1"].charon)["keys"] != keys,
            "charon has the new private key",
            SOON,
        )
        put(more)
        wait_converged(fabric)
        assert fabric.ping("pod-edge2", "pod-node1") == 0
        assert fabric.namespaces["pod-edge2"].lost("10.234.0.1") == 0
    put(RECORDS["node1"]["subnets"])
    wait_converged(fabric)
    before = {edge: sas(fabric.nodes[edge].charon) for edge in before}
    with no_ping_lost(fabric, "c1", "c2", "c3"):
        put(more)
        for edge, earlier in before.items():
            for sa, children in earlier.items():
                assert set(children) <= set(sas(fabric.nodes[edge].charon)[sa])
        put(RECORDS["node1"]["subnets"])
        for edge, earlier in before.items():
            wait_sas(fabric, edge, "has the SAs that it had", earlier.__eq__)


def to_gateway(found: dict[str, list[str]]) -> list[str]:
    return [child for sa, children in found.items() for child in children if "node1" in sa]


def test_a_second_ike_sa_made_by_the_responder_does_not_last_and_traffic_goes_on(
    fabric: Fabric,
) -> None:
    node1, edge2 = fabric.nodes["node1"], fabric.nodes["edge2"]
    before = sas(edge2.charon)
    [child] = [c.split()[0] for c in ike(node1.charon)["conns"]["fabric-edge2"]["children"]]
    # Of c1 itself a packet may be lost, that one end sends by an SA which the other has not yet,
    # or no more. Its last ping is answered.
    with (
        no_ping_lost(fabric, "c2", "c3"),
        pinging(fabric, "c1"),
        session(node1.charon) as asked,
    ):
        # As it stands, the responder's connection does not know where its peer is.
        asked.load_conn({"fabric-edge2": towards_edge2(fabric, child)})
        try:
            list(asked.initiate({"ike": "fabric-edge2", "child": child, "timeout": 25_000}))
            for name in ("node1", "edge2"):
                wait_sas(fabric, name, "one IKE_SA a peer is left", lambda found: len(found) == 2)
            assert sas(edge2.charon) != before
        finally:
            # This connection is none of fabricd's any more.
            asked.unload_conn({"name": "fabric-edge2"})
        look_again(fabric, "node1")
        wait_converged(fabric)


def towards_edge2(fabric: Fabric, child: str) -> dict[str, Any]:
    """node1's connection to edge2, as an initiator would have it."""
    return {
        "version": "2",
        "remote_addrs": [UNDERLAY["edge2"]],
        "proposals": ["aes128gcm16-prfsha256-ecp256"],
        "local": {
            "auth": "pubkey",
            "id": "C=CN, O=StrongSwan, CN=node1",
            "certs": [(fabric.run / "pki/node1.crt").read_bytes()],
        },
        "remote": {"auth": "pubkey", "id": "C=CN, O=StrongSwan, CN=edge2"},
        "children": {
            child: {
                "local_ts": RECORDS["node1"]["subnets"],
                "remote_ts": RECORDS["edge2"]["subnets"],
                "esp_proposals": ["aes128gcm16"],
            }
        },
    }


@pytest.mark.parametrize(
    ("name", "own", "others"), [("edge2", "c1 c2", "c3"), ("node1", "", "c1 c2 c3")]
)
def test_a_renewed_certificate_takes_over_while_traffic_goes_on(
    fabric: Fabric, name: str, own: str, others: str
) -> None:
    charon = fabric.nodes[name].charon
    before, keys = sas(charon), ike(charon)["keys"]
    with no_ping_lost(fabric, *others.split()), pinging(fabric, *own.split()):
        node = fabric.nodes[name]
        node.install_credentials(fabric.authority.issue(name, RECORDS[name]["subnets"]))
        wait_until(lambda: ike(charon)["keys"] != keys, "charon has the new private key", SOON)
        wait_converged(fabric)
    # Those that it initiates to have seen the new one; it waits for the others to come again.
    initiated = {peer["name"] for peer in status(fabric, name)["peers"] if peer["initiator"]}
    after = sas(charon)
    for peer in PEERS[name]:
        kept = {sa for sa in before if peer in sa} == {sa for sa in after if peer in sa}
        assert kept == (peer not in initiated)


def test_a_sudden_loss_of_most_nodes_is_held_until_it_is_confirmed(fabric: Fabric) -> None:
    held = ["/fabric/nodes/edge2", "/fabric/nodes/edge3"]
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        fabric.etcd.delete("/fabric/nodes/edge", "--prefix")
        for name, peers in PEERS.items():
            document = wait_status(fabric, name, "holds the loss", lambda seen: seen["held"])
            assert document["held"] == held
            assert any("fabricctl confirm" in text for text in document["warnings"])
            assert metrics(fabric, name)["fabricd_records_held"] == 2
            assert fabric.fabricctl(name, "plan") == "nothing to do\n"
            wait_peers(fabric, name, *peers)

    with or_else(lambda: mend(fabric)):
        assert "nodes/edge2: its loss is obeyed" in fabric.fabricctl("node1", "confirm")
        wait_peers(fabric, "node1")
        assert fabric.fabricctl("node1", "confirm") == "nothing is held\n"
        assert sas(fabric.nodes["node1"].charon) == {}
        assert fabric.ping("pod-edge2", "pod-node1", 1) == 1
        assert fabric.ping("pod-edge2", "pod-edge3") == 0

    for name in ("edge2", "edge3"):
        fabric.put_record(name, RECORDS[name])
    wait_converged(fabric)
    assert all(fabric.status(name)["held"] == [] for name in PEERS)
    fabric.wait_ping("pod-edge2", "pod-node1")
