"""A tunnel that charon calls installed and that carries nothing: ESP is filtered on the underlay,
and IKE is not. It is seen, told, and made anew again and again; nothing else is disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from fabricd.core.health import DEAF, LOST, MISSES
from fabricd.core.probe_packet import SIZE
from lab.demo import PATHS
from lab.fabric import Fabric
from lab.topology import RECORDS
from tests.lab.dropped import esp_dropped
from tests.lab.observe import (
    Log,
    metrics,
    or_else,
    own_fabric,
    revive,
    sas,
    status,
    wait_converged,
    wait_growth,
    wait_status,
    whole,
)
from tests.lab.pings import no_ping_lost

INTERVAL = 1
"""Seconds between two probes."""

PROBE = 20 + 8 + SIZE
"""Bytes of a probe's IP packet."""

REKEYS = 'fabricd_actions_total{kind="child.rekey",outcome="done"}'


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with probed_fabric() as whole_fabric:
        yield whole_fabric


@contextmanager
def probed_fabric() -> Iterator[Fabric]:
    """The whole fabric, converged, with a probe every `INTERVAL`."""
    with own_fabric() as whole_fabric:
        for node in whole_fabric.nodes.values():
            with node.config.open("a", encoding="utf-8") as file:
                file.write(f"[health]\nprobe = {INTERVAL}\n")
        whole_fabric.start_services()
        for name, record in RECORDS.items():
            whole_fabric.put_record(name, record)
        whole_fabric.start_daemons()
        wait_converged(whole_fabric)
        yield whole_fabric


def peer_of(seen: dict[str, Any], peer: str) -> dict[str, Any]:
    [found] = [each for each in seen["peers"] if each["name"] == peer]
    return dict(found)


def wait_peer(fabric: Fabric, name: str, peer: str, state: str) -> dict[str, Any]:
    """Wait until a node says this of one of its peers."""

    def there(seen: dict[str, Any]) -> bool:
        return any(p["name"] == peer and p["state"] == state for p in seen["peers"])

    return peer_of(wait_status(fabric, name, f"calls {peer} {state}", there), peer)


def tunnel_up(fabric: Fabric, name: str, peer: str) -> float:
    return metrics(fabric, name)[f'fabricd_tunnel_up{{peer="{peer}"}}']


def ike_sas(fabric: Fabric, name: str, peer: str) -> set[str]:
    """Those with a peer, by their ids."""
    return {sa for sa in sas(fabric.nodes[name].charon) if f"fabric-{peer} " in sa}


def rekeys(fabric: Fabric, name: str) -> float:
    """How often a node has made a CHILD_SA anew because it was silent."""
    return metrics(fabric, name).get(REKEYS, 0)


def wait_probes(fabric: Fabric, name: str, peer: str, number: int = 10) -> None:
    """Wait until so many probes have gone into a tunnel; nobody else sends into it."""
    series = f'fabricd_tunnel_transmit_bytes_total{{peer="{peer}"}}'
    wait_growth(fabric, name, series, metrics(fabric, name)[series] + number * PROBE)


def test_a_healthy_fabric_is_left_alone(fabric: Fabric) -> None:
    before = whole(fabric)
    with no_ping_lost(fabric, "c1", "c2", "c3"):
        for name, peer in (("edge2", "edge3"), ("edge3", "edge2"), ("edge2", "node1")):
            wait_probes(fabric, name, peer)
    wait_converged(fabric)
    assert whole(fabric) == before
    assert [rekeys(fabric, name) for name in fabric.nodes] == [0, 0, 0]


def test_a_peer_that_answers_no_probe_is_alive_while_it_sends(fabric: Fabric) -> None:
    """Its node lets nothing in for itself; pods are none of its business."""
    firewall = """
        table ip closed {
            chain input {
                type filter hook input priority 0
                ip daddr 2.2.2.33 counter drop
            }
        }
    """
    edge3 = fabric.namespaces["edge3"]
    before = whole(fabric)
    edge3.run("nft", "-f", "-", stdin=firewall)
    try:
        # At first pods talk; then there is nothing but the probes of both sides.
        with no_ping_lost(fabric, "c2"):
            wait_probes(fabric, "edge2", "edge3", 3 * MISSES)
        wait_probes(fabric, "edge2", "edge3", 3 * MISSES)
        dropped = edge3.run("nft", "list", "table", "ip", "closed")
        assert "counter packets 0 " not in dropped
        for name, peer in (("edge2", "edge3"), ("edge3", "edge2"), ("node1", "edge3")):
            assert peer_of(status(fabric, name), peer)["state"] == "up"
        assert tunnel_up(fabric, "edge2", "edge3") == 1
    finally:
        edge3.run("nft", "delete", "table", "ip", "closed")
    assert whole(fabric) == before
    assert [rekeys(fabric, name) for name in fabric.nodes] == [0, 0, 0]


