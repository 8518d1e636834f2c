"""Documents of nodes with many peers and many faults, as they are published."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fabricd.core.graph import Level, level_of
from fabricd.daemon.abridged import MOST, ROOMY, abridged
from fabricd.probe.records import view_of

ETCD_TAKES = 3 << 19
"""1.5 MiB, --max-request-bytes."""

UP = {"up": True, "state": "up", "reason": "", "last_error": ""}
DOWN = {"up": False, "state": "waiting", "reason": "no IKE_SA", "last_error": "no IKE_SA"}


def peer(number: int, state: dict[str, Any], children: int = 1) -> dict[str, Any]:
    subnet = f"10.{number >> 8 & 255}.{number & 255}.0/24"
    pair = {"local": "2.2.2.0/27", "remote": subnet, "up": True, "state": "INSTALLED"}
    return {
        "name": f"edge{number}",
        "role": "edge",
        **state,
        "initiator": False,
        "endpoint": "",
        "remote": "203.0.113.77",
        "communities": [],
        "ike": "ESTABLISHED",
        "age": 12345,
        "established": 1763902345.25,
        "bytes_in": 123456789,
        "bytes_out": 123456789,
        "rekeys": 17,
        "initiations": 0,
        "certificate": {
            "serial": "5f3b9d2c8e7a61405f3b9d2c8e7a6140",
            "issuer": "CN=fabric CA",
            "not_after": 1795438345,
            "subnets": [subnet],
        },
        "children": [{**pair, "bytes_in": 12345678, "bytes_out": 12345678, "age": 2345}] * children,
    }


def status(peers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    faults = {"warnings": ["one"], "rejected": [], "held": []}
    return {"node": "cloud1", "role": "cloud", "synced": True, "peers": peers, **faults, **more}


def size(document: dict[str, Any]) -> int:
    return len(msgspec.json.encode(document))


def faults(count: int, reason: str = "wrong") -> list[dict[str, str]]:
    return [{"key": f"/fabric/nodes/n{n}", "field": "", "reason": reason} for n in range(count)]


def test_few_peers_are_published_as_they_are() -> None:
    whole = status([peer(n, UP) for n in range(100)])
    assert abridged(whole) == whole


def test_of_many_faults_a_hundred_are_published() -> None:
    published = abridged(status([], rejected=faults(5000)))
    assert published["rejected"] == faults(100)
    assert published["warnings"] == ["one", "rejected: 4900 more are not shown here"]
    assert abridged(status([], rejected=faults(100)))["warnings"] == ["one"]
    crowded = abridged(status([], rejected=faults(5000), warnings=["one"] * 200))
    assert crowded["warnings"][100:] == [
        "warnings: 100 more are not shown here",
        "rejected: 4900 more are not shown here",
    ]


def test_a_fault_of_which_too_much_is_said_is_left_out() -> None:
    long = "ä" * (1 << 20)
    published = abridged(
        status([], rejected=faults(1, long) + faults(1), warnings=[long, "two"], held=[long])
    )
    assert published["rejected"] == faults(1)
    assert published["warnings"] == [
        "two",
        *(f"{name}: 1 more are not shown here" for name in ("warnings", "rejected", "held")),
    ]


@pytest.mark.parametrize("state", [UP, DOWN], ids=["up", "down"])
@pytest.mark.parametrize("count", [1_000, 5_000, 20_000])
def test_all_peers_are_in_a_document_that_every_store_takes(
    count: int, state: dict[str, Any]
) -> None:
    whole = status([peer(n, state) for n in range(count)])
    published = abridged(whole)
    assert size(published) <= MOST < ETCD_TAKES
    assert [each["name"] for each in published["peers"]] == [f"edge{n}" for n in range(count)]
    view, full = view_of(published), view_of(whole)
    assert {name: level_of(each) for name, each in view.peers.items()} == {
        name: level_of(each) for name, each in full.peers.items()
    }


def test_a_thousand_peers_that_are_up_are_told_without_their_figures() -> None:
    whole = status([peer(n, UP, children=2) for n in range(1_000)])
    assert size(whole) > ROOMY
    published = abridged(whole)
    assert size(published) <= ROOMY
    assert published["peers"][7] == {
        "name": "edge7",
        "role": "edge",
        **UP,
        "certificate": {"not_after": 1795438345, "subnets": ["10.0.7.0/24"]},
    }
    assert view_of(published) == view_of(whole), "nothing is missing to `why` and `graph`"
    [first, second] = published["warnings"]
    assert first == "one"
    assert second.startswith("peers: of those that are up not all is shown here")


@pytest.mark.parametrize("count", [1_000, 5_000, 20_000])
def test_of_peers_that_are_down_all_is_told_beside_those_that_are_up(count: int) -> None:
    down = [peer(n, DOWN) for n in range(0, count, count // 100)]
    places = {each["name"]: each for each in down}
    whole = status([places.get(f"edge{n}", peer(n, UP)) for n in range(count)])
    published = abridged(whole)
    assert size(published) <= MOST
    assert [each for each in published["peers"] if not each["up"]] == down


def test_a_peer_with_too_many_pairs_of_subnets_is_told_without_them() -> None:
    published = abridged(status([peer(1, DOWN, children=10_000), peer(2, UP)]))
    [first, second] = published["peers"]
    assert first == {
        "name": "edge1",
        "role": "edge",
        **DOWN,
        "certificate": {"not_after": 1795438345, "subnets": ["10.0.1.0/24"]},
    }
    assert second == {"name": "edge2", "up": True, "state": "up"}
    assert published["warnings"][1].startswith("peers: of none all is shown here")


def test_of_more_peers_than_there_is_room_for_those_that_are_up_are_left_out_first() -> None:
    names = "".join("0123456789"[n % 10] for n in range(58))
    crowd = [peer(n, DOWN if n % 100 == 0 else UP) for n in range(20_000)]
    for each in crowd:
        each["name"] = names + each["name"]
    published = abridged(status(crowd, rejected=faults(200, "w" * 5000)))
    assert MOST - 1024 < size(published) <= MOST
    assert sum(not each["up"] for each in published["peers"]) == 200
    missing = 20_000 - len(published["peers"])
    assert 0 < missing < 15_000
    assert published["warnings"][-1] == (
        f"peers: {missing} more are not shown here, those that are up before the others"
    )


@pytest.mark.parametrize("seen", [None, {"serial": "1", "not_after": 2.0, "subnets": None}])
def test_a_certificate_that_is_not_known_stays_so(seen: dict[str, Any] | None) -> None:
    crowd = [{**peer(n, UP, children=3), "certificate": seen} for n in range(1_500)]
    published = abridged(status(crowd))
    assert view_of(published) == view_of(status(crowd))


def test_standing_by_is_told_to_the_end() -> None:
    standby = {**UP, "state": "standby"}
    published = abridged(status([peer(n, standby) for n in range(20_000)]))
    assert {level_of(each) for each in view_of(published).peers.values()} == {Level.STANDBY}
