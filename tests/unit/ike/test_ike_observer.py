"""What charon lists, taken in: all of it, or that of a few connections."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio
from vici.protocol import Message

from fabricd.core.state import Child, Conn, IkeSa, IkeState
from fabricd.ike.connection import Answer
from fabricd.ike.observer import STEP, Observer
from fabricd.ike.protocol import Request
from fabricd.model import Prefix

SUBNETS = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")
CHILD = "2.2.2.0/27-2.2.2.32/27-d1"


def listed_conn(digest: str = "d1") -> dict[str, Any]:
    return {
        "remote_addrs": ["10.0.0.3"],
        "local-1": {"id": "CN=edge2"},
        "remote-1": {"id": "CN=edge3"},
        "children": {
            f"2.2.2.0/27-2.2.2.32/27-{digest}": {
                "local-ts": [SUBNETS[0]],
                "remote-ts": [SUBNETS[1]],
            }
        },
    }


def listed_sa(number: int) -> dict[str, Any]:
    return {"uniqueid": str(number), "state": "ESTABLISHED", "established": "12"}


def conn(name: str, digest: str = "d1") -> Conn:
    return Conn(name, digest, frozenset({Child(*SUBNETS)}))


def sa(number: int, name: str, age: int = 12) -> IkeSa:
    return IkeSa(number, name, "ESTABLISHED", initiator=False, age=age)


@dataclass
class Charon:
    """Answers as charon does; what it is asked with `ike` it answers for that connection alone."""

    conns: dict[str, dict[str, Any]] = field(default_factory=dict)
    sas: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)
    """Of which connections: None is all."""
    requests: list[Request] = field(default_factory=list)

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        await trio.lowlevel.checkpoint()
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        held: Mapping[str, Mapping[str, dict[str, Any]]]
        held = {"list-conns": self.conns, "list-sas": self.sas}
        wanted = request.message.get("ike")
        self.requests.append(request)
        if request.command in held:
            self.asked.append(wanted)
        items = held.get(request.command, {}).items()
        return Answer(
            {},
            tuple(
                Message.serialize({name: item}) for name, item in items if wanted in (None, name)
            ),
        )

    async def seen_by(self, observer: Observer, *asked: Any) -> IkeState:
        connection: Any = self
        return await observer.observe(connection, *asked)


async def test_everything_that_is_ours() -> None:
    charon = Charon(
        {"fabric-edge3": listed_conn(), "theirs": listed_conn()},
        {"fabric-edge3": listed_sa(7), "theirs": listed_sa(8)},
    )
    assert await charon.seen_by(Observer()) == IkeState(
        conns={"fabric-edge3": conn("fabric-edge3")}, sas=(sa(7, "fabric-edge3"),)
    )


async def test_of_a_few_connections_the_others_stay_as_they_were() -> None:
    charon, observer = Charon(), Observer()
    for number in range(3, 7):
        charon.conns[f"fabric-edge{number}"] = listed_conn()
        charon.sas[f"fabric-edge{number}"] = listed_sa(number)
    before = await charon.seen_by(observer)
    charon.conns = dict.fromkeys(["fabric-edge3", "fabric-edge4", "new"], listed_conn("d2"))
    charon.conns["fabric-new"] = listed_conn("d2")
    charon.sas = {"fabric-edge3": listed_sa(13), "fabric-edge4": listed_sa(14)}
    names = {"fabric-edge3", "fabric-edge5", "fabric-new", "fabric-never"}
    charon.asked.clear()
    assert await charon.seen_by(observer, names, before) == IkeState(
        conns={
            "fabric-edge3": conn("fabric-edge3", "d2"),
            "fabric-edge4": conn("fabric-edge4"),
            "fabric-edge6": conn("fabric-edge6"),
            "fabric-new": conn("fabric-new", "d2"),
        },
        sas=(sa(4, "fabric-edge4"), sa(6, "fabric-edge6"), sa(13, "fabric-edge3")),
    )
    assert charon.asked == [*names, *names]


async def test_without_a_last_time_everything_is_looked_at() -> None:
    charon = Charon({"fabric-edge3": listed_conn(), "fabric-edge4": listed_conn()})
    seen = await charon.seen_by(Observer(), {"fabric-edge3"}, None)
    assert seen.conns.keys() == {"fabric-edge3", "fabric-edge4"}


async def test_connections_that_have_not_changed_are_the_same_objects() -> None:
    charon, observer = Charon(), Observer()
    charon.conns = {"fabric-edge3": listed_conn(), "fabric-edge4": listed_conn()}
    before = await charon.seen_by(observer)
    charon.conns["fabric-edge4"] = listed_conn("d2")
    for after in (
        await charon.seen_by(observer),
        await charon.seen_by(observer, {"fabric-edge4"}, before),
        await charon.seen_by(observer),
    ):
        assert after.conns["fabric-edge3"] is before.conns["fabric-edge3"]
        assert after.conns["fabric-edge4"] == conn("fabric-edge4", "d2")


async def test_nothing_is_remembered_but_the_last_listing() -> None:
    charon, observer = Charon(), Observer()
    await charon.seen_by(observer)

    async def look(number: int) -> None:
        charon.conns = {"fabric-edge3": {**listed_conn(), "note": "x" * 50_000 + str(number)}}
        last = await charon.seen_by(observer)
        charon.conns["fabric-edge3"]["note"] += "!"
        await charon.seen_by(observer, {"fabric-edge3"}, last)

    await look(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 50):
            await look(number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500_000


async def test_others_have_their_turn_while_a_long_list_is_decoded() -> None:
    charon = Charon({f"fabric-edge{number}": listed_conn() for number in range(20 * STEP)})
    charon.sas = {f"fabric-edge{number}": listed_sa(number) for number in range(20 * STEP)}
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await charon.seen_by(Observer())
        nursery.cancel_scope.cancel()
    assert turns >= 35


async def test_all_ages_are_of_the_last_time_that_everything_was_looked_at() -> None:
    charon, observer = Charon(), Observer()
    for number, age in ((3, 50), (4, 60)):
        charon.conns[f"fabric-edge{number}"] = listed_conn()
        charon.sas[f"fabric-edge{number}"] = {**listed_sa(number), "established": str(age)}
    before = await charon.seen_by(observer)
    charon.sas["fabric-edge4"] = {**listed_sa(14), "established": "1"}
    later = replace(before, elapsed=5)
    after = await charon.seen_by(observer, {"fabric-edge4"}, later)
    assert {found.conn: found.age + after.elapsed for found in after.sas} == {
        "fabric-edge3": 55,
        "fabric-edge4": 1,
    }
    assert after.of("fabric-edge3")[0] is before.of("fabric-edge3")[0]


async def test_a_look_at_few_connections_asks_for_nothing_else() -> None:
    charon, observer = Charon({"fabric-edge3": listed_conn()}), Observer()
    before = await charon.seen_by(observer)
    charon.requests.clear()
    await charon.seen_by(observer, {"fabric-edge3"}, before)
    assert [(request.command, request.message) for request in charon.requests] == [
        ("list-certs", {"type": "X509", "subject": "CN=edge3"}),
        ("list-conns", {"ike": "fabric-edge3"}),
        ("list-sas", {"ike": "fabric-edge3"}),
    ]


async def test_of_a_connection_that_is_new_the_certificate_is_looked_at_too() -> None:
    charon, observer = Charon(), Observer()
    before = await charon.seen_by(observer)
    charon.conns["fabric-edge3"], charon.sas["fabric-edge3"] = listed_conn(), listed_sa(3)
    charon.requests.clear()
    await charon.seen_by(observer, {"fabric-edge3"}, before)
    [certificates] = [r.message for r in charon.requests if r.command == "list-certs"]
    assert certificates == {"type": "X509", "subject": "CN=edge3"}