@pytest.mark.parametrize(
    "ways",
    [
        (("edge2", "edge3"),),
        (("edge3", "edge2"),),
        (("edge2", "edge3"), ("edge3", "edge2")),
        (("node1", "edge2"),),
        (("edge2", "node1"),),
    ],
    ids=lambda ways: "+".join("-".join(way) for way in ways),
)
def test_esp_that_does_not_arrive_is_seen_at_both_ends_and_it_comes_back_by_itself(
    fabric: Fabric, ways: tuple[tuple[str, str], ...]
) -> None:
    one, other = sorted(ways[0])
    # "edge2" initiates to both others.
    others = sorted({"c1", "c2", "c3"} - {PATH[one, other]})
    logs = {name: Log(fabric, name) for name in (one, other)}
    before = {name: rekeys(fabric, name) for name in (one, other)}
    first = {name: ike_sas(fabric, name, peer) for name, peer in ((one, other), (other, one))}
    with no_ping_lost(fabric, *others), ExitStack() as stack:
        for way in ways:
            stack.enter_context(esp_dropped(fabric, *way))
        for name, peer in ((one, other), (other, one)):
            seen = wait_peer(fabric, name, peer, "silent")
            assert (seen["up"], seen["ike"]) == (False, "ESTABLISHED")
            assert [child["up"] for child in seen["children"]] == [False]
            assert tunnel_up(fabric, name, peer) == 0
            said = logs[name].wait("tunnel is silent")
            assert (said["peer"], said["reason"] in {LOST, DEAF}) == (peer, True)
            assert seen["reason"].endswith((LOST, DEAF))
        # The initiator tries to mend it, soon; the other one leaves that to it.
        wait_growth(fabric, one, REKEYS, before[one])
        action = logs[one].wait("action")
        assert (action["kind"], action["disruption"]) == ("child.rekey", "rekey")
        assert action["cause"] == "silence"
        assert rekeys(fabric, other) == before[other]
        assert fabric.fabricctl(one, "status").count("silent") >= 1

    for name, peer in ((one, other), (other, one)):
        wait_peer(fabric, name, peer, "up")
        logs[name].wait("tunnel is alive again")
        assert tunnel_up(fabric, name, peer) == 1
    assert fabric.ping(*PATHS[PATH[one, other]]) == 0
    assert ike_sas(fabric, one, other) == first[one], "its IKE_SA was all right"
    wait_converged(fabric)
    assert rekeys(fabric, one) - before[one] <= 2, "the pauses get longer"


PATH = {("edge2", "node1"): "c1", ("edge2", "edge3"): "c2"}


def test_a_daemon_that_starts_meanwhile_finds_it_silent_too(fabric: Fabric) -> None:
    before = sas(fabric.nodes["edge3"].charon)
    with (
        or_else(lambda: revive(fabric)),
        esp_dropped(fabric, "edge2", "edge3"),
        esp_dropped(fabric, "edge3", "edge2"),
    ):
        fabric.stop_fabricd("edge2")
        fabric.stop_fabricd("edge3")
        fabric.start_fabricd("edge3")
        seen = wait_peer(fabric, "edge3", "edge2", "silent")
        assert "none come out" in seen["reason"]
        # It does not initiate, so there is nothing that it can do.
        assert sas(fabric.nodes["edge3"].charon) == before
        fabric.start_fabricd("edge2")
        wait_peer(fabric, "edge2", "edge3", "silent")
    wait_converged(fabric)
    assert fabric.ping(*PATHS["c2"]) == 0


def test_a_fabricd_that_is_gone_lets_its_kernel_answer(fabric: Fabric) -> None:
    before = sas(fabric.nodes["edge2"].charon)
    fabric.kill_fabricd("edge3")
    try:
        wait_probes(fabric, "edge2", "edge3", 3 * MISSES)
        assert peer_of(status(fabric, "edge2"), "edge3")["state"] == "up"
        assert sas(fabric.nodes["edge2"].charon) == before
    finally:
        fabric.start_fabricd("edge3")
    wait_converged(fabric)
