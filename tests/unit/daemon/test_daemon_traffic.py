"""Counters of peers, whatever becomes of the SAs."""

from __future__ import annotations

from fabricd.core.state import ChildSa, IkeSa, IkeState
from fabricd.daemon.traffic import Traffic

PAIR = "2.2.2.0/27-2.2.2.32/27-d1"
OTHER = "2.2.2.0/27-2.2.2.64/27-d1"


def child(
    number: int, bytes_in: int, bytes_out: int, state: str = "INSTALLED", name: str = PAIR
) -> ChildSa:
    sides = frozenset({"2.2.2.0/27"}), frozenset({"2.2.2.32/27"})
    return ChildSa(number, name, state, *sides, bytes_in=bytes_in, bytes_out=bytes_out)


def ike(
    *children: ChildSa, conn: str = "fabric-edge3", number: int = 1, age: int = 100
) -> IkeState:
    return IkeState(
        sas=(IkeSa(number, conn, "ESTABLISHED", initiator=True, age=age, children=children),)
    )


def totals(*states: IkeState) -> tuple[int, int, int]:
    """Bytes in, bytes out and rekeys after these observations."""
    traffic = Traffic()
    numbers = (0, 0, 0)
    for state in states:
        traffic.update(state)
        found = traffic.of("fabric-edge3")
        before, numbers = numbers, (found.bytes_in, found.bytes_out, found.rekeys)
        assert all(a <= b for a, b in zip(before, numbers, strict=True)), "went backwards"
    return numbers


def test_an_sa_counts_from_nothing() -> None:
    assert totals(ike(child(1, 100, 200))) == (100, 200, 0)


def test_the_same_observation_twice_counts_once() -> None:
    assert totals(ike(child(1, 100, 200)), ike(child(1, 100, 200))) == (100, 200, 0)


def test_a_tunnel_that_was_made_anew_is_not_rekeyed() -> None:
    anew = ike(child(2, 5, 6), number=2, age=0)
    assert totals(ike(child(1, 100, 200)), anew) == (105, 206, 0)


def test_a_rekey_with_both_seen_together() -> None:
    assert totals(
        ike(child(1, 100, 200)),
        ike(child(1, 120, 210, "REKEYED"), child(2, 5, 6)),
        ike(child(2, 30, 40)),
    ) == (150, 250, 1)


def test_a_rekey_between_two_observations() -> None:
    assert totals(ike(child(1, 100, 200)), ike(child(2, 5, 6))) == (105, 206, 1)


def test_two_children_of_one_peer_add_up() -> None:
    assert totals(
        ike(child(1, 100, 200), child(2, 10, 20, name=OTHER)),
        ike(child(1, 100, 200), child(3, 1, 2, name=OTHER)),
    ) == (111, 222, 1)


def test_an_sa_that_comes_after_a_while_without_one_is_no_rekey() -> None:
    assert totals(ike(child(1, 100, 200)), ike(), ike(child(2, 5, 6))) == (105, 206, 0)


def test_no_sas_at_all_take_nothing_away() -> None:
    assert totals(ike(child(1, 100, 200)), IkeState(), IkeState()) == (100, 200, 0)


def test_a_new_charon_begins_its_ids_anew() -> None:
    assert totals(ike(child(7, 100, 200)), ike(child(7, 3, 4))) == (103, 204, 0)
    assert totals(
        ike(child(7, 100, 200)),
        IkeState(),
        ike(child(1, 3, 4)),
        ike(child(1, 5, 5, "REKEYED"), child(2, 1, 1)),
    ) == (106, 206, 1)


def test_a_child_that_is_only_being_made_is_no_rekey_yet() -> None:
    assert totals(ike(child(1, 1, 1)), ike(child(1, 1, 1), child(2, 0, 0, "CREATED"))) == (1, 1, 0)


def test_an_ike_sa_of_a_peer_that_is_rekeyed_carries_its_children_over() -> None:
    both = IkeState(
        sas=(
            IkeSa(1, "fabric-edge3", "REKEYED", initiator=True),
            IkeSa(2, "fabric-edge3", "ESTABLISHED", initiator=True, children=(child(5, 20, 20),)),
        )
    )
    assert totals(ike(child(5, 10, 10)), both, ike(child(5, 30, 30), number=2)) == (30, 30, 1)


def test_a_rekeying_counts_however_young_the_ike_sa_is() -> None:
    first, moved = ike(child(1, 10, 10)), ike(child(1, 10, 10), number=2)
    rekeyed = ike(child(1, 10, 10), child(2, 0, 0), number=2)
    after = ike(child(2, 5, 5), number=2)
    assert totals(first, moved, rekeyed, after) == (15, 15, 2)


def test_a_tunnel_that_is_made_anew_is_not_rekeyed() -> None:
    both = IkeState(
        sas=(
            IkeSa(1, "fabric-edge3", "ESTABLISHED", initiator=True, children=(child(1, 10, 10),)),
            IkeSa(2, "fabric-edge3", "ESTABLISHED", initiator=True),
        )
    )
    assert totals(ike(child(1, 10, 10)), both, ike(child(2, 5, 5), number=2)) == (15, 15, 0)


def test_the_ids_of_a_charon_that_was_restarted_say_nothing() -> None:
    assert totals(ike(child(5, 100, 100), number=3), ike(child(5, 1, 1), number=7)) == (101, 101, 0)


def test_foreign_sas_are_not_counted() -> None:
    traffic = Traffic()
    traffic.update(ike(child(1, 100, 200), conn="roadwarrior"))
    assert traffic.conns == frozenset()


def test_a_connection_that_is_gone_is_forgotten() -> None:
    traffic = Traffic()
    traffic.update(ike(child(1, 100, 200)))
    assert traffic.conns == {"fabric-edge3"}
    traffic.forget({"fabric-edge3", "fabric-edge9"})
    assert traffic.conns == frozenset()
    assert traffic.of("fabric-edge3").bytes_in == 0
