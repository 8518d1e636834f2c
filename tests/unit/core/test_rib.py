"""Which records are in force, told as transcripts: what the source said, what holds then."""

from __future__ import annotations

import json

import pytest

from fabricd.core.events import Changed, Delete, Listed, Lost, Put
from fabricd.core.rib import LOSS_WINDOW, VERSIONS, Rib

TEMPLATE = "CN={name}"


def put(name: str, *subnets: str, created: int = 0, **fields: object) -> Put:
    """A node record, as it stands in the store."""
    value = json.dumps({"subnets": subnets, **fields}).encode()
    return Put(f"nodes/{name}", value, created)


def broken(name: str, created: int = 0) -> Put:
    return Put(f"nodes/{name}", b"{", created)


def gone(*names: str) -> Changed:
    return Changed(tuple(Delete(f"nodes/{name}") for name in names))


def fleet(count: int) -> tuple[Put, ...]:
    return tuple(put(f"edge{n}", f"2.2.{n}.0/27") for n in range(count))


class Told(Rib):
    """A Rib that is told things, one second apart."""

    def __init__(self, hold_share: float = 0.5) -> None:
        super().__init__(TEMPLATE, hold_share)
        self.now = 0.0

    def hear(self, *events: Listed | Changed | Lost | Put, after: float = 1.0) -> Told:
        for event in events:
            self.now += after
            self.apply(Changed((event,)) if isinstance(event, Put) else event, self.now)
        return self

    def subnets(self) -> dict[str, list[str]]:
        return {name: list(node.subnets) for name, node in self.in_force().nodes.items()}

    def rejected(self) -> dict[str, tuple[str, str]]:
        return {r.key: (r.field, r.reason) for r in self.in_force().rejected}


def told(*events: Listed | Changed | Lost | Put, hold_share: float = 0.5) -> Told:
    return Told(hold_share).hear(Listed(()), *events)


# ---------------------------------------------------------------- records come and go


def test_put_replace_delete() -> None:
    rib = told(put("a", "2.2.2.0/27"), put("b", "2.2.3.0/27"))
    assert rib.subnets() == {"a": ["2.2.2.0/27"], "b": ["2.2.3.0/27"]}
    rib.hear(put("a", "2.2.9.0/27"))
    assert rib.subnets() == {"a": ["2.2.9.0/27"], "b": ["2.2.3.0/27"]}
    rib.hear(gone("a"))
    assert rib.subnets() == {"b": ["2.2.3.0/27"]}
    rib.hear(gone("nobody"))
    assert rib.subnets() == {"b": ["2.2.3.0/27"]}


def test_other_folders_are_none_of_its_business() -> None:
    rib = told(
        Put("status/a", b"{"), Put("nodesx/a", b"{"), Put("notes", b"{"), Changed((Delete("x"),))
    )
    assert rib.in_force().nodes == {}
    assert rib.in_force().rejected == ()


def test_what_changed_is_returned() -> None:
    rib = Told()
    a, b = put("a", "2.2.2.0/27"), put("b", "2.2.3.0/27")
    assert rib.apply(Listed((a, b)), 0) == {"nodes/a", "nodes/b"}
    assert rib.apply(Listed((a, b)), 0) == frozenset()
    assert rib.apply(Changed((a, Delete("nodes/b"), Delete("nodes/x"))), 0) == {"nodes/b"}
    assert rib.apply(Lost("down"), 0) == frozenset()


def test_communities_and_warnings() -> None:
    rib = told(
        Put("communities/app1", b'{"members": ["a"], "colour": 1}'),
        put("a", "2.2.2.0/27", shape="round"),
    )
    assert rib.in_force().communities["app1"].members == {"a"}
    assert rib.in_force().warnings == (
        "communities/app1: unknown field 'colour' is ignored",
        "nodes/a: unknown field 'shape' is ignored",
    )
    rib.hear(Put("communities/app1", b"{}"))
    assert rib.in_force().communities["app1"].members == {"a"}
    rib.hear(Changed((Delete("communities/app1"),)))
    assert rib.in_force().communities == {}
    assert rib.in_force().rejected == ()


def test_in_force_is_one_object_until_something_happens() -> None:
    rib = told(put("a", "2.2.2.0/27"))
    before = rib.in_force()
    assert rib.hear(Lost("down")).in_force() is before
    assert rib.hear(gone("a")).in_force() is before, "its loss is held"
    assert rib.hear(put("a", "2.2.2.32/27")).in_force() is not before


