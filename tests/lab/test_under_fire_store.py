"""etcd under fire, on a whole fabric: whatever befalls it, or is written into it, no ping is lost,
and nodes say what is wrong.

An etcd that is killed is in test_outages.py; clusters, TLS and users in test_under_fire_etcd.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab.demo import PATHS
from lab.etcd import Etcd
from lab.fabric import Fabric
from lab.process import CommandError, wait_until
from lab.topology import RECORDS
from tests.lab.observe import (
    SOON,
    Log,
    ike,
    metrics,
    or_else,
    sas,
    status,
    wait_converged,
    wait_peers,
    wait_status,
    wait_unready,
    whole,
)
from tests.lab.under_fire import (
    ALL,
    NODES,
    change_is_obeyed,
    pods_talk_again,
    states,
    under_fire,
    unharmed,
    warnings,
)

fabric = pytest.fixture(scope="module")(under_fire)


# ---------------------------------------------------------------- faults that interrupt nothing


@dataclass(frozen=True)
class Fault:
    """Something that befalls etcd, and how it ends."""

    what: str
    strikes: Callable[[Fabric], object]
    says: Callable[[Fabric], object]
    """What is to be seen meanwhile."""
    ends: Callable[[Fabric], object]


def freeze(fabric: Fabric) -> None:
    fabric.etcd.freeze()


def nothing_is_heard(fabric: Fabric) -> None:
    """A daemon that is killed then starts from the last good records."""
    for name in NODES:
        seen = wait_status(fabric, name, "misses the store", lambda seen: not seen["synced"])
        assert wait_unready(fabric, name, "store")
        assert {peer["up"] for peer in seen["peers"]} == {True}
        assert metrics(fabric, name)["fabricd_source_synced"] == 0
    log = Log(fabric, "edge2")
    fabric.kill_fabricd("edge2")
    fabric.start_fabricd("edge2")
    said = log.wait("store does not answer: going on with the last good records")
    assert said["nodes"] == len(NODES)
    wait_peers(fabric, "edge2", "node1", "edge3")


def thaw(fabric: Fabric) -> None:
    fabric.etcd.thaw()


def compact_while_away(fabric: Fabric) -> None:
    """The nodes don't reach it; an operator changes a record and forgets all history."""
    fabric.etcd.kill()
    aside = Etcd(fabric.run, namespace=fabric.etcd.namespace, port=2479)
    assert aside.data == fabric.etcd.data
    aside.start()
    for number in range(10):
        record = {**RECORDS["edge3"], f"changed-{number}": 1}
        aside.put("/fabric/nodes/edge3", record)
    aside.compact()
    aside.stop()
    fabric.etcd.start()


def change_is_seen(fabric: Fabric) -> None:
    for name in NODES:
        wait_status(fabric, name, "knows it all", lambda seen: "changed-9" in warnings(seen))


def change_back(fabric: Fabric) -> None:
    fabric.put_record("edge3", RECORDS["edge3"])


def wipe(fabric: Fabric) -> None:
    fabric.etcd.wipe()


def loss_is_held(fabric: Fabric) -> None:
    keys = [f"/fabric/nodes/{name}" for name in sorted(NODES)]
    for name in NODES:
        seen = wait_status(fabric, name, "holds the loss", lambda seen: seen["held"])
        assert seen["held"] == keys
        assert "sudden loss of 3 records is held, not obeyed" in warnings(seen)
        assert metrics(fabric, name)["fabricd_records_held"] == len(keys)
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"


def put_back(fabric: Fabric) -> None:
    for name, record in RECORDS.items():
        fabric.put_record(name, record)


def forget_everything(fabric: Fabric) -> None:
    fabric.etcd.delete("/fabric/", "--prefix")


