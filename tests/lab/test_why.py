"""`fabricctl why` on a fabric that is broken for real, hop by hop: the broken one is named.

Each test breaks one thing, asks, and mends it: the next finds the fabric whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import vici

from fabricd.core.graph import COLOURS, Level
from lab.fabric import RECORDS, Fabric
from lab.process import CommandError, wait_until
from tests.lab.observe import (
    SOON,
    get,
    revive,
    sas,
    session,
    wait_converged,
    wait_sas,
    wait_status,
)

EDGE2, EDGE3, CLOUD = "2.2.2.2", "2.2.2.34", "10.233.96.2"
"""Pods."""

Answer = dict[str, Any]


def why(fabric: Fabric, node: str, source: str = EDGE2, destination: str = EDGE3) -> Answer:
    """The document that `why` prints on a node; its exit status fits."""
    try:
        text, status = fabric.fabricctl(node, "why", source, destination, "-o", "json"), 0
    except CommandError as error:
        if error.status != 1 or not error.output:
            raise
        text, status = error.output, 1
    answer: Answer = json.loads(text)
    assert status == (0 if answer["can"] else 1)
    return answer


def hop(answer: Answer, name: str) -> dict[str, Any]:
    [found] = [each for each in answer["hops"] if each["name"] == name]
    return dict(found)


def wait_broken(
    fabric: Fabric, node: str, name: str, source: str = EDGE2, destination: str = EDGE3
) -> Answer:
    """Until a hop is the first that is broken: what was broken needs a moment to show."""
    seen: Answer = {}

    def broken() -> bool:
        seen.update(why(fabric, node, source, destination))
        return bool(seen["broken"] == name)

    try:
        wait_until(broken, f"{name} is the broken hop", SOON)
    except Exception as error:
        raise AssertionError(json.dumps(seen, indent=1)) from error
    assert hop(seen, name)["ok"] is False
    assert seen["do"]
    return seen


def wait_can(fabric: Fabric, node: str, source: str = EDGE2, destination: str = EDGE3) -> Answer:
    """Until nothing is broken: what nodes tell of one another comes a moment later, and a packet
    of `why` may come too late.
    """
    seen: Answer = {}

    def can() -> bool:
        seen.update(why(fabric, node, source, destination))
        return bool(seen["can"])

    try:
        wait_until(can, f"{source} can talk to {destination}", SOON)
    except Exception as error:
        raise AssertionError(json.dumps(seen, indent=1)) from error
    return seen


# ---------------------------------------------------------------- breaking and mending


@pytest.fixture(autouse=True)
def whole(fabric: Fabric) -> Iterator[None]:
    """Before and after each test everything is well."""
    yield
    wait_converged(fabric)
    fabric.wait_ping(EDGE2, EDGE3)


@contextmanager
def without_fabricd(fabric: Fabric, *nodes: str) -> Iterator[None]:
    """What is broken stays broken."""
    for node in nodes:
        fabric.stop_fabricd(node)
    try:
        yield
    finally:
        for node in nodes:
            fabric.start_fabricd(node)


@contextmanager
def by_ip(fabric: Fabric, node: str, breaks: str, mends: str) -> Iterator[None]:
    namespace = fabric.namespaces[node]
    namespace.ip(*breaks.split())
    try:
        yield
    finally:
        namespace.ip(*mends.split())


@contextmanager
def record(fabric: Fabric, name: str, value: dict[str, Any] | str | None) -> Iterator[None]:
    """Another record in the place of a node's; None: none at all."""
    key = f"/fabric/nodes/{name}"
    if value is None:
        fabric.etcd.delete(key)
    else:
        fabric.etcd.put(key, value)
    try:
        yield
    finally:
        fabric.put_record(name, RECORDS[name])


@contextmanager
def nft(fabric: Fabric, node: str, chain: str, rule: str) -> Iterator[None]:
    """A rule of somebody else's packet filter."""
    run = fabric.namespaces[node].run
    run("nft", "-f", "-", stdin=f"table inet theirs {{ chain c {{ type {chain};\n{rule}\n}}\n}}\n")
    try:
        yield
    finally:
        run("nft", "delete", "table", "inet", "theirs")