# ---------------------------------------------------------------- an earlier good version stays


def test_a_bad_version_leaves_the_good_one_in_force() -> None:
    rib = told(put("a", "2.2.2.0/27"), broken("a"))
    assert rib.subnets() == {"a": ["2.2.2.0/27"]}
    field, reason = rib.rejected()["nodes/a"]
    assert field == ""
    assert reason.endswith("; an earlier version stays in force")
    rib.hear(put("a", "2.2.9.0/27"))
    assert rib.subnets() == {"a": ["2.2.9.0/27"]}
    assert rib.rejected() == {}


def test_a_bad_record_that_never_was_good() -> None:
    rib = told(broken("a"), put("b", "2.2.3.0/27"))
    assert rib.subnets() == {"b": ["2.2.3.0/27"]}
    assert "earlier version" not in rib.rejected()["nodes/a"][1]


def test_a_good_version_within_one_event_counts() -> None:
    rib = told(Changed((put("a", "2.2.2.0/27"), broken("a"))))
    assert rib.subnets() == {"a": ["2.2.2.0/27"]}


def test_a_record_that_was_created_anew_has_no_past() -> None:
    rib = told(put("a", "2.2.2.0/27", created=5), put("b", "2.2.3.0/27"), put("c", "2.2.4.0/27"))
    one_by_one = told(
        *fleet(3), put("a", "2.2.2.0/27", created=5), gone("a"), broken("a", created=9)
    )
    assert "a" not in one_by_one.subnets()
    at_once = rib.hear(Changed((Delete("nodes/a"), broken("a", created=9))))
    assert "a" not in at_once.subnets()
    relisted = told(put("a", "2.2.2.0/27", created=5)).hear(Listed((broken("a", created=9),)))
    assert relisted.subnets() == {}


def test_any_number_of_bad_versions() -> None:
    rib = told(put("a", "2.2.2.0/27"))
    for _ in range(VERSIONS + 1):
        rib.hear(broken("a"), put("a", "2.2.2.1/27"))
    assert rib.subnets() == {"a": ["2.2.2.0/27"]}


def test_several_versions_that_collide_in_different_ways() -> None:
    rib = told(put("a", "2.2.0.0/17", created=1), put("b", "2.3.3.0/27", created=2))
    for n in range(VERSIONS - 1):
        rib.hear(put("b", f"2.2.{n}.0/24", created=2))
    assert rib.subnets()["b"] == ["2.3.3.0/27"]


# ---------------------------------------------------------------- who keeps a subnet


def test_the_older_record_keeps_it_whoever_comes_first() -> None:
    old, young = put("z", "2.2.2.0/24", created=1), put("a", "2.2.2.32/27", created=2)
    for events in ((old, young), (young, old)):
        rib = told(*events)
        assert rib.subnets() == {"z": ["2.2.2.0/24"]}
        assert rib.rejected() == {
            "nodes/a": ("subnets", "2.2.2.32/27 overlaps 2.2.2.0/24 of nodes/z")
        }


def test_of_equally_old_ones_the_lower_name_keeps_it() -> None:
    for events in (
        (put("a", "2.2.2.0/27"), put("b", "2.2.2.0/27")),
        (put("b", "2.2.2.0/27"), put("a", "2.2.2.0/27")),
    ):
        assert list(told(*events).subnets()) == ["a"]


def test_the_loser_keeps_its_earlier_version() -> None:
    rib = told(
        put("a", "2.2.2.0/27", created=1),
        put("b", "2.2.3.0/27", created=2),
        put("b", "2.2.2.0/28", created=2),
    )
    assert rib.subnets() == {"a": ["2.2.2.0/27"], "b": ["2.2.3.0/27"]}
    field, reason = rib.rejected()["nodes/b"]
    assert field == "subnets"
    assert reason == (
        "2.2.2.0/28 overlaps 2.2.2.0/27 of nodes/a; an earlier version stays in force"
    )


def test_the_loser_comes_in_when_the_subnet_is_free() -> None:
    rib = told(
        put("a", "2.2.2.0/27", created=1),
        put("b", "2.2.2.0/27", created=2),
        put("c", "2.2.4.0/27", created=3),
        gone("a"),
    )
    assert rib.subnets() == {"b": ["2.2.2.0/27"], "c": ["2.2.4.0/27"]}
    assert rib.rejected() == {}