FAULTS = (
    Fault("frozen", freeze, nothing_is_heard, thaw),
    Fault("compacted while away", compact_while_away, change_is_seen, change_back),
    Fault("restarted empty", wipe, loss_is_held, put_back),
    Fault("every record deleted at once", forget_everything, loss_is_held, put_back),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_etcd_is_struck_and_no_ping_is_lost(fabric: Fabric, fault: Fault) -> None:
    before = whole(fabric)
    with unharmed(fabric, *ALL):
        try:
            fault.strikes(fabric)
            fault.says(fabric)
            assert whole(fabric) == before
        finally:
            fault.ends(fabric)
        wait_converged(fabric)
        for name in NODES:
            wait_status(fabric, name, "holds nothing", lambda seen: not seen["held"])
        change_is_obeyed(fabric, "after-that")
    assert whole(fabric) == before


# ---------------------------------------------------------------- etcd has no room


@pytest.fixture
def small_etcd(fabric: Fabric) -> Iterator[Etcd]:
    """The same data, and room for little more."""
    etcd = fabric.etcd
    etcd.flags = ("--quota-backend-bytes", str(2 << 20))
    etcd.restart()
    yield etcd
    etcd.flags = ()
    etcd.restart()


def fill_up(etcd: Etcd) -> None:
    """Until it takes nothing any more."""

    def full() -> bool:
        try:
            etcd.ctl("put", "ballast", stdin="x" * (1 << 19))
        except CommandError as error:
            return "database space exceeded" in error.errors
        return False

    wait_until(full, "etcd is full", SOON)


def make_room(etcd: Etcd) -> None:
    """As etcd's manual has it."""
    etcd.delete("ballast")
    etcd.compact()
    etcd.ctl("defrag")
    etcd.ctl("alarm", "disarm")


def told_of(etcd: Etcd, name: str) -> list[Any]:
    """The rejections in a node's published status."""
    status = json.loads(etcd.get(f"/fabric/status/{name}") or "{}")
    return list(status.get("rejected", ()))


def test_an_etcd_that_takes_no_more_writes_is_read_on(fabric: Fabric, small_etcd: Etcd) -> None:
    before = whole(fabric)
    with or_else(lambda: make_room(small_etcd)), unharmed(fabric, *ALL):
        small_etcd.put("/fabric/nodes/wrong", "{")
        wait_converged(fabric)
        for name in NODES:
            wait_until(lambda: told_of(small_etcd, name), "published", SOON)  # noqa: B023
        fill_up(small_etcd)
        wait_until(lambda: "alarm:NOSPACE" in small_etcd.ctl("alarm", "list"), "an alarm", SOON)
        logs = {name: Log(fabric, name) for name in NODES}

        # What is deleted is deleted all the same, and obeyed; of that no node can tell.
        small_etcd.delete("/fabric/nodes/wrong")
        for name, log in logs.items():
            wait_status(fabric, name, "obeys", lambda seen: not seen["rejected"])
            reason = log.wait("status can't be published")["reason"]
            assert reason == f"{small_etcd.endpoint}: mvcc: database space exceeded"
            told = f"this status can't be published: {reason}"
            wait_status(fabric, name, told, lambda seen: told in seen["warnings"])  # noqa: B023
            assert told_of(small_etcd, name)
            assert status(fabric, name)["synced"]

        make_room(small_etcd)
        for name in NODES:
            wait_until(lambda: not told_of(small_etcd, name), "published", SOON)  # noqa: B023
            wait_status(fabric, name, "is content", lambda seen: not seen["warnings"])
        change_is_obeyed(fabric, "room-again")
    assert whole(fabric) == before


# ---------------------------------------------------------------- what is written into it

WRONG = (
    '{"role": "edge", "endpo',
    '{"subnets": ["2.9.9.1/27"]}',
    '{"subnets": ["2.2.2.0/26"]}',
    '{"subnets": ["0.0.0.0/0"]}',
    '{"role": "Edge", "subnets": ["2.9.9.0/27"]}',
)


def test_two_hundred_wrong_records_beside_good_ones(fabric: Fabric) -> None:
    before = whole(fabric)
    with (
        or_else(lambda: fabric.etcd.delete("/fabric/nodes/wrong", "--prefix")),
        unharmed(fabric, *ALL),
    ):
        lines = [
            f"put /fabric/nodes/wrong-{number} {json.dumps(WRONG[number % len(WRONG)])}"
            for number in range(200)
        ]
        for some in (lines[:100], lines[100:]):  # etcd takes 128 at once
            fabric.etcd.ctl("txn", stdin="\n" + "\n".join(some) + "\n\n\n")
        for name in NODES:
            wait_status(fabric, name, "rejects them", lambda seen: len(seen["rejected"]) == 200)
            assert metrics(fabric, name)["fabricd_records_rejected"] == 200
            assert metrics(fabric, name)['fabricd_records{kind="node"}'] == len(NODES)
        change_is_obeyed(fabric, "beside-them")
        assert whole(fabric) == before

        # The published status stays small.
        wait_until(lambda: len(told_of(fabric.etcd, "edge2")) == 100, "told", SOON)
        fabric.etcd.delete("/fabric/nodes/wrong", "--prefix")
        for name in NODES:
            wait_status(fabric, name, "rejects nothing", lambda seen: not seen["rejected"])
    assert whole(fabric) == before


# ---------------------------------------------------------------- a loss that is meant


def test_a_held_loss_of_everything_is_obeyed_once_it_is_confirmed(fabric: Fabric) -> None:
    before = states(fabric)
    with or_else(lambda: put_back(fabric)), unharmed(fabric, *ALL):
        forget_everything(fabric)
        loss_is_held(fabric)
    with or_else(lambda: put_back(fabric)), unharmed(fabric):  # what is somebody else's
        for name in NODES:
            said = fabric.fabricctl(name, "confirm")
            assert f"/fabric/nodes/{name}: its loss is obeyed\n" in said
        for name, node in fabric.nodes.items():
            wait_peers(fabric, name)
            wait_until(lambda: not sas(node.charon), "no SA is left", SOON)  # noqa: B023
            assert not [conn for conn in ike(node.charon)["conns"] if conn.startswith("fabric-")]
        for source, target in (PATHS["c1"], PATHS["c2"]):
            assert fabric.ping(source, target, 1) == 1

        put_back(fabric)
        for name in ("edge2", "edge3"):
            edge = fabric.namespaces[name]
            wait_until(lambda: edge.has_link("br-edge"), "the bridge is there", SOON)  # noqa: B023
            edge.ip("link", "set", f"v-pod-{name}", "master", "br-edge")
        pods_talk_again(fabric)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
