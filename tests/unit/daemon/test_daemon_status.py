"""Status documents of pictures that are made by hand."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from fabricd.core.desired import desired
from fabricd.core.essence import essence
from fabricd.core.events import Listed, Lost, Put
from fabricd.core.rib import Rib
from fabricd.core.state import Child, ChildSa, IkeSa, IkeState, KernelState, Link
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.peers import Peers
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.status import About, document, headline, not_ready, overview
from fabricd.model import Prefix
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.fakes import (
    CLOUD1,
    EDGE2,
    EDGE3,
    RECORDS,
    TEMPLATE,
    FakeCharon,
    FakeKernel,
    put,
)

NOW = 1.75e9
AROUND = Surroundings("edge2", (Prefix("2.0.0.0/8"),), "br-edge")
TO_EDGE3 = Child(Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27"))


@dataclass
class Desk:
    """A picture to be painted, and the document of it."""

    reconciler: Reconciler
    initiator: Initiator
    about: About = field(
        default=About(
            "edge2",
            "etcd",
            lambda key, field: "",
            "/fabric",
            last_event=NOW - 5,
            snapshot_fault="",
            now=NOW,
        )
    )

    def records(self, *records: Put, name: str = "edge2") -> None:
        """These are in force, kernel and charon were seen, and there is nothing in them."""
        rib, picture = self.reconciler.rib, self.reconciler.picture
        rib.apply(Listed(records), 0)
        picture.in_force = rib.in_force()
        around = replace(AROUND, name=name, identity=self.reconciler.keyring.identity)
        picture.desired = desired(picture.in_force.nodes, picture.in_force.communities, around)
        picture.kernel, picture.ike = KernelState(), IkeState()
        picture.passes = 1
        self.about = replace(self.about, node=name)

    def sas(self, *sas: IkeSa) -> None:
        self.reconciler.picture.ike = IkeState(sas=sas)

    def child(self, conn: str, pair: Child = TO_EDGE3, **more: Any) -> ChildSa:
        name = self.reconciler.picture.desired.conns[conn].child_name(pair)
        sides = frozenset({pair.local}), frozenset({pair.remote})
        return replace(ChildSa(7, name, "INSTALLED", *sides), **more)

    def document(self) -> dict[str, Any]:
        peers = Peers(self.reconciler, self.initiator)
        result = document(self.about, self.reconciler, peers.rows(self.about.now))
        assert json.loads(msgspec.json.encode(result)) == result
        glance = document(self.about, self.reconciler, peers.brief())
        assert essence(glance) == essence(result)
        return result

    def not_ready(self, passes: int) -> tuple[str, ...]:
        reasons = not_ready(self.document(), passes)
        assert not_ready(overview(self.about, self.reconciler), passes) == reasons
        return reasons

    def peer(self, name: str = "edge3") -> dict[str, Any]:
        [found] = [peer for peer in self.document()["peers"] if peer["name"] == name]
        return dict(found)

    def verdict(self, name: str = "edge3") -> tuple[bool, str, str]:
        peer = self.peer(name)
        return peer["up"], peer["state"], peer["reason"]


@pytest.fixture
async def desk(keyring: Keyring) -> Desk:
    charon, rng = FakeCharon(), random.Random(1)
    keyring.refresh()
    reconciler = Reconciler(
        rib=Rib(TEMPLATE),
        around=AROUND,
        kernel=FakeKernel(),
        charon=charon,
        keyring=keyring,
        rng=rng,
    )
    return Desk(reconciler, Initiator(charon, reconciler.charon_changed, rng))


def sa(conn: str = "fabric-edge3", *children: ChildSa, **more: Any) -> IkeSa:
    return replace(
        IkeSa(1, conn, "ESTABLISHED", initiator=True, remote_host="10.0.0.3", age=60),
        children=children,
        **more,
    )


# ---------------------------------------------------------------- one peer


async def test_up(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.sas(sa("fabric-edge3", desk.child("fabric-edge3", bytes_in=10, bytes_out=20, age=30)))
    assert desk.peer() == {
        "name": "edge3",
        "role": "edge",
        "up": True,
        "state": "up",
        "reason": "",
        "initiator": True,
        "endpoint": "10.0.0.3",
        "remote": "10.0.0.3",
        "communities": ["app1"],
        "ike": "ESTABLISHED",
        "age": 60,
        "established": NOW - 60,
        "bytes_in": 0,
        "bytes_out": 0,
        "rekeys": 0,
        "initiations": 0,
        "last_error": "",
        "certificate": None,
        "children": [
            {
                "local": "2.2.2.0/27",
                "remote": "2.2.2.32/27",
                "up": True,
                "state": "INSTALLED",
                "bytes_in": 10,
                "bytes_out": 20,
                "age": 30,
            }
        ],
    }


@pytest.mark.parametrize("state", ["UPDATING", "REKEYING"])
async def test_up_while_it_is_rekeyed(desk: Desk, state: str) -> None:
    desk.records(*RECORDS)
    desk.sas(sa("fabric-edge3", desk.child("fabric-edge3", state=state), state="REKEYING"))
    assert desk.verdict() == (True, "up", "")


async def test_not_up_only_because_there_is_an_ike_sa(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.sas(sa())
    assert desk.verdict() == (False, "connecting", "1 of 1 CHILD_SAs missing")
    assert desk.peer()["ike"] == "ESTABLISHED"
    assert desk.peer()["children"][0]["state"] == ""


@pytest.mark.parametrize("state", ["CREATED", "INSTALLING", "REKEYED", "DELETING", "ROUTED"])
async def test_not_up_only_because_a_row_exists(desk: Desk, state: str) -> None:
    desk.records(*RECORDS)
    desk.sas(sa("fabric-edge3", desk.child("fabric-edge3", state=state)))
    up, word, _ = desk.verdict()
    assert (up, word) == (False, "connecting")
    assert desk.peer()["children"][0]["state"] == state


async def test_being_connected(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.sas(sa("fabric-edge3", state="CONNECTING", age=0))
    peer = desk.peer()
    assert (peer["state"], peer["ike"], peer["age"], peer["established"]) == (
        "connecting",
        "CONNECTING",
        None,
        None,
    )


async def test_partial(desk: Desk) -> None:
    two = put(
        "nodes/edge3",
        2,
        endpoint="10.0.0.3",
        community="app1",
        subnets=["2.2.2.32/27", "2.2.2.64/27"],
    )
    desk.records(EDGE2, two)
    desk.sas(sa("fabric-edge3", desk.child("fabric-edge3")))
    assert desk.verdict() == (False, "partial", "1 of 2 CHILD_SAs missing")
    assert [child["up"] for child in desk.peer()["children"]] == [True, False]


async def test_narrowed(desk: Desk) -> None:
    desk.records(*RECORDS)
    child = desk.child("fabric-edge3", remote=frozenset({"2.2.2.32/28"}))
    desk.sas(sa("fabric-edge3", child))
    up, state, reason = desk.verdict()
    assert (up, state) == (False, "connecting")
    assert reason == f"{child.name} was narrowed to 2.2.2.0/27 - 2.2.2.32/28"


async def test_waiting_for_the_peer_to_initiate(desk: Desk) -> None:
    desk.records(*RECORDS, name="edge3")
    assert desk.verdict("edge2") == (
        False,
        "waiting",
        "1 of 1 CHILD_SAs missing: edge2 has to initiate",
    )
    assert not desk.peer("edge2")["initiator"]


async def test_an_error_of_the_last_attempt_is_the_reason(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.initiator.errors["fabric-edge3"] = "peer answered NO_PROPOSAL_CHOSEN"
    desk.initiator.attempts["fabric-edge3"] = 4
    assert desk.verdict()[2] == "peer answered NO_PROPOSAL_CHOSEN"
    assert desk.peer()["last_error"] == "peer answered NO_PROPOSAL_CHOSEN"
    assert desk.peer()["initiations"] == 4


@pytest.mark.parametrize(("name", "peer"), [("edge2", "edge3"), ("edge3", "edge2")])
async def test_a_connection_that_charon_refuses_is_the_reason(
    desk: Desk, name: str, peer: str
) -> None:
    desk.records(*RECORDS, name=name)
    desk.reconciler.picture.failures[f"conn.load fabric-{peer}"] = "invalid value for: id"
    assert desk.verdict(peer)[2] == "invalid value for: id"
    assert f"conn.load fabric-{peer}: invalid value for: id" in desk.document()["warnings"]


async def test_a_gateway_that_stands_by(desk: Desk) -> None:
    second = put(
        "nodes/cloud2", 4, role="cloud", endpoint="10.0.0.9", subnets=["10.233.0.0/16"], priority=50
    )
    desk.records(EDGE2, CLOUD1, second)
    assert desk.verdict("cloud2") == (False, "standby", "no IKE_SA")
    desk.initiator.errors["fabric-cloud2"] = "no answer"
    assert desk.verdict("cloud2") == (False, "standby", "no answer")
    desk.sas(sa("fabric-cloud2"))
    assert desk.verdict("cloud2") == (True, "standby", "")
    assert desk.peer("cloud2")["children"] == []
    assert desk.verdict("cloud1")[1] == "connecting"


async def test_impossible(desk: Desk) -> None:
    desk.records(
        put("nodes/edge2", subnets=["2.2.2.0/27"], community="app1"),
        put("nodes/edge3", 2, subnets=["2.2.2.32/27"], community="app1"),
    )
    assert desk.verdict() == (False, "impossible", "neither edge2 nor edge3 has an endpoint")


async def test_charon_away(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.reconciler.picture.ike = None
    desk.reconciler.picture.faults["charon"] = "/run/charon.vici: no such socket"
    assert desk.verdict() == (False, "unknown", "charon does not answer")
    assert desk.document()["charon"] == {
        "ok": False,
        "reason": "/run/charon.vici: no such socket",
        "userspace_esp": None,
    }


async def test_the_newest_ike_sa_counts(desk: Desk) -> None:
    desk.records(*RECORDS)
    old = sa("fabric-edge3", desk.child("fabric-edge3"), remote_host="10.0.0.3")
    desk.sas(old, sa("fabric-edge3", id=2, remote_host="10.0.0.33", age=1))
    assert (desk.peer()["remote"], desk.peer()["age"]) == ("10.0.0.33", 1)
    assert desk.peer()["up"]


async def test_peers_by_name(desk: Desk) -> None:
    desk.records(*RECORDS)
    assert [peer["name"] for peer in desk.document()["peers"]] == ["cloud1", "edge3"]


# ---------------------------------------------------------------- the whole


async def test_a_node_at_rest(desk: Desk) -> None:
    desk.records(*RECORDS, put("communities/app2", 9, members=["edge2"]))
    status = desk.document()
    assert status["node"] == "edge2"
    assert status["role"] == "edge"
    assert status["time"] == NOW
    assert status["synced"] is True
    assert status["source"] == {
        "type": "etcd",
        "synced": True,
        "reason": "",
        "last_event": NOW - 5,
    }
    assert status["kernel"] == {"ok": True, "reason": ""}
    assert status["charon"] == {"ok": True, "reason": "", "userspace_esp": False}
    assert status["records"] == {"node": 3, "community": 1}
    assert (status["rejected"], status["held"], status["warnings"]) == ([], [], [])
    assert status["certificates"].keys() == {
        "C=CN, O=StrongSwan, CN=edge2",
        "C=CN, O=StrongSwan, CN=Root CA",
    }


async def test_rejected_records_with_their_whole_keys(desk: Desk) -> None:
    desk.records(*RECORDS, put("nodes/edge9", 9, subnets=["2.2.2.1/27"]))
    [line] = desk.document()["rejected"]
    assert line["key"] == "/fabric/nodes/edge9"
    assert line["field"] == "subnets"
    assert "host bits" in line["reason"]
    assert "at" not in line

    desk.about = replace(desk.about, place=lambda key, field: f"annotation {field} of {key}")
    [line] = desk.document()["rejected"]
    assert line["at"] == "annotation subnets of nodes/edge9"


async def test_what_is_held_is_warned_of(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.records(EDGE2)
    status = desk.document()
    assert status["held"] == ["/fabric/nodes/cloud1", "/fabric/nodes/edge3"]
    assert any("fabricctl confirm" in warning for warning in status["warnings"])


async def test_a_node_without_a_record(desk: Desk) -> None:
    desk.records(EDGE3, CLOUD1)
    status = desk.document()
    assert (status["role"], status["peers"]) == (None, [])
    assert status["warnings"] == ["there is no record /fabric/nodes/edge2 in force: no peers"]


async def test_a_link_of_somebody_else(desk: Desk) -> None:
    desk.records(*RECORDS)
    link = Link("br-edge", "bridge", up=True)
    desk.reconciler.picture.kernel = KernelState(links={"br-edge": link})
    assert desk.document()["warnings"] == [
        "link br-edge was not made by fabricd: used as it is, never changed"
    ]


async def test_a_snapshot_that_can_not_be_kept(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.about = replace(desk.about, snapshot_fault="No space left on device")
    assert desk.document()["warnings"] == ["the last good records on disk: No space left on device"]


async def test_credentials_that_can_not_be_used(desk: Desk, pki: Pki) -> None:
    pki.key.unlink()
    desk.reconciler.keyring = pki.keyring()
    desk.reconciler.keyring.refresh()
    desk.records(*RECORDS)
    status = desk.document()
    assert status["certificates"] == {}
    assert any(str(pki.key) in warning for warning in status["warnings"])
    assert desk.verdict()[2] == "this node's certificate or key can't be used"
    assert desk.not_ready(1) == ("credentials: there are none that can be used",)


async def test_before_the_first_pass(desk: Desk) -> None:
    status = desk.document()
    assert status["source"]["reason"] == "no answer yet"
    assert status["kernel"] == {"ok": False, "reason": "not looked at yet"}
    assert desk.not_ready(0) == (
        "store: no answer yet",
        "kernel: not looked at yet",
        "charon: not looked at yet",
        "the first pass is not done",
    )


# ---------------------------------------------------------------- in one line, and in its essence


async def test_headline(desk: Desk) -> None:
    desk.records(*RECORDS, put("nodes/edge9", 9, subnets=["2.2.2.1/27"]))
    desk.sas(sa("fabric-edge3", desk.child("fabric-edge3")))
    assert headline(desk.document(), 1) == "1 of 2 tunnels up, 1 faults in records"
    desk.reconciler.rib.apply(Lost("connection refused"), 1)
    assert headline(desk.document(), 1) == (
        "1 of 2 tunnels up, 1 faults in records; store: connection refused"
    )


async def test_only_what_matters_is_worth_a_write(desk: Desk) -> None:
    desk.records(*RECORDS)
    child = desk.child("fabric-edge3")
    desk.sas(sa("fabric-edge3", child))
    before = essence(desk.document())
    desk.about = replace(desk.about, now=NOW + 60, last_event=NOW + 50)
    desk.sas(sa("fabric-edge3", replace(child, bytes_in=1000, age=90), age=120))
    desk.reconciler.senses.traffic.update(desk.reconciler.picture.ike or IkeState())
    assert essence(desk.document()) == before
    for change in (
        lambda: desk.sas(sa("fabric-edge3", child, remote_host="10.0.0.33")),
        desk.sas,
        lambda: desk.reconciler.rib.apply(Lost("connection refused"), 1),
        lambda: desk.reconciler.picture.faults.update(kernel="gone"),
    ):
        change()
        assert essence(desk.document()) != before
        before = essence(desk.document())


async def test_a_charon_that_checks_too_little_is_told(desk: Desk) -> None:
    desk.records(*RECORDS)
    desk.sas()
    complete = frozenset({"addrblock", "revocation", "vici"})
    for plugins, missing in ((complete, []), (complete - {"addrblock"}, ["addrblock"])):
        picture = desk.reconciler.picture
        assert picture.ike is not None
        picture.ike = replace(picture.ike, plugins=plugins)
        warnings = desk.document()["warnings"]
        assert [w.partition(":")[0] for w in warnings if "plugin" in w] == [
            f"charon runs without its plugin {name}" for name in missing
        ]
