"""The reconcile loop in simulated time, between a kernel and a charon in memory."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from fabricd.core.connections import doubt
from fabricd.core.events import Delete, Lost
from fabricd.core.fitness import probation
from fabricd.core.ownership import NUMBER, TABLE
from fabricd.core.routing import MAIN_TABLE
from fabricd.core.state import Route, RouteKind, Sysctl
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.pacing import LINGER, PATIENCE, PAUSE, RETRY, SWEEP
from fabricd.daemon.peers import KEPT, TAKEN_DOWN
from fabricd.daemon.reconcile import BOOT_GRACE
from fabricd.daemon.rounds import LONG_ENOUGH, MANY, QUIET
from fabricd.model import Prefix
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.fakes import (
    CLOUD1,
    EDGE2,
    EDGE3,
    RECORDS,
    TO_EDGE3,
    FakeCharon,
    FakeKernel,
    SimulatedNode,
    put,
)


@pytest.fixture
async def node(keyring: Keyring, nursery: trio.Nursery) -> SimulatedNode:
    """edge2, started and at rest, with tunnels to edge3 and cloud1."""
    node = SimulatedNode(keyring)
    node.list(*RECORDS)
    await node.start(nursery)
    await node.at_rest()
    return node


def route_of(node: SimulatedNode, prefix: str) -> tuple[tuple[int, str, int], Route]:
    [found] = [
        (key, route)
        for key, (_, route) in node.kernel.held.routes.items()
        if route.prefix == prefix and route.kind is RouteKind.UNICAST
    ]
    return found


# ---------------------------------------------------------------- to the state and staying there


async def test_the_first_pass_from_nothing(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.list(*RECORDS)
    with capture_logs() as logs:
        await node.start(nursery)
        await node.at_rest()
    assert node.passed[0] == 0
    assert {"fabric0", "br-edge"} <= node.kernel.held.links.keys()
    assert node.charon.held.conns.keys() == {"fabric-edge3", "fabric-cloud1"}
    assert node.peer("edge3")["state"] == node.peer("cloud1")["state"] == "up"
    assert {line["cause"] for line in logs if line["event"] == "action"} == {"start"}
    assert node.counted("drift_repairs_total", kind="route") == 0
    assert node.counted("reconcile_duration_seconds_count") == node.reconciler.picture.passes


async def test_a_restart_on_a_right_state_does_nothing(
    node: SimulatedNode, pki: Pki, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node.charon.applied.clear()
    kernel, charon = FakeKernel(held=node.kernel.held), FakeCharon(held=node.charon.held)
    again = SimulatedNode(pki.keyring(), kernel, charon)
    again.list(*RECORDS)
    await again.start(nursery)
    await again.passes(3)
    assert (kernel.applied, charon.applied, charon.initiated) == ([], [], [])


async def test_nor_after_a_peer_had_to_authenticate_anew(
    node: SimulatedNode, pki: Pki, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What it was asked for is over by then, and only charon's connection tells of it."""
    plain = node.charon.held.conns["fabric-edge3"].digest
    node.reconciler.senses.trust.resume({"edge3": doubt("the peer's certificate was too narrow")})
    node.reconciler.look_again("test")
    await node.at_rest()
    held = node.charon.held.conns["fabric-edge3"].digest
    assert held != plain
    kernel, charon = FakeKernel(held=node.kernel.held), FakeCharon(held=node.charon.held)
    again = SimulatedNode(pki.keyring(), kernel, charon)
    again.list(*RECORDS)
    await again.start(nursery)
    await again.passes(3)
    assert (kernel.applied, charon.applied, charon.initiated) == ([], [], [])
    assert node.charon.held.conns["fabric-edge3"].digest == held