def terminate(fabric: Fabric, node: str, peer: str) -> None:
    """End the IKE_SA with a peer, if there is one, without a word to it."""
    with session(fabric.nodes[node].charon) as asked, suppress(vici.exception.CommandException):
        list(asked.terminate({"ike": f"fabric-{peer}", "force": "yes", "timeout": "-1"}))


@contextmanager
def without_charon(fabric: Fabric, node: str) -> Iterator[None]:
    """It is killed. Its peers give it up in the end: how they find out is not tried here."""
    charon = fabric.nodes[node].charon
    charon.kill()
    try:
        yield
    finally:
        for peer in fabric.expected_peers(node):
            terminate(fabric, peer, node)
        charon.start()


def expire(fabric: Fabric, key: str) -> None:
    """End the lease that a key stands under, as time does when nobody keeps it."""
    for found in json.loads(fabric.etcd.ctl("get", key, "-w", "json")).get("kvs", ()):
        fabric.etcd.ctl("lease", "revoke", f"{found['lease']:x}")


# ---------------------------------------------------------------- nothing is broken


def test_every_hop_is_checked_and_none_is_broken(fabric: Fabric) -> None:
    for node, source, destination in (
        ("edge2", EDGE2, EDGE3),
        ("edge3", EDGE2, EDGE3),
        ("edge2", EDGE2, CLOUD),
        ("node1", CLOUD, EDGE3),
        ("node1", EDGE3, "10.233.90.3"),
    ):
        answer = wait_can(fabric, node, source, destination)
        assert answer["broken"] is None
        assert [each["name"] for each in answer["hops"] if each["ok"] is not True] == []
        assert {"source", "peering", "IKE_SA", "CHILD_SA", "route", "probe", "MTU"} <= {
            each["name"] for each in answer["hops"]
        }


def test_a_third_node_goes_by_what_the_two_publish(fabric: Fabric) -> None:
    answer = wait_can(fabric, "node1")
    assert "fabricctl why 2.2.2.2 2.2.2.34 on edge2 or edge3" in hop(answer, "node")["do"]
    assert hop(answer, "status of edge2")["detail"] == "edge2: tunnel to edge3 up"
    assert hop(answer, "status of edge3")["detail"] == "edge3: tunnel to edge2 up"

    with without_fabricd(fabric, "edge2"):
        terminate(fabric, "edge3", "edge2")
        answer = wait_broken(fabric, "node1", "status of edge3")
        assert "tunnel to edge2 waiting" in answer["detail"]


def test_the_graph_and_the_page_show_the_fabric(fabric: Fabric) -> None:
    def one_picture() -> str:
        """Of what stands in the store: the same, whoever is asked."""
        picture, *others = {fabric.fabricctl(name, "graph") for name in ("edge2", "node1")}
        return "" if others or picture.count(COLOURS[Level.UP]) != 3 else picture

    assert wait_until(one_picture, "all tunnels are shown up", SOON).count(" -> ") == 3
    code, page = get(fabric, "edge2", "/")
    assert code == 200
    assert "2 of 2 tunnels up" in page
    assert "edge2 to edge3 (app1): up" in page

    with without_charon(fabric, "edge3"):
        wait_status(fabric, "edge3", "misses its charon", lambda seen: not seen["charon"]["ok"])
        wait_until(
            lambda: fabric.fabricctl("edge2", "graph").count(COLOURS[Level.UNKNOWN]) == 2,
            "edge3's tunnels are not known to be up",
            SOON,
        )
        assert "charon does not answer" in get(fabric, "edge3", "/")[1]


# ---------------------------------------------------------------- records


def test_an_address_that_no_record_claims(fabric: Fabric) -> None:
    with record(fabric, "edge3", None):
        answer = wait_broken(fabric, "edge2", "destination")
        assert "no record claims 2.2.2.34" in answer["detail"]
        assert wait_broken(fabric, "edge2", "source", EDGE3, EDGE2)