def test_a_record_created_anew_is_the_younger_one() -> None:
    rib = told(put("a", "2.2.2.0/27", created=1), put("b", "2.2.2.0/27", created=2))
    rib.hear(Changed((Delete("nodes/a"), put("a", "2.2.2.0/27", created=3))))
    assert list(rib.subnets()) == ["b"]


def test_a_bad_record_blocks_nobody() -> None:
    rib = told(put("a", "2.2.2.0/27", "0.0.0.0/0", created=1), put("b", "2.2.2.0/27", created=2))
    assert list(rib.subnets()) == ["b"]


def test_cloud_gateways_share() -> None:
    rib = told(
        put("gw1", "10.233.0.0/16", role="cloud", created=1),
        put("gw2", "10.233.0.0/16", role="cloud", created=2),
        put("edge", "10.233.7.0/24", created=3),
    )
    assert list(rib.subnets()) == ["gw1", "gw2"]
    assert list(rib.rejected()) == ["nodes/edge"]


# ---------------------------------------------------------------- in sync or not


def test_synced_from_listed_to_lost() -> None:
    rib = Told()
    assert (rib.synced, rib.lost_reason) == (False, "no answer yet")
    assert rib.hear(Listed(())).synced
    rib.hear(Lost("connection refused"))
    assert (rib.synced, rib.lost_reason) == (False, "connection refused")
    assert rib.hear(Listed(())).synced


def test_lost_keeps_everything() -> None:
    rib = told(*fleet(3), Lost("connection refused"))
    assert len(rib.subnets()) == 3


def test_a_relist_takes_away_what_is_not_in_it() -> None:
    rib = told(*fleet(5), Lost("down"), Listed(fleet(4)))
    assert len(rib.subnets()) == 4


def test_a_relist_shows_only_the_latest_version() -> None:
    rib = told(put("a", "2.2.2.0/27"), Lost("down"), Listed((broken("a"),)))
    assert rib.subnets() == {"a": ["2.2.2.0/27"]}, "it is still the same record"


# ---------------------------------------------------------------- the safety valve


def names(rib: Rib) -> list[str]:
    return [key.removeprefix("nodes/") for key in rib.held]


def test_a_relist_without_most_records_is_held() -> None:
    rib = told(Listed(fleet(10)), Listed(fleet(4)))
    assert names(rib) == [f"edge{n}" for n in range(4, 10)]
    assert len(rib.subnets()) == 10


def test_half_is_not_more_than_half() -> None:
    rib = told(Listed(fleet(10)), Listed(fleet(5)))
    assert rib.held == ()
    assert len(rib.subnets()) == 5


def test_one_transaction_that_takes_most_is_held() -> None:
    rib = told(Listed(fleet(10)), gone(*(f"edge{n}" for n in range(6))))
    assert len(names(rib)) == 6
    assert len(rib.subnets()) == 10


def test_many_small_losses_in_a_short_time_are_one_sudden_loss() -> None:
    rib = told(Listed(fleet(10)), *(gone(f"edge{n}") for n in range(10)))
    assert names(rib) == ["edge5", "edge6", "edge7", "edge8", "edge9"]
    assert len(rib.subnets()) == 5


def test_slow_losses_are_none() -> None:
    rib = told(Listed(fleet(10)))
    for n in range(9):
        rib.hear(gone(f"edge{n}"), after=LOSS_WINDOW)
    assert rib.held == ()
    assert list(rib.subnets()) == ["edge9"]


def test_the_share_is_configurable() -> None:
    assert names(told(Listed(fleet(10)), gone("edge0", "edge1"), hold_share=0.1)) == [
        "edge0",
        "edge1",
    ]
    assert not told(Listed(fleet(10)), Listed(()), hold_share=1).held


def test_only_records_in_force_count() -> None:
    """Three good ones among ten bad ones: to lose the good ones is to lose everything."""
    bad = tuple(broken(f"bad{n}") for n in range(10))
    rib = told(Listed((*fleet(3), *bad)), Listed(bad))
    assert names(rib) == ["edge0", "edge1", "edge2"]
    assert not told(Listed((*fleet(3), *bad)), Listed(fleet(3))).held