async def test_a_change_of_a_record_is_the_cause_of_its_actions(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        node.change(
            put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")
        )
        await node.at_rest()
    actions = {line["kind"]: line for line in logs if line["event"] == "action"}
    assert actions.keys() == {"route.set", "conn.load"}
    for line in actions.values():
        assert line["cause"] == "record nodes/edge4"
        assert line["trigger"] == "records"
    assert node.peer("edge4")["state"] == "up"
    assert node.counted("drift_repairs_total", kind="route") == 0


async def test_a_tunnel_that_comes_up_between_two_sweeps_is_up_at_once(
    keyring: Keyring, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    async with trio.open_nursery() as nursery:
        await node.start(nursery)
        node.list(EDGE2, CLOUD1)
        await trio.sleep(SWEEP / 2)  # by then what was listed is some seconds old
        node.change(EDGE3)
        await trio.sleep(1)
        assert node.peer("edge3")["state"] == "up"
        nursery.cancel_scope.cancel()


async def test_nothing_is_removed_by_a_plan_from_before_the_store_has_said_all_it_knows(
    keyring: Keyring, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = SimulatedNode(keyring)
    async with trio.open_nursery() as nursery:
        await before.start(nursery)
        before.list(*RECORDS)
        await trio.sleep(2 * SWEEP)
        nursery.cancel_scope.cancel()
    kernel, charon = before.kernel, before.charon
    done = len(kernel.names), len(charon.names)
    node = SimulatedNode(keyring, kernel, charon)
    derive, checkpoint = node.reconciler._derive, trio.lowlevel.checkpoint
    derived = 0

    def counted() -> None:
        nonlocal derived
        derive()
        derived += 1

    async def others_have_their_turn() -> None:
        # Twice in a pass: before charon is looked at, and after that.
        if derived == 2 and not node.reconciler.rib.synced:
            node.list(*RECORDS)
        await checkpoint()

    monkeypatch.setattr(node.reconciler, "_derive", counted)
    monkeypatch.setattr(trio.lowlevel, "checkpoint", others_have_their_turn)
    async with trio.open_nursery() as nursery:
        await node.start(nursery)
        await trio.sleep(3 * SWEEP)
        nursery.cancel_scope.cancel()
    assert (len(kernel.names), len(charon.names)) == done


async def test_a_record_that_goes_takes_its_tunnel_along(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        node.change(Delete("nodes/edge3"))
        await node.at_rest()
    causes = {line["kind"]: line["cause"] for line in logs if line["event"] == "action"}
    assert causes == dict.fromkeys(
        ("conn.unload", "ike.terminate", "route.remove"), "record nodes/edge3"
    )
    assert [peer["name"] for peer in node.status()["peers"]] == ["cloud1"]


async def test_many_changes_at_once_are_one_pass(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before = node.reconciler.picture.passes
    for number in range(4, 14):
        subnet = f"2.2.{number}.0/27"
        node.change(
            put(
                f"nodes/edge{number}",
                number,
                endpoint=f"10.0.0.{number}",
                subnets=[subnet],
                community="app1",
            )
        )
    await node.passes(1)
    assert len(node.reconciler.picture.desired.peerings) == 12
    assert node.reconciler.picture.passes == before + 1


async def test_the_rest_of_many_changes_is_waited_for(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before = node.reconciler.picture.passes
    for first in range(4, 164, MANY):
        for number in range(first, first + MANY):
            change = {"endpoint": "10.0.0.9", "subnets": [f"2.2.{number}.0/27"]}
            node.change(put(f"nodes/edge{number}", number, **change, community="app1"))
        await trio.sleep(QUIET / 2)
    assert node.reconciler.picture.passes == before
    await node.passes(1)
    assert len(node.reconciler.picture.desired.peerings) == 162


async def test_those_that_never_end_are_not_waited_for_long(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before, began = node.reconciler.picture.passes, trio.current_time()
    numbers = itertools.count(4)
    while node.reconciler.picture.passes == before:
        for number in itertools.islice(numbers, MANY):
            node.change(put(f"nodes/other{number}", number, community=f"token{number}"))
        await trio.sleep(QUIET / 2)
    assert trio.current_time() - began == pytest.approx(LONG_ENOUGH, rel=0.1)


async def test_records_that_keep_coming_are_obeyed_at_once(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    """Passes that act one after another are no struggle when each has another record."""
    for number in range(4, 4 + 3 * PATIENCE):
        start = node.time
        node.change(
            put(
                f"nodes/edge{number}",
                number,
                endpoint=f"10.0.0.{number}",
                subnets=[f"2.2.{number}.0/27"],
                community="app1",
            )
        )
        await node.until(lambda: f"fabric-edge{number}" in node.charon.held.conns)  # noqa: B023
        assert node.time == start


# ---------------------------------------------------------------- drift


async def test_a_route_that_somebody_removed_comes_back(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, route = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]
    with capture_logs() as logs:
        node.kernel.tell("route 2.2.2.32/27")
        await node.at_rest()
    assert node.kernel.held.routes[key] == (NUMBER, route)
    [line] = [line for line in logs if line["event"] == "action"]
    assert (line["cause"], line["trigger"]) == ("drift", "route 2.2.2.32/27")
    assert node.counted("drift_repairs_total", kind="route") == 1
    assert node.counted("actions_total", kind="route.set", outcome="done") > 1


async def test_drift_that_nothing_told_of_is_found_by_the_sweep(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]
    start = node.time
    await node.until(lambda: key in node.kernel.held.routes)
    assert node.time - start <= SWEEP * 1.1
    assert node.counted("drift_repairs_total", kind="route") == 1


async def test_an_object_with_our_mark_that_nobody_asked_for_is_drift(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    stray = Route(TABLE, Prefix("9.9.9.0/24"), RouteKind.BLACKHOLE)
    node.kernel.held.routes[TABLE, "9.9.9.0/24", 0] = NUMBER, stray
    node.kernel.tell("route 9.9.9.0/24")
    await node.at_rest()
    assert stray not in [route for _, route in node.kernel.held.routes.values()]
    assert node.counted("drift_repairs_total", kind="route") == 1


async def test_a_foreign_object_is_left_alone(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    theirs = 4, Route(MAIN_TABLE, Prefix("9.9.9.0/24"), RouteKind.BLACKHOLE)
    node.kernel.held.routes[MAIN_TABLE, "9.9.9.0/24", 0] = theirs
    before = node.kernel.names
    node.kernel.tell("route 9.9.9.0/24")
    await node.at_rest()
    assert theirs in node.kernel.held.routes.values()
    assert node.kernel.names == before


async def test_a_connection_that_somebody_unloaded_comes_back(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before = list(node.charon.held.sas)
    del node.charon.held.conns["fabric-edge3"]
    node.charon.tell("ike-update fabric-edge3")
    await node.at_rest()
    assert "fabric-edge3" in node.charon.held.conns
    assert node.counted("drift_repairs_total", kind="conn") == 1
    assert node.charon.held.sas == before


async def test_after_an_event_of_one_connection_that_one_is_looked_at(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.looked_at.clear()
    node.charon.held.sas = [sa for sa in node.charon.held.sas if sa.conn != "fabric-edge3"]
    node.charon.tell("ike-updown fabric-edge3")
    await node.passes(1)
    assert node.charon.looked_at == [{"fabric-edge3"}]
    assert not node.peer("edge3")["up"]
    assert node.peer("cloud1")["up"]
    await node.until(lambda: node.peer("edge3")["up"])
    assert all(names == {"fabric-edge3"} for names in node.charon.looked_at)


async def test_what_no_event_told_of_in_charon_is_found_by_the_sweep(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    del node.charon.held.conns["fabric-edge3"]
    start = node.time
    node.charon.tell("child-updown fabric-cloud1")
    await node.passes(1)
    assert "fabric-edge3" not in node.charon.held.conns
    await node.until(lambda: "fabric-edge3" in node.charon.held.conns)
    assert node.time - start <= SWEEP * 1.1
    assert node.counted("drift_repairs_total", kind="conn") == 1


async def test_charon_starts_anew_and_everything_is_loaded_and_up_again(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before = node.charon.held.observe()
    node.charon.restart()
    start = node.time
    await node.until(lambda: node.charon.held.conns)
    assert node.time == start
    await node.at_rest()
    assert node.charon.held.observe().conns == before.conns
    assert node.charon.held.authorities == before.authorities
    assert node.charon.held.keys == before.keys
    assert node.peer("edge3")["up"]
    assert node.peer("cloud1")["up"]


async def test_what_changes_while_it_is_looked_at_is_looked_at_again(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, _ = route_of(node, "2.2.2.32/27")

    def remove() -> None:
        node.kernel.before_observed = lambda: None
        del node.kernel.held.routes[key]
        node.kernel.tell("route 2.2.2.32/27")

    node.kernel.before_observed = remove
    start = node.time
    node.reconciler.look_again("test")
    await node.passes(1)
    await node.until(lambda: key in node.kernel.held.routes)
    assert node.time == start


# ---------------------------------------------------------------- parts that don't answer


async def test_charon_is_built_up_while_the_kernel_does_not_answer(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.kernel.away = "no answer within 5 s"
    node.list(*RECORDS)
    await node.start(nursery)
    await node.passes(2)
    assert node.charon.held.conns.keys() == {"fabric-edge3", "fabric-cloud1"}
    assert node.kernel.held.links == {}
    assert node.status()["kernel"] == {"ok": False, "reason": "no answer within 5 s"}
    node.kernel.away = ""
    await node.at_rest()
    assert "fabric0" in node.kernel.held.links
    assert node.status()["kernel"] == {"ok": True, "reason": ""}


async def test_the_kernel_is_built_up_while_charon_does_not_answer(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.charon.away = "no socket"
    node.list(*RECORDS)
    with capture_logs() as logs:
        await node.start(nursery)
        await node.passes(4)
    assert "fabric0" in node.kernel.held.links
    assert node.charon.initiated == []
    assert node.peer("edge3")["state"] == "unknown"
    assert len([line for line in logs if line["event"] == "not available"]) == 1
    node.charon.away = ""
    node.charon.tell("charon is there")
    start = node.time
    await node.until(lambda: node.charon.held.conns)
    assert node.time == start


async def test_a_part_that_does_not_answer_is_asked_again_at_growing_pauses(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.away = "hangs"
    node.charon.tell("charon is gone")
    await node.passes(12)
    assert not node.peer("edge3")["up"]
    pauses = [b - a for a, b in zip(node.passed[-12:], node.passed[-11:], strict=False)]
    assert pauses[0] == pytest.approx(RETRY[0])
    assert pauses == sorted(pauses[:5]) + pauses[5:]
    assert max(pauses) <= RETRY[1]
    node.charon.away = ""
    await node.until(lambda: node.peer("edge3")["up"])  # without being told of it


async def test_a_part_that_fails_between_observation_and_action(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]

    def fail() -> None:
        node.kernel.before_observed = lambda: None
        node.kernel.away = "answers were lost"

    node.kernel.before_observed = fail
    node.kernel.tell("route 2.2.2.32/27")
    await node.passes(1)
    assert node.reconciler.picture.faults == {"kernel": "answers were lost"}
    node.kernel.away = ""
    await node.at_rest()
    assert key in node.kernel.held.routes


# ---------------------------------------------------------------- failures and struggles


async def test_an_action_that_fails_is_tried_again_at_growing_pauses(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, _ = route_of(node, "2.2.2.32/27")
    name = f"route.set {TO_EDGE3}"
    node.kernel.refused[name] = "EEXIST"
    before = len(node.kernel.times(name))
    del node.kernel.held.routes[key]
    with capture_logs() as logs:
        node.kernel.tell("route 2.2.2.32/27")
        await node.until(lambda: len(node.kernel.times(name)) == before + 12)
    times = node.kernel.times(name)[before:]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] == pytest.approx(RETRY[0])
    assert pauses[:4] == sorted(pauses[:4])
    assert sum(pauses) > 5 * SWEEP
    errors = [line for line in logs if line["event"] == "action failed"]
    assert [line["error"] for line in errors] == ["EEXIST"]
    assert node.counted("actions_total", kind="route.set", outcome="failed") == 12
    assert f"{name}: EEXIST" in node.status()["warnings"]
    node.kernel.refused.clear()
    await node.at_rest()
    assert key in node.kernel.held.routes
    assert node.status()["warnings"] == []


async def test_a_failure_that_tells_of_itself_makes_no_hot_loop(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    """An attempt that changes something and fails is followed by the kernel's notification."""
    name = f"route.set {TO_EDGE3}"
    key, _ = route_of(node, "2.2.2.32/27")
    node.kernel.refused[name] = "EINVAL"
    del node.kernel.held.routes[key]
    before = len(node.kernel.applied)
    start = node.time

    def tell_if_tried() -> None:
        nonlocal before
        if len(node.kernel.applied) > before:
            before = len(node.kernel.applied)
            node.kernel.tell("link br-edge")

    node.kernel.before_observed = tell_if_tried
    node.kernel.tell("route 2.2.2.32/27")
    await node.until(lambda: node.time > start + 60)
    tried = [when for when in node.kernel.times(name) if when > start]
    assert len(tried) <= 60 / RETRY[0] + 2 * PATIENCE


async def test_drift_is_repaired_at_once_while_something_else_keeps_failing(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.kernel.refused["sysctl.set net/ipv4/ip_forward=1"] = "EACCES"
    node.kernel.held.sysctls["net/ipv4/ip_forward"] = Sysctl("net/ipv4/ip_forward", "0")
    node.reconciler.look_again("test")
    await node.passes(3 * PATIENCE)
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]
    start = node.time
    node.kernel.tell("route 2.2.2.32/27")
    await node.until(lambda: key in node.kernel.held.routes)
    assert node.time <= start + 1


async def test_an_action_that_succeeds_without_effect_is_not_repeated_at_full_speed(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    name = f"route.set {TO_EDGE3}"
    key, _ = route_of(node, "2.2.2.32/27")
    node.kernel.idle.add(name)
    before = len(node.kernel.times(name))
    del node.kernel.held.routes[key]
    start = node.time
    node.kernel.tell("route 2.2.2.32/27")
    await node.until(lambda: node.time > start + 120)
    times = [when - start for when in node.kernel.times(name)[before:]]
    assert len([when for when in times if when < 1]) <= PATIENCE + 4
    assert len(times) <= PATIENCE + 6 + 120 / PAUSE


async def test_a_struggle_does_not_keep_a_new_record_waiting(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.kernel.idle.add(f"route.set {TO_EDGE3}")
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]
    node.kernel.tell("route 2.2.2.32/27")
    await node.passes(PATIENCE + 3)
    start = node.time
    node.change(
        put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")
    )
    await node.until(lambda: "fabric-edge4" in node.charon.held.conns)
    assert node.time == start


async def test_a_conn_that_is_refused_is_not_initiated_and_says_why(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.charon.refused["conn.load fabric-edge3"] = "invalid value for: remote_addrs"
    node.list(*RECORDS)
    await node.start(nursery)
    await node.until(lambda: node.peer("cloud1")["up"])
    assert {tunnel.conn for _, tunnel in node.charon.initiated} == {"fabric-cloud1"}
    assert node.peer("edge3")["reason"] == "invalid value for: remote_addrs"


# ---------------------------------------------------------------- the source of records


async def test_nothing_is_removed_while_the_source_is_not_in_sync(
    node: SimulatedNode, pki: Pki, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A restart without a store and without a snapshot knows nothing, and touches nothing."""
    before = node.kernel.held.observe(), node.charon.held.observe()
    kernel, charon = FakeKernel(held=node.kernel.held), FakeCharon(held=node.charon.held)
    again = SimulatedNode(pki.keyring(), kernel, charon)
    await again.start(nursery)
    await again.passes(3)
    assert again.passed[0] == BOOT_GRACE
    assert (kernel.held.observe(), charon.held.observe()) == before
    again.list(EDGE2, CLOUD1)
    with capture_logs() as logs:
        await again.at_rest()
    assert "fabric-edge3" not in charon.held.conns
    assert {line["cause"] for line in logs if line["event"] == "action"} <= {
        "start",
        "record nodes/cloud1, nodes/edge2",
    }
    assert again.counted("drift_repairs_total", kind="conn") == 0


async def test_a_store_that_never_answers_the_snapshot_is_used_after_a_grace(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.reconciler.rib.restore(RECORDS)
    await node.start(nursery)
    node.reconciler.feed(Lost("connection refused"))
    with capture_logs() as logs:
        await node.until(lambda: node.passed)
    assert node.passed[0] == BOOT_GRACE
    assert [line["reason"] for line in logs if line["log_level"] == "warning"] == [
        "connection refused"
    ]
    await node.at_rest()
    assert node.peer("edge3")["up"]
    assert not node.status()["synced"]


async def test_a_store_that_answers_within_the_grace_is_believed(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.reconciler.rib.restore(RECORDS)
    await node.start(nursery)
    node.list(EDGE2, CLOUD1)
    await node.at_rest()
    assert node.passed[0] == 0
    assert "conn.load fabric-edge3" not in node.charon.names


async def test_the_store_goes_and_comes_and_nothing_happens(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    before = node.kernel.names, node.charon.names
    node.reconciler.feed(Lost("connection refused"))
    await node.passes(2)
    assert node.status()["source"]["reason"] == "connection refused"
    node.list(*RECORDS)
    await node.at_rest()
    assert (node.kernel.names, node.charon.names) == before
    assert node.status()["synced"]


async def test_a_sudden_loss_is_held_until_confirmed(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        node.list(EDGE2)
        await node.at_rest()
    assert [line["keys"] for line in logs if line["event"] == "sudden loss of records held"] == [
        ("nodes/cloud1", "nodes/edge3")
    ]
    assert node.peer("edge3")["up"]
    assert node.status()["held"] == ["/fabric/nodes/cloud1", "/fabric/nodes/edge3"]
    assert node.reconciler.confirm() == ("nodes/cloud1", "nodes/edge3")
    await node.at_rest()
    assert node.charon.held.conns == {}
    assert node.status()["held"] == []


async def test_what_was_held_and_comes_back_is_no_longer_shown_as_held(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.list(EDGE2)
    await node.at_rest()
    start = node.time
    before = len(node.beats)
    node.list(*RECORDS)
    await node.until(lambda: len(node.beats) > before)
    assert node.time == start
    assert node.status()["held"] == []
    await node.at_rest()
    assert node.peer("edge3")["up"]


# ---------------------------------------------------------------- credentials


async def test_without_credentials_charon_is_left_as_it_is(
    node: SimulatedNode, pki: Pki, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    pki.key.unlink()
    charon = FakeCharon(held=node.charon.held)
    again = SimulatedNode(pki.keyring(), FakeKernel(held=node.kernel.held), charon)
    again.list(*RECORDS)
    await again.start(nursery)
    await again.passes(3)
    assert (charon.applied, charon.initiated) == ([], [])
    assert any("node.key" in warning for warning in again.status()["warnings"])


async def test_a_renewed_certificate_is_found_by_the_sweep_and_taken_over_without_loss(
    node: SimulatedNode, pki: Pki, autojump_clock: MockClock
) -> None:
    pki.issue(days=1)
    pki.now += 2 * 86400
    old = node.charon.held.conns["fabric-edge3"].digest
    sas = {sa.id for sa in node.charon.held.sas}
    with capture_logs() as logs:
        await node.until(lambda: node.charon.held.conns["fabric-edge3"].digest != old)
        await node.at_rest()
    disruptions = {line["disruption"] for line in logs if line["event"] == "action"}
    assert disruptions == {"none", "rekey"}
    assert not sas & {sa.id for sa in node.charon.held.sas}
    assert node.peer("edge3")["up"]


async def test_each_change_of_the_credentials_is_logged_once(
    node: SimulatedNode, pki: Pki, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        pki.issue()
        await node.passes(3)
        pki.cert.write_text("no certificate")
        await trio.sleep(5 * SWEEP)
    found = [line for line in logs if line["event"].startswith("credentials")]
    assert [line["event"] for line in found] == ["credentials", "credentials can't be used"]
    assert found[0]["subject"] == "C=CN, O=StrongSwan, CN=edge2"
    assert str(pki.cert) in found[1]["fault"]


async def test_files_that_went_bad_change_nothing(
    node: SimulatedNode, pki: Pki, autojump_clock: MockClock
) -> None:
    before = node.charon.names
    pki.cert.write_text("no certificate")
    await node.until(lambda: node.reconciler.keyring.faults)
    await node.at_rest()
    assert node.charon.names == before
    assert any("node.crt" in warning for warning in node.status()["warnings"])


# ---------------------------------------------------------------- convergence


async def test_convergence_is_measured_once_per_change(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    assert node.counted("convergence_seconds_count") == 0
    node.charon.patience = 2.0
    node.change(
        put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")
    )
    await node.at_rest()
    await node.passes(3)
    assert node.counted("convergence_seconds_count") == 1
    assert node.counted("convergence_seconds_sum") == pytest.approx(2.0)


async def test_each_change_is_measured_from_its_own_time(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    """Also of changes that come so fast that the node is never at rest in between."""
    for number in range(4, 9):
        node.change(
            put(
                f"nodes/edge{number}",
                number,
                endpoint=f"10.0.0.{number}",
                subnets=[f"2.2.{number}.0/27"],
                community="app1",
            )
        )
        node.charon.patience = 1.0
        await node.until(lambda: node.charon.initiated[-1][1].conn == f"fabric-edge{number}")  # noqa: B023
        await trio.sleep(0.9)
    await node.at_rest()
    assert node.counted("convergence_seconds_count") == 5
    assert node.counted("convergence_seconds_bucket", le="1.0") == 5


async def test_a_tunnel_of_an_older_set_up_is_not_the_new_one(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.patience = 2.0
    moved = put("nodes/edge3", 2, endpoint="10.0.0.33", subnets=["2.2.2.32/27"], community="app1")
    node.change(moved)
    await node.at_rest()
    assert node.counted("convergence_seconds_count") == 1
    assert node.counted("convergence_seconds_sum") == pytest.approx(2.0)


async def test_a_peer_that_goes_before_its_tunnel_is_up_is_not_measured(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.fails["fabric-edge4"] = "no answer"
    node.change(
        put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")
    )
    await node.until(lambda: len(node.charon.initiated) > 5)
    node.change(Delete("nodes/edge4"))
    await node.at_rest()
    assert node.counted("convergence_seconds_count") == 0


# ---------------------------------------------------------------- what is remembered of peers


async def test_a_peer_that_is_gone_is_forgotten(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.carry(1000, 2000)
    node.charon.tell("child-rekey fabric-edge3")
    await node.at_rest()
    assert node.peer("edge3")["bytes_in"] == 1000
    node.change(Delete("nodes/edge3"))
    await node.at_rest()
    assert "fabric-edge3" not in node.reconciler.senses.traffic.conns
    assert "fabric-edge3" not in node.initiator.attempts
    node.change(EDGE3)
    await node.at_rest()
    assert node.peer("edge3")["bytes_in"] == 0
    assert node.peer("edge3")["initiations"] == 1


async def test_a_peer_is_listed_until_charon_has_nothing_of_it(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.silence = 0.5  # that long each look and each action takes
    node.charon.refused["conn.unload fabric-edge3"] = "busy"
    node.change(Delete("nodes/edge3"))
    await trio.sleep(0.1)
    leaving = node.peer("edge3")
    assert (leaving["up"], leaving["state"]) == (True, "leaving")
    assert leaving["reason"] == TAKEN_DOWN
    await trio.sleep(5)
    assert node.charon.times("conn.unload fabric-edge3")
    leaving = node.peer("edge3")
    assert (leaving["up"], leaving["state"]) == (False, "leaving")

    node.charon.refused.clear()
    with trio.fail_after(60):
        while "fabric-edge3" in node.charon.held.conns:
            assert node.peer("edge3")["state"] == "leaving"
            await trio.sleep(0.05)
    node.charon.silence = 0
    await node.at_rest()
    assert [peer["name"] for peer in node.status()["peers"]] == ["cloud1"]
    assert node.reconciler.picture.leaving == ()


async def test_a_peer_that_comes_back_while_it_is_leaving_is_listed_once(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.refused["conn.unload fabric-edge3"] = "busy"
    node.change(Delete("nodes/edge3"))
    await trio.sleep(5)
    assert node.peer("edge3")["state"] == "leaving"
    node.change(EDGE3)
    await node.at_rest()
    assert node.peer("edge3")["state"] == "up"
    assert node.reconciler.picture.leaving == ()


async def test_while_the_store_is_away_who_leaves_stays_and_keeps_its_numbers(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.carry(1000, 2000)
    node.charon.tell("child-rekey fabric-edge3")
    await node.at_rest()
    node.change(Delete("nodes/edge3"))
    node.reconciler.feed(Lost("connection refused"))
    await trio.sleep(3600)
    leaving = node.peer("edge3")
    assert (leaving["up"], leaving["state"]) == (True, "leaving")
    assert leaving["reason"] == KEPT
    assert (leaving["bytes_in"], leaving["initiations"]) == (1000, 1)
    node.list(EDGE2, CLOUD1)
    await node.at_rest()
    assert [peer["name"] for peer in node.status()["peers"]] == ["cloud1"]
    assert "fabric-edge3" not in node.reconciler.senses.traffic.conns


async def test_a_charon_that_is_away_has_nothing_that_could_be_listed(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.away = "no socket"
    node.change(Delete("nodes/edge3"))
    await node.passes(2)
    assert [peer["name"] for peer in node.status()["peers"]] == ["cloud1"]
    node.charon.away = ""
    await node.at_rest()
    assert "fabric-edge3" not in node.charon.held.conns
    assert node.reconciler.picture.leaving == ()


async def test_who_sees_another_state_of_charon_finds_what_follows_up_to_date(
    node: SimulatedNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many peers others have their turn in between: the prober for one."""
    checkpoint = trio.lowlevel.checkpoint
    seen: list[set[str]] = []
    health = node.reconciler.senses.health

    async def others_have_their_turn() -> None:
        if node.reconciler.picture.ike is not before:
            seen.append({conn for conn, _ in health.pairs})
        await checkpoint()

    node.change(
        put("nodes/edge4", 4, endpoint="10.0.0.4", subnets=["2.2.2.64/27"], community="app1")
    )
    await node.until(lambda: "fabric-edge4" in node.charon.held.conns)
    before = node.reconciler.picture.ike
    monkeypatch.setattr(trio.lowlevel, "checkpoint", others_have_their_turn)
    await node.until(lambda: node.peer("edge4")["up"])
    assert seen
    assert all("fabric-edge4" in pairs for pairs in seen)


async def test_the_loop_beats_while_there_is_nothing_to_do(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.list(*RECORDS)
    await node.start(nursery, beat=2.0)
    await node.until(lambda: node.time > 100)
    gaps = [b - a for a, b in zip(node.beats, node.beats[1:], strict=False)]
    assert max(gaps) <= 2.0 + 1e-6


async def test_the_loop_beats_through_a_struggle(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.kernel.idle.add(f"route.set {TO_EDGE3}")
    node.list(*RECORDS)
    await node.start(nursery, beat=2.0)
    await node.until(lambda: node.time > 100)
    gaps = [b - a for a, b in zip(node.beats, node.beats[1:], strict=False)]
    assert max(gaps) <= 2.0 + 1e-6


async def test_at_rest_only_the_sweep_looks(node: SimulatedNode, autojump_clock: MockClock) -> None:
    start, before = node.time, node.reconciler.picture.passes
    await node.until(lambda: node.time > start + 10 * SWEEP)
    assert node.reconciler.picture.passes - before <= 12


async def test_a_charon_that_hangs_does_not_keep_the_kernel_waiting(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    node.charon.silence, node.charon.away = 5.0, "no answer within 5 s"
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]
    before = trio.current_time()
    node.charon.tell("child-updown fabric-edge3")
    node.kernel.tell("route 2.2.2.32/27")
    await node.passes(1)
    assert node.kernel.times(f"route.set {TO_EDGE3}")[-1] == before
    assert trio.current_time() == before + 5
    # Who asks for the status meanwhile is answered, and nobody waits for charon again.
    await node.reconciler.refresh()
    assert trio.current_time() == before + 5


async def test_a_rejected_record_is_logged_once(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        for key, subnet in (
            ("edge9", "2.2.2.0/27"),
            ("edge8", "2.2.9.0/27"),
            ("edge9", "2.2.10.0/27"),
        ):
            node.change(put(f"nodes/{key}", 9, subnets=[subnet]))
            await node.passes(1)
    told = [entry for entry in logs if "rejected" in entry["event"]]
    assert [(entry["event"], entry["key"], entry.get("field")) for entry in told] == [
        ("record rejected", "nodes/edge9", "subnets"),
        ("record is no longer rejected", "nodes/edge9", None),
    ]


# ---------------------------------------------------------------- a plan on request


async def test_a_fresh_plan_looks_for_itself_and_does_nothing(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    key, _ = route_of(node, "2.2.2.32/27")
    del node.kernel.held.routes[key]  # nobody was told
    actions, away = await node.reconciler.fresh_plan()
    assert ([action.target for action in actions], away) == ([TO_EDGE3], {})
    assert key not in node.kernel.held.routes
    node.kernel.away = "no answer"
    assert await node.reconciler.fresh_plan() == ((), {"kernel": "no answer"})
    node.kernel.away, node.charon.away = "", "no socket"
    actions, away = await node.reconciler.fresh_plan()
    assert ([action.target for action in actions], away) == ([TO_EDGE3], {"charon": "no socket"})


async def test_a_link_that_is_not_ours_is_told_of_once(
    keyring: Keyring, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = SimulatedNode(keyring)
    node.list(*RECORDS)
    await node.start(nursery)
    await node.at_rest()
    link = node.kernel.held.links["br-edge"]
    node.kernel.held.links["br-edge"] = replace(link, alias="")
    with capture_logs() as logs:
        node.kernel.tell("link br-edge")
        await node.at_rest()
        for number in range(4, 8):
            node.change(
                put(
                    f"nodes/edge{number}",
                    number,
                    endpoint=f"10.0.0.{number}",
                    subnets=[f"2.2.{number}.0/27"],
                    community="app1",
                )
            )
            await node.at_rest()
    assert len([line for line in logs if "not ours" in line["event"]]) == 1
    assert any("br-edge" in warning for warning in node.status()["warnings"])


# ---------------------------------------------------------------- a better gateway


async def test_an_edge_moves_to_a_better_gateway_when_its_time_has_come(
    node: SimulatedNode, autojump_clock: MockClock
) -> None:
    """And not at the next sweep only: it looks again by itself."""
    cloud2 = put(
        "nodes/cloud2", 4, role="cloud", endpoint="10.0.0.9", subnets=["10.233.0.0/16"], priority=50
    )
    node.change(cloud2)
    await node.at_rest()
    node.charon.held.sas = [replace(sa, age=1000) for sa in node.charon.held.sas]
    await node.at_rest()
    assert (node.peer("cloud1")["state"], node.peer("cloud2")["state"]) == ("up", "standby")
    since = node.time
    node.change(replace(cloud2, value=cloud2.value.replace(b"50", b"150")))
    await node.until(lambda: node.peer("cloud2")["state"] == "up")
    took = node.time - since
    assert probation("edge2") <= took <= probation("edge2") + 1.5 * LINGER