def test_an_address_whose_record_is_rejected(fabric: Fabric) -> None:
    with record(fabric, "edge3", None):
        wait_status(fabric, "edge2", "edge3 is gone", lambda seen: len(seen["peers"]) == 1)
        fabric.etcd.put("/fabric/nodes/edge3", {**RECORDS["edge3"], "subnets": ["2.2.2.33/27"]})
        wait_status(fabric, "edge2", "rejects the new one", lambda seen: seen["rejected"])
        answer = wait_broken(fabric, "edge2", "destination")
        assert "would be behind edge3, but its record is rejected" in answer["detail"]
        assert "2.2.2.33/27" in answer["detail"]
        assert answer["do"] == "mend the record /fabric/nodes/edge3"


def test_a_record_whose_newer_version_is_rejected_stays_in_force(fabric: Fabric) -> None:
    with record(fabric, "edge3", "not JSON"):
        wait_status(fabric, "edge2", "rejects it", lambda seen: seen["rejected"])
        answer = wait_can(fabric, "edge2")
        assert hop(answer, "destination")["verdict"] == "warning"
        assert "a newer version of its record is rejected" in hop(answer, "destination")["detail"]


def test_no_community_in_common(fabric: Fabric) -> None:
    with record(fabric, "edge3", {**RECORDS["edge3"], "community": "app2"}):
        answer = wait_broken(fabric, "edge2", "peering")
        assert "edge2 is in app1; edge3 is in app2" in answer["detail"]
        assert "put both into one community" in answer["do"]


def test_a_certificate_that_is_not_for_the_subnet_of_the_record(fabric: Fabric) -> None:
    greedy = {**RECORDS["edge3"], "subnets": ["2.2.2.32/27", "2.2.2.64/27"]}
    with record(fabric, "edge3", greedy):
        answer = wait_broken(fabric, "edge2", "certificate", EDGE2, "2.2.2.66")
        assert "edge3's certificate is for 2.2.2.32/27, not for 2.2.2.64/27" in answer["detail"]
        wait_can(fabric, "edge2")  # the other subnet is not concerned


# ---------------------------------------------------------------- daemons


def test_charon_is_dead(fabric: Fabric) -> None:
    charon = fabric.nodes["edge2"].charon
    charon.kill()
    try:
        answer = wait_broken(fabric, "edge2", "charon")
        assert "systemctl start strongswan" in answer["do"]
    finally:
        charon.start()


def test_the_other_nodes_charon_is_dead(fabric: Fabric) -> None:
    with without_charon(fabric, "edge3"):
        answer = wait_broken(fabric, "edge2", "other node")
        assert "edge3: tunnel to edge2 unknown: charon does not answer" in answer["detail"]
        assert answer["do"].endswith("on edge3")


