"""What the simulation believes of charon, played on a simulated and on a real pair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.abc import Clock

from fabricd.core.action import Kind
from fabricd.core.state import Child, IkeSa
from fabricd.errors import Unavailable
from tests.simulation.conformance.ends import MORE, SUBNETS, End, Ends, in_memory, real

SECOND = Child(MORE["left"], SUBNETS["right"])
MIRRORED = Child(SUBNETS["right"], MORE["left"])


@pytest.fixture
async def ends(sort: str, run_dir: Path) -> AsyncIterator[Ends]:
    async with (real if sort == "real" else in_memory)(run_dir) as pair:
        yield pair


@pytest.fixture
async def left(ends: Ends) -> End:
    return ends[0]


@pytest.fixture
async def right(ends: Ends) -> End:
    return ends[1]


@pytest.fixture
async def up(left: End, right: End) -> Ends:
    """Both, with the tunnel up."""
    await left.load()
    await right.load()
    await left.initiate()
    return left, right


def ids(sas: tuple[IkeSa, ...]) -> dict[int, list[int]]:
    return {sa.id: sorted(child.id for child in sa.children) for sa in sas}


def with_second(end: End) -> None:
    child = SECOND if end.name == "left" else MIRRORED
    end.conn = replace(end.conn, children=end.conn.children | {child})


# ---------------------------------------------------------------- coming up


async def test_a_tunnel_is_there_at_both_ends(up: Ends, clock: Clock) -> None:
    for end, initiator in zip(up, (True, False), strict=True):
        [sa] = await end.sas()
        assert (sa.state, sa.initiator, sa.conn) == ("ESTABLISHED", initiator, end.conn.name)
        assert [child.name for child in sa.children] == [end.tunnel.child]
        assert await end.pairs() == [*end.conn.children]


async def test_what_is_up_is_not_made_again(up: Ends, clock: Clock) -> None:
    left, right = up
    before = ids(await left.sas()), ids(await right.sas())
    await left.initiate()
    assert (ids(await left.sas()), ids(await right.sas())) == before


async def test_nobody_initiates_what_is_not_loaded(left: End, right: End, clock: Clock) -> None:
    assert await left.refused() == f"CHILD_SA config '{left.tunnel.child}' not found"


async def test_a_responder_that_has_nothing_loaded(left: End, right: End, clock: Clock) -> None:
    await left.load()
    assert (await left.refused()).startswith("peer answered NO_PROPOSAL_CHOSEN: ")


async def test_a_responder_that_expects_somebody_else(left: End, right: End, clock: Clock) -> None:
    await left.load()
    await right.load(replace(right.conn, remote_id="C=CN, O=StrongSwan, CN=other"))
    assert (await left.refused()).startswith("peer answered AUTHENTICATION_FAILED: ")
    assert await right.sas() == ()


async def test_an_initiator_that_nobody_vouches_for(left: End, right: End, clock: Clock) -> None:
    left.distrusted()
    await left.load()
    await right.load()
    assert (await left.refused()).startswith("peer answered AUTHENTICATION_FAILED: ")


async def test_a_responder_that_nobody_vouches_for(left: End, right: End, clock: Clock) -> None:
    right.distrusted()
    await left.load()
    await right.load()
    assert (await left.refused()).startswith("no issuer certificate found for ")
    await right.until(lambda sas: not sas)


async def test_without_a_key(left: End, right: End, clock: Clock) -> None:
    await left.load()
    await right.load()
    await left.do(Kind.KEY_UNLOAD, left.credentials.key_id)
    assert await left.refused() == f"no private key found for '{left.conn.local_id}'"


async def test_subnets_that_the_peer_does_not_expect(left: End, right: End, clock: Clock) -> None:
    """The IKE_SA stays, at both ends."""
    with_second(left)
    await left.load()
    await right.load()
    assert (await left.refused(SECOND)).startswith("peer answered TS_UNACCEPTABLE: ")
    for end in (left, right):
        [sa] = await end.sas()
        assert (sa.state, sa.children) == ("ESTABLISHED", ())


async def test_nobody_there(left: End, right: End, clock: Clock) -> None:
    left.conn = replace(left.conn, remote_addrs=("192.0.2.77",))
    await left.load()
    said = await left.refused(seconds=0.3)
    assert said == "no answer from 192.0.2.77 to IKE_SA_INIT within 0.3 s"


# ---------------------------------------------------------------- one after the other


async def test_another_child_joins_the_ike_sa(up: Ends, clock: Clock) -> None:
    before = [ids(await end.sas()) for end in up]
    for end in up:
        with_second(end)
        await end.do(Kind.CONN_LOAD, end.conn)
    assert [ids(await end.sas()) for end in up] == before, "what is up stays as it is"
    await up[0].initiate(SECOND)
    for end, ours in zip(up, before, strict=True):
        after = ids(await end.sas())
        assert after.keys() == ours.keys()
        assert await end.pairs() == sorted(end.conn.children)


async def test_a_responder_set_up_anew_judges_an_older_ike_sa_by_its_older_set_up(
    up: Ends, clock: Clock
) -> None:
    """What its peer asks for in there is refused, until there is another IKE_SA."""
    left, right = up
    for end in up:
        with_second(end)
    right.reissue()
    right.conn = replace(right.conn, digest="d2")
    await right.load()
    await left.do(Kind.CONN_LOAD, left.conn)
    assert (await left.refused(SECOND)).startswith("peer answered TS_UNACCEPTABLE: ")
    left.conn = replace(left.conn, digest="d2")
    await left.do(Kind.CONN_LOAD, left.conn)
    await left.initiate(SECOND)
    assert SECOND in await left.pairs()


async def test_an_initiator_set_up_anew_makes_another_ike_sa(up: Ends, clock: Clock) -> None:
    left, _ = up
    [before] = await left.sas()
    left.conn = replace(left.conn, digest="d2")
    await left.do(Kind.CONN_LOAD, left.conn)
    await left.initiate()
    assert {sa.id for sa in await left.sas()} > {before.id}


async def test_an_older_ike_sa_stays_when_the_newer_one_is_ended(up: Ends, clock: Clock) -> None:
    """Whoever goes back to an older set-up finds its tunnel."""
    left, right = up
    [before] = await left.sas()
    there = ids(await right.sas())
    left.conn = replace(left.conn, digest="d2")
    await left.do(Kind.CONN_LOAD, left.conn)
    await left.initiate()
    [newer] = [sa for sa in await left.sas() if sa.id != before.id]
    await left.do(Kind.IKE_TERMINATE, newer)
    await right.until(lambda sas: ids(sas) == there)
    await trio.sleep(13)
    assert ids(await left.sas()) == ids((before,))
    assert ids(await right.sas()) == there


async def test_unloading_leaves_the_sas(up: Ends, clock: Clock) -> None:
    left, _ = up
    before = ids(await left.sas())
    await left.do(Kind.CONN_UNLOAD, left.conn)
    assert ids(await left.sas()) == before
    assert not (await left.observe()).conns


async def test_a_rekeyed_child_is_another_one_of_the_same_name(up: Ends, clock: Clock) -> None:
    left, right = up
    [before] = await left.sas()
    left.rekey(left.tunnel.child)
    for end in up:
        await end.until(lambda sas: [len(sa.children) for sa in sas] == [1])
    await left.until(lambda sas: ids(sas) != ids((before,)))
    [after] = await left.sas()
    assert after.id == before.id
    assert [c.name for c in after.children] == [c.name for c in before.children]
    await right.until(lambda sas: [c.state for sa in sas for c in sa.children] == ["INSTALLED"])


# ---------------------------------------------------------------- ending


async def test_a_child_sa_ends_at_both_ends(up: Ends, clock: Clock) -> None:
    left, right = up
    [sa] = await left.sas()
    await left.do(Kind.CHILD_TERMINATE, *sa.children)
    for end in (left, right):
        await end.until(lambda sas: [sa.children for sa in sas] == [()])
    await left.do(Kind.CHILD_TERMINATE, *sa.children)  # gone already: done


async def test_an_ike_sa_ends_at_once_and_then_at_the_peer(up: Ends, clock: Clock) -> None:
    left, right = up
    await left.do(Kind.IKE_TERMINATE, *await left.sas())
    assert await left.sas() == ()
    await right.until(lambda sas: not sas)


async def test_a_charon_that_stops_tells_its_peer(up: Ends, clock: Clock) -> None:
    left, right = up
    left.stop()
    await right.until(lambda sas: not sas)


async def test_a_peer_that_is_killed_is_found_out(up: Ends, clock: Clock) -> None:
    left, right = up
    right.kill()
    [sa] = await left.sas()
    assert sa.state == "ESTABLISHED", "nobody has told it"
    await left.until(lambda sas: not sas)


async def test_a_peer_that_was_restarted_does_not_know_the_sa(up: Ends, clock: Clock) -> None:
    left, right = up
    right.kill()
    right.start()
    assert await right.sas() == ()
    await right.load()
    [sa] = await left.sas()
    assert sa.state == "ESTABLISHED"
    await left.until(lambda sas: not sas)


async def test_who_comes_back_with_nothing_takes_the_place_of_what_was(
    up: Ends, clock: Clock
) -> None:
    """INITIAL_CONTACT."""
    left, right = up
    [before] = await right.sas()
    left.kill()
    left.start()
    assert await left.sas() == ()
    await left.load()
    await left.initiate()
    [after] = await right.sas()
    assert after.id != before.id


# ---------------------------------------------------------------- a look at one connection


def timeless(sas: Iterable[IkeSa]) -> list[IkeSa]:
    """Without what is other a moment later."""
    return [
        replace(
            sa,
            age=0,
            children=tuple(replace(c, age=0, bytes_in=0, bytes_out=0) for c in sa.children),
        )
        for sa in sorted(sas, key=lambda sa: sa.id)
    ]


async def test_a_look_at_one_connection_shows_of_it_what_a_look_at_everything_shows(
    up: Ends, clock: Clock
) -> None:
    left, _ = up
    before = await left.observe()
    for end in up:
        with_second(end)
        await end.do(Kind.CONN_LOAD, end.conn)
    other = replace(left.conn, name="fabric-other", remote_addrs=("192.0.2.77",))
    await left.do(Kind.CONN_LOAD, other)
    await left.initiate(SECOND)
    everything = await left.observe()
    assert everything.conns.keys() == {"fabric-right", "fabric-other"}

    at_right = await left.charon.observe({"fabric-right"}, before)
    assert at_right.conns == {"fabric-right": everything.conns["fabric-right"]}
    assert timeless(at_right.sas) == timeless(everything.sas) != timeless(before.sas)

    at_other = await left.charon.observe({"fabric-other"}, before)
    assert at_other.conns == {**before.conns, "fabric-other": everything.conns["fabric-other"]}
    assert at_other.sas == before.sas

    at_nothing = await left.charon.observe({"fabric-nobody"}, everything)
    assert at_nothing == everything


async def test_a_look_at_one_connection_finds_it_gone(up: Ends, clock: Clock) -> None:
    left, _ = up
    before = await left.observe()
    await left.do(Kind.CONN_UNLOAD, left.conn)
    await left.do(Kind.IKE_TERMINATE, *before.sas)
    after = await left.charon.observe({"fabric-right"}, before)
    assert (after.conns, after.sas) == ({}, ())


async def test_of_another_charon_everything_is_looked_at(up: Ends, clock: Clock) -> None:
    left, _ = up
    before = await left.observe()
    left.kill()
    left.start()
    after = await left.charon.observe({"fabric-other"}, before)
    assert (after.conns, after.sas, after.keys) == ({}, (), frozenset())


# ---------------------------------------------------------------- a charon that comes and goes


async def test_nobody_listens(left: End, clock: Clock) -> None:
    left.kill()
    with pytest.raises(Unavailable, match="charon is not running"):
        await left.observe()
    with pytest.raises(Unavailable):
        await left.initiate()
    left.start()
    assert (await left.observe()).conns == {}


async def test_ids_of_another_charon_are_not_acted_upon(up: Ends, clock: Clock) -> None:
    left, _ = up
    before = await left.sas()
    left.kill()
    left.start()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await left.try_to(Kind.IKE_TERMINATE, *before)


async def test_one_that_hangs_answers_later(left: End, clock: Clock) -> None:
    await left.load()
    before = await left.observe()
    left.freeze()
    with pytest.raises(Unavailable, match="hangs"):
        await left.observe()
    left.thaw()
    assert await left.observe() == before


async def test_what_is_told_of_sas(
    left: End, right: End, nursery: trio.Nursery, clock: Clock
) -> None:
    say, heard = trio.open_memory_channel[str](1000)
    nursery.start_soon(left.charon.watch, say.send_nowait)
    assert await heard.receive() == "charon is there"
    await left.load()
    await right.load()
    await left.initiate()
    assert {await heard.receive(), await heard.receive()} == {
        "ike-updown fabric-right",
        "child-updown fabric-right",
    }
    left.rekey(left.tunnel.child)
    assert await heard.receive() == "child-rekey fabric-right"
    await right.do(Kind.IKE_TERMINATE, *await right.sas())
    while await heard.receive() != "ike-updown fabric-right":
        pass
    left.kill()
    while await heard.receive() != "charon is gone":
        pass