def test_a_record_that_came_and_went_is_no_loss() -> None:
    visit = [
        change
        for n in range(20, 30)
        for change in (put(f"edge{n}", f"2.2.{n}.0/27"), gone(f"edge{n}").changes[0])
    ]
    rib = told(Listed(fleet(2)), Changed(tuple(visit)))
    assert rib.held == ()
    assert list(rib.subnets()) == ["edge0", "edge1"]
    rib.hear(Listed(()), Changed(tuple(visit)))
    assert names(rib) == ["edge0", "edge1"]
    assert list(rib.subnets()) == ["edge0", "edge1"]


def test_a_record_that_comes_again_is_no_loss() -> None:
    """Deleting and writing one record after the other loses one record at a time at most."""
    rib = told(Listed(fleet(4)))
    for _ in range(3):
        for record in fleet(4):
            rib.hear(Changed((Delete(record.key),)), record)
    rib.hear(gone("edge0"))
    assert rib.held == ()
    assert "edge0" not in rib.subnets()


def test_communities_are_held_with_the_nodes() -> None:
    community = Put("communities/app1", b'{"members": ["edge1"]}')
    rib = told(Listed((*fleet(4), community)), Listed(()))
    assert "communities/app1" in rib.held
    assert "app1" in rib.in_force().communities
    alone = told(Listed((*fleet(4), community)), Listed(fleet(4)))
    assert alone.held == ()
    assert alone.in_force().communities == {}


def test_while_a_loss_is_held_others_are_too() -> None:
    rib = told(Listed(fleet(10)), Listed(fleet(4)), gone("edge0"))
    assert len(names(rib)) == 7
    assert len(rib.subnets()) == 10


def test_confirm_obeys() -> None:
    rib = told(Listed(fleet(10)), Listed(fleet(4)))
    assert rib.confirm() == tuple(f"nodes/edge{n}" for n in range(4, 10))
    assert rib.held == ()
    assert len(rib.subnets()) == 4
    assert rib.confirm() == ()
    assert rib.hear(Listed(fleet(4))).held == ()


def test_what_was_confirmed_does_not_count_against_the_next_loss() -> None:
    rib = told(Listed(fleet(10)), Listed(fleet(5)), Listed(fleet(4)))
    assert rib.held == ("nodes/edge4",)
    rib.confirm()
    assert rib.hear(Listed(fleet(3))).held == ()


def test_records_that_come_back_are_held_no_more() -> None:
    rib = told(Listed(fleet(10)), Listed(()), Listed(fleet(10)))
    assert rib.held == ()
    assert len(rib.subnets()) == 10
    rib = told(Listed(fleet(10)), Listed(()), *fleet(9))
    assert names(rib) == ["edge9"]


def test_a_held_loss_stays_held_however_often_it_is_said() -> None:
    rib = told(Listed(fleet(10)), *[Listed(fleet(4))] * 5, Lost("down"), Listed(fleet(4)))
    rib.hear(Listed(fleet(4)), after=10 * LOSS_WINDOW)
    assert len(names(rib)) == 6
    assert len(rib.subnets()) == 10


def test_an_empty_store_after_a_restart_is_held() -> None:
    rib = Told()
    rib.restore(told(Listed(fleet(10))).versions())
    rib.hear(Listed(()))
    assert len(names(rib)) == 10
    assert len(rib.subnets()) == 10


# ---------------------------------------------------------------- to disk and back


@pytest.mark.parametrize("last", ["good", "bad", "colliding"])
def test_restored_records_are_in_force_but_not_in_sync(last: str) -> None:
    rib = told(
        put("a", "2.2.2.0/27", created=1),
        put("b", "2.2.3.0/27", created=2),
        put("b", "2.2.4.0/27", created=2, priority=5),
        Put("communities/app1", b'{"members": ["a"]}'),
        broken("never", created=3),
    )
    rib.hear(
        {
            "good": put("b", "2.2.5.0/27", created=2),
            "bad": broken("b", created=2),
            "colliding": put("b", "2.2.2.0/24", created=2),
        }[last]
    )
    again = Told()
    again.restore(rib.versions())
    assert not again.synced
    assert again.in_force().nodes == rib.in_force().nodes
    assert again.in_force().communities == rib.in_force().communities
    assert again.versions() == rib.versions()


def test_what_is_held_is_restored_as_in_force() -> None:
    rib = told(Listed(fleet(10)), Listed(()))
    again = Told()
    again.restore(rib.versions())
    assert again.subnets() == rib.subnets()


def test_restore_ignores_what_is_no_record() -> None:
    rib = Told()
    rib.restore((Put("status/a", b"{}"), put("a", "2.2.2.0/27")))
    assert list(rib.subnets()) == ["a"]