def test_without_its_fabricd_everything_stays_and_why_says_so(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        answer = wait_can(fabric, "edge2")
        assert hop(answer, "fabricd")["verdict"] == "warning"
        assert "fabricd is not running here" in hop(answer, "fabricd")["detail"]


def test_the_other_nodes_fabricd_is_dead(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge3"):
        expire(fabric, "/fabric/status/edge3")
        answer = wait_can(fabric, "edge2")
        assert hop(answer, "other node")["verdict"] == "warning"
        assert "edge3 publishes no status" in hop(answer, "other node")["detail"]

        answer = wait_broken(fabric, "node1", "status of edge3")
        assert "systemctl status fabricd" in answer["do"]


def test_the_store_is_down(fabric: Fabric) -> None:
    fabric.etcd.kill()
    try:
        wait_status(fabric, "edge2", "misses the store", lambda seen: not seen["synced"])
        answer = wait_can(fabric, "edge2")
        assert hop(answer, "records")["verdict"] == "warning"
        assert "going by the 3 nodes" in hop(answer, "records")["detail"]
        assert hop(answer, "other node")["ok"] is None

        assert why(fabric, "node1")["broken"] == "status of edge2", "nothing is known there"
        fabric.kill_fabricd("edge2")
        wait_can(fabric, "edge2")  # and with fabricd dead too
    finally:
        fabric.etcd.start()
        revive(fabric, "edge2")


# ---------------------------------------------------------------- charon


def unload(fabric: Fabric, node: str, peer: str) -> None:
    with session(fabric.nodes[node].charon) as asked:
        asked.unload_conn({"name": f"fabric-{peer}"})


def test_a_connection_that_is_not_loaded(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        unload(fabric, "edge2", "edge3")
        answer = wait_can(fabric, "edge2")  # its SAs are still there
        assert hop(answer, "connection")["verdict"] == "warning"

        terminate(fabric, "edge2", "edge3")
        answer = wait_broken(fabric, "edge2", "connection")
        assert answer["detail"] == "charon: fabric-edge3 is not loaded"
        assert answer["do"].endswith("systemctl start fabricd")


def test_no_ike_sa(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        terminate(fabric, "edge2", "edge3")
        answer = wait_broken(fabric, "edge2", "IKE_SA")
        assert "there is none" in answer["detail"]
        assert "systemctl start fabricd" in answer["do"]
        assert "edge2 has to initiate" in wait_broken(fabric, "edge3", "IKE_SA")["detail"]


def test_no_child_sa(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        with session(fabric.nodes["edge2"].charon) as asked:
            list(asked.terminate({"child": child_name(fabric), "timeout": "-1"}))
        answer = wait_broken(fabric, "edge2", "CHILD_SA")
        assert answer["detail"].startswith("2.2.2.0/27 === 2.2.2.32/27: there is none")
        assert hop(answer, "IKE_SA")["ok"] is True


def child_name(fabric: Fabric) -> str:
    [[name]] = [
        children
        for sa, children in sas(fabric.nodes["edge2"].charon).items()
        if sa.startswith("fabric-edge3 ")
    ]
    return name.partition(" ")[0]


def test_ike_that_the_packet_filter_drops(fabric: Fabric) -> None:
    rule = "ip saddr 10.20.8.12 udp dport { 500, 4500 } drop"
    with nft(fabric, "edge2", "filter hook input priority 0", rule):
        terminate(fabric, "edge3", "edge2")
        terminate(fabric, "edge2", "edge3")
        answer = wait_broken(fabric, "edge2", "underlay")
        assert "nft table inet theirs: chain c handle" in answer["detail"]
        assert "drops IKE (UDP 500) from 10.20.8.12" in answer["detail"]
        assert hop(answer, "IKE_SA")["ok"] is False


# ---------------------------------------------------------------- kernel


def test_the_route_is_missing(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        fabric.namespaces["edge2"].ip(
            "route", "delete", "2.2.2.32/27", "table", "198", "metric", "100"
        )
        answer = wait_broken(fabric, "edge2", "route")
        assert "2.2.2.32/27 dev" in answer["detail"]
        assert answer["do"].endswith("systemctl start fabricd")
        assert hop(answer, "way out")["ok"] is False, "it follows"


def test_the_rule_is_missing(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        fabric.namespaces["edge2"].ip("rule", "delete", "priority", "198")
        assert "198: from all lookup 198" in wait_broken(fabric, "edge2", "rule")["detail"]


def test_forwarding_is_off(fabric: Fabric) -> None:
    with without_fabricd(fabric, "edge2"):
        fabric.namespaces["edge2"].run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        assert "net/ipv4/ip_forward is 0" in wait_broken(fabric, "edge2", "forwarding")["detail"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("route {} blackhole 2.2.2.34 table 198", "blackhole"),
        ("rule {} to 2.2.2.34 unreachable priority 100", "unreachable"),
        ("route {} 2.2.2.34 dev eth0 table 198", "goes to eth0 by table 198, not to "),
    ],
    ids=["a blackhole", "a rule that refuses", "a route that leads elsewhere"],
)
def test_what_others_put_before_our_route(fabric: Fabric, what: str, says: str) -> None:
    with by_ip(fabric, "edge2", what.format("add"), what.format("delete")):
        answer = wait_broken(fabric, "edge2", "way out")
        assert says in answer["detail"]
        assert "ip rule; ip route show table all match 2.2.2.34" in answer["do"]
        assert hop(answer, "route")["ok"] is True


def test_a_foreign_route_on_the_way_to_the_local_pod(fabric: Fabric) -> None:
    route = "route {} blackhole 2.2.2.34"
    with by_ip(fabric, "edge3", route.format("add"), route.format("delete")):
        answer = wait_broken(fabric, "edge3", "delivery")
        assert "blackhole" in answer["detail"]


def test_an_xfrm_policy_that_blocks(fabric: Fabric) -> None:
    selector = "dir out src 2.2.2.0/24 dst 2.2.2.34"
    with by_ip(
        fabric,
        "edge2",
        f"xfrm policy add {selector} action block priority 1",
        f"xfrm policy delete {selector}",
    ):
        answer = wait_broken(fabric, "edge2", "ESP")
        assert "2.2.2.0/24 to 2.2.2.34/32 (out, priority 1)" in answer["detail"]


@pytest.mark.parametrize(
    ("chain", "rule", "says"),
    [
        (
            "filter hook forward priority 0",
            "ip daddr 2.2.2.32/27 drop",
            "drops 2.2.2.2 to 2.2.2.34",
        ),
        ("filter hook forward priority 0", "ip saddr 2.2.2.34 reject", "drops 2.2.2.34 to 2.2.2.2"),
        (
            "nat hook postrouting priority 100",
            "ip saddr 2.2.2.0/27 masquerade",
            "changes the source of 2.2.2.2 to 2.2.2.34",
        ),
        (
            "filter hook forward priority 0; policy drop",
            'iifname "br-edge" tcp dport 443 accept',
            "the policy of chain c drops 2.2.2.34 to 2.2.2.2",
        ),
    ],
    ids=["drop", "reject", "masquerade", "a policy"],
)
def test_the_packet_filter(fabric: Fabric, chain: str, rule: str, says: str) -> None:
    with nft(fabric, "edge2", chain, rule):
        answer = wait_broken(fabric, "edge2", "packet filter")
        assert says in answer["detail"]


# ---------------------------------------------------------------- the path


def test_a_packet_filter_on_the_other_node(fabric: Fabric) -> None:
    with nft(fabric, "edge3", "filter hook forward priority 0", "ip daddr 2.2.2.34 drop"):
        answer = wait_broken(fabric, "edge2", "probe")
        assert "edge3's own 2.2.2.33 does" in answer["detail"]
        assert "why 2.2.2.2 2.2.2.34 on edge3" in answer["do"]
        assert wait_broken(fabric, "edge3", "packet filter")


def test_a_pod_that_is_gone(fabric: Fabric) -> None:
    down, up = "link set eth0 down", "link set eth0 up"
    try:
        with by_ip(fabric, "pod-edge3", down, up):
            assert "the tunnel is well" in wait_broken(fabric, "edge2", "probe")["detail"]
            answer = wait_broken(fabric, "edge3", "local pod")
            assert "nobody on this node answers for 2.2.2.34" in answer["detail"]
    finally:
        fabric.namespaces["pod-edge3"].add_route("default", "2.2.2.33")


def test_an_underlay_that_drops_large_packets(fabric: Fabric) -> None:
    mtu = "link set p-edge3 mtu {}"
    with by_ip(fabric, "wan", mtu.format(1000), mtu.format(1500)):
        answer = wait_broken(fabric, "edge2", "MTU")
        assert "small packets pass, one of 1400 octets does not" in answer["detail"]
        assert hop(answer, "probe")["ok"] is True


Condition = Callable[[dict[str, list[str]]], object]


def test_a_node_that_is_not_there(fabric: Fabric) -> None:
    with by_ip(fabric, "wan", "link set p-edge3 down", "link set p-edge3 up"):
        terminate(fabric, "edge2", "edge3")
        gone: Condition = lambda found: not any(sa.startswith("fabric-edge3") for sa in found)  # noqa: E731
        wait_sas(fabric, "edge2", "has none with edge3", gone)
        answer = wait_broken(fabric, "edge2", "IKE_SA")
        assert "does not answer to ICMP echo" in hop(answer, "underlay")["detail"]
        assert hop(answer, "underlay")["verdict"] == "warning"
