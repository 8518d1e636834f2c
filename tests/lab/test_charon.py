"""fabricd.ike against real charons: two on one cable, packets encrypted by charon itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from fabricd.core.action import Action, Disruption, Item, Kind, Outcome, Tunnel
from fabricd.core.state import Child, Conn, IkeSa, IkeState
from fabricd.errors import Unavailable
from fabricd.ike import Charon, Credentials, InitiateFailed, load_credentials
from fabricd.model import Prefix
from lab import pki
from lab.charon import Charon as LabCharon

if TYPE_CHECKING:
    from conftest import CharonPair  # type: ignore[import-not-found]  # pytest finds it

LEFT, RIGHT = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27")
OTHER = Prefix("2.2.2.64/27")
SOON = 60
"""Seconds in which anything happens that a test waits for."""


@dataclass
class Node:
    """One end: the daemon, our view of it, and what it has to hold."""

    daemon: LabCharon
    charon: Charon
    credentials: Credentials
    conn: Conn

    @property
    def tunnel(self) -> Tunnel:
        [child] = self.conn.children
        return Tunnel(self.conn.name, self.conn.child_name(child))

    async def do(self, kind: Kind, *items: Item) -> None:
        """Carry out actions of a kind; all must succeed."""
        for outcome in await self.try_to(kind, *items):
            assert outcome.error is None, outcome

    async def try_to(self, kind: Kind, *items: Item) -> list[Outcome]:
        actions = [Action(kind, str(item), Disruption.NONE, "a test", item) for item in items]
        return await self.charon.apply(actions, self.credentials)

    async def load(self, *conns: Conn) -> None:
        """Key, CA certificates and connections: the node's own when none is given."""
        await self.do(Kind.AUTHORITY_LOAD, *self.credentials.authorities)
        await self.do(Kind.KEY_LOAD, self.credentials.key_id)
        await self.do(Kind.CONN_LOAD, *(conns or (self.conn,)))

    async def sa(self) -> IkeSa:
        """Its only IKE_SA."""
        [sa] = (await self.charon.observe()).sas
        return sa


def read(authorities: Iterable[pki.Authority], own: pki.Credentials) -> Credentials:
    return load_credentials([ca.cert for ca in authorities], own.cert, own.key, time.time())


def conn_to(me: str, peer: str, local: Prefix, remote: Prefix, address: str) -> Conn:
    return Conn(
        name=f"fabric-{peer}",
        digest="d1",
        children=frozenset({Child(local, remote)}),
        local_id=f"C=CN, O=StrongSwan, CN={me}",
        remote_id=f"C=CN, O=StrongSwan, CN={peer}",
        remote_addrs=(address,),
    )


@pytest.fixture
def left(charon_pair: CharonPair) -> Node:
    return Node(
        charon_pair.left,
        Charon(str(charon_pair.left.socket_path)),
        read([charon_pair.authority], charon_pair.left_credentials),
        conn_to("left", "right", LEFT, RIGHT, "192.0.2.2"),
    )


@pytest.fixture
def right(charon_pair: CharonPair) -> Node:
    return Node(
        charon_pair.right,
        Charon(str(charon_pair.right.socket_path)),
        read([charon_pair.authority], charon_pair.right_credentials),
        conn_to("right", "left", RIGHT, LEFT, "192.0.2.1"),
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds."""
    with trio.fail_after(SOON):
        while not await condition():  # noqa: ASYNC110  # what is in charon has to be asked for
            await trio.sleep(0.02)


@dataclass
class Watched:
    """What `watch` said, in order."""

    lines: trio.MemoryReceiveChannel[str]

    async def next(self) -> str:
        with trio.fail_after(SOON):
            return await self.lines.receive()

    async def hear(self, line: str) -> None:
        """Wait for a line, whatever comes before it."""
        while await self.next() != line:
            pass


@pytest.fixture
async def watched(left: Node, nursery: trio.Nursery) -> Watched:
    say, hear = trio.open_memory_channel[str](1000)
    nursery.start_soon(left.charon.watch, say.send_nowait)
    said = Watched(hear)
    assert await said.next() == "charon is there"
    return said


# ---------------------------------------------------------------- load and observe


async def test_an_empty_charon_holds_nothing_of_ours(left: Node) -> None:
    assert await left.charon.observe() == IkeState(userspace_esp=left.daemon.userspace_esp)


async def test_what_was_loaded_is_what_is_observed(left: Node) -> None:
    many = replace(
        left.conn,
        name="fabric-many.peer-1",
        digest="0123456789abcdef",
        children=frozenset(
            {Child(LEFT, RIGHT), Child(LEFT, OTHER), Child(Prefix("fd00:2::/64"), Prefix("::/0"))}
        ),
        remote_addrs=("gateway.example", "2001:db8::1"),
    )
    anyone = replace(left.conn, name="fabric-anyone", remote_addrs=("%any",))
    await left.load(left.conn, many, anyone)
    seen = await left.charon.observe()
    assert seen == IkeState(
        authorities=frozenset(left.credentials.authorities),
        keys=frozenset({left.credentials.key_id}),
        conns={conn.name: conn for conn in (left.conn, many, anyone)},
        userspace_esp=left.daemon.userspace_esp,
    )
    assert [seen.conns[c.name].remote_addrs for c in (many, anyone)] == [
        ("gateway.example", "2001:db8::1"),
        ("%any",),
    ]
    assert seen.conns[left.conn.name].remote_id == left.conn.remote_id


async def test_everything_that_was_loaded_can_be_unloaded(left: Node) -> None:
    await left.load()
    await left.do(Kind.CONN_UNLOAD, left.conn)
    await left.do(Kind.KEY_UNLOAD, left.credentials.key_id)
    await left.do(Kind.AUTHORITY_UNLOAD, *left.credentials.authorities)
    assert await left.charon.observe() == IkeState(userspace_esp=left.daemon.userspace_esp)


async def test_a_changed_digest_replaces_the_connection(left: Node) -> None:
    await left.load()
    changed = replace(left.conn, digest="d2", remote_addrs=("192.0.2.9",))
    await left.do(Kind.CONN_LOAD, changed)
    assert (await left.charon.observe()).conns == {changed.name: changed}


async def test_three_hundred_connections_in_one_go(left: Node) -> None:
    conns = {
        f"fabric-peer{n}": replace(
            left.conn,
            name=f"fabric-peer{n}",
            children=frozenset({Child(LEFT, Prefix(f"10.{n // 256}.{n % 256}.0/24"))}),
        )
        for n in range(300)
    }
    await left.load(*conns.values())
    assert (await left.charon.observe()).conns == conns
    await left.do(Kind.CONN_UNLOAD, *conns.values())
    assert not (await left.charon.observe()).conns


async def test_each_refusal_is_one_action_s_and_told(left: Node) -> None:
    await left.load()
    too_long = replace(left.conn, name="fabric-" + "x" * 300)
    bad, good = replace(left.conn, name="fabric-bad", remote_id=""), left.conn
    many = replace(bad, children=frozenset({Child(LEFT, Prefix(f"{n}.0.0.0/8")) for n in range(9)}))
    outcomes = await left.try_to(Kind.CONN_LOAD, too_long, good)
    assert [bool(outcome.error) for outcome in outcomes] == [True, False]
    assert "a name of more than 255 bytes" in str(outcomes[0].error)
    [unloaded] = await left.try_to(Kind.CONN_UNLOAD, many)
    assert unloaded.error == "unload: connection 'fabric-bad' not found"
    [unknown] = await left.try_to(Kind.KEY_LOAD, "00" * 20)
    assert unknown.error == f"no private key {'00' * 20} among this node's"
    [missing] = await left.try_to(Kind.AUTHORITY_LOAD, "fabric-ca-0")
    assert missing.error == "no CA certificate fabric-ca-0 among this node's"


async def test_without_credentials_only_loading_fails(left: Node) -> None:
    await left.load()
    left.credentials = None  # type: ignore[assignment]  # what the daemon has then
    for kind, item in ((Kind.CONN_LOAD, left.conn), (Kind.KEY_LOAD, ""), (Kind.AUTHORITY_LOAD, "")):
        [outcome] = await left.try_to(kind, item)
        assert outcome.error == "this node has no usable certificate and private key"
    await left.do(Kind.CONN_UNLOAD, left.conn)


async def test_what_is_not_ours_is_invisible(left: Node, right: Node, watched: Watched) -> None:
    """The same connection, CA and tunnel under names that are somebody else's."""
    await left.load()
    await right.load()
    await left.do(Kind.CONN_UNLOAD, left.conn)
    before = await left.charon.observe()
    ca_certificates = left.credentials.authorities.values()
    left.credentials = replace(
        left.credentials,
        authorities={f"net-ca{n}": pem for n, pem in enumerate(ca_certificates)},
    )
    left.conn = replace(left.conn, name="net-right")
    await left.load()
    await left.charon.initiate(left.tunnel, SOON)
    assert "net-right" in left.daemon.swanctl("--list-conns")
    assert "net-right" in left.daemon.swanctl("--list-sas")
    assert "net-ca0" in left.daemon.swanctl("--list-authorities")
    assert await left.charon.observe() == before
    await right.do(Kind.IKE_TERMINATE, await right.sa())
    left.daemon.kill()
    assert await watched.next() == "charon is gone", "no word of the SAs before"


# ---------------------------------------------------------------- initiate


async def test_initiate_installs_the_child_sa_on_both_sides(left: Node, right: Node) -> None:
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    ours, theirs = await left.sa(), await right.sa()
    assert (ours.state, ours.initiator, ours.conn) == ("ESTABLISHED", True, "fabric-right")
    assert (theirs.state, theirs.initiator, theirs.conn) == ("ESTABLISHED", False, "fabric-left")
    assert (ours.remote_host, theirs.remote_host) == ("192.0.2.2", "192.0.2.1")
    [ours_child], [theirs_child] = ours.children, theirs.children
    assert (ours_child.state, theirs_child.state) == ("INSTALLED", "INSTALLED")
    assert (ours_child.name, theirs_child.name) == (left.tunnel.child, right.tunnel.child)
    assert ours_child.local == theirs_child.remote == {LEFT}
    assert ours_child.remote == theirs_child.local == {RIGHT}


async def test_a_look_at_one_connection_shows_the_certificate_that_its_peer_has_shown(
    left: Node, right: Node
) -> None:
    await left.load()
    await right.load()
    before = await left.charon.observe()
    await left.charon.initiate(left.tunnel, SOON)
    after = await left.charon.observe({left.conn.name}, before)
    assert len(after.of(left.conn.name)) == 1
    assert len(after.certificates - before.certificates) == 1
    assert after.certificates == (await left.charon.observe()).certificates


async def test_initiating_what_is_up_is_no_error_and_changes_nothing(
    left: Node, right: Node
) -> None:
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    before = ids(await left.sa())
    await left.charon.initiate(left.tunnel, SOON)
    assert ids(await left.sa()) == before


def ids(sa: IkeSa) -> tuple[int, dict[str, int]]:
    return sa.id, {child.name: child.id for child in sa.children}


async def test_loading_the_same_again_disturbs_nothing(left: Node, right: Node) -> None:
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    before = ids(await left.sa())
    for node in (left, right):
        await node.load()
    assert ids(await left.sa()) == before
    assert (await left.charon.observe()).conns == {left.conn.name: left.conn}


async def test_a_second_child_leaves_the_first_alone(left: Node, right: Node) -> None:
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    before = ids(await left.sa())
    left.daemon.namespace.add_address("lo", "2.2.2.65/27")
    await left.do(
        Kind.CONN_LOAD, replace(left.conn, children=left.conn.children | {Child(OTHER, RIGHT)})
    )
    await right.do(
        Kind.CONN_LOAD, replace(right.conn, children=right.conn.children | {Child(RIGHT, OTHER)})
    )
    assert ids(await left.sa()) == before
    second = left.conn.child_name(Child(OTHER, RIGHT))
    await left.charon.initiate(Tunnel(left.conn.name, second), SOON)
    after = ids(await left.sa())
    assert after[0] == before[0]
    assert {**after[1], **before[1]} == after[1]
    assert set(after[1]) == {left.tunnel.child, second}


async def test_children_initiated_at_once_share_one_ike_sa(left: Node, right: Node) -> None:
    children = [Child(LEFT, RIGHT), Child(LEFT, OTHER)]
    right.daemon.namespace.add_address("lo", "2.2.2.65/27")
    await left.load(replace(left.conn, children=frozenset(children)))
    mirrored = frozenset(Child(child.remote, child.local) for child in children)
    await right.load(replace(right.conn, children=mirrored))
    async with trio.open_nursery() as nursery:
        for child in children:
            tunnel = Tunnel(left.conn.name, left.conn.child_name(child))
            nursery.start_soon(left.charon.initiate, tunnel, SOON)

    async def both() -> bool:
        return [child.state for child in (await left.sa()).children] == ["INSTALLED"] * 2

    await until(both)  # 6.0 answers the second attempt when the first child is there


async def why(node: Node, seconds: float = SOON) -> str:
    """Why it can't be initiated; nothing half-open is left behind."""
    with pytest.raises(InitiateFailed) as caught:
        await node.charon.initiate(node.tunnel, seconds)
    sas = (await node.charon.observe()).sas
    assert {sa.state for sa in sas} <= {"ESTABLISHED"}
    assert not any(sa.children for sa in sas)
    return caught.value.reason


async def test_a_connection_that_is_not_loaded(left: Node) -> None:
    assert await why(left) == f"CHILD_SA config '{left.tunnel.child}' not found"


async def test_a_responder_without_the_connection(left: Node, right: Node) -> None:
    await left.load()
    assert (await why(left)).startswith("peer answered NO_PROPOSAL_CHOSEN: ")


async def test_a_responder_that_expects_other_subnets(left: Node, right: Node) -> None:
    await left.load()
    await right.load(conn_to("right", "left", OTHER, LEFT, "192.0.2.1"))
    assert (await why(left)).startswith("peer answered TS_UNACCEPTABLE: ")


async def test_a_responder_of_another_name(left: Node, right: Node) -> None:
    await left.load(replace(left.conn, remote_id="C=CN, O=StrongSwan, CN=other"))
    await right.load()
    assert (await why(left)).startswith("peer answered AUTHENTICATION_FAILED: ")


async def test_no_private_key(left: Node, right: Node) -> None:
    await left.load()
    await right.load()
    await left.do(Kind.KEY_UNLOAD, left.credentials.key_id)
    assert await why(left) == "no private key found for 'C=CN, O=StrongSwan, CN=left'"


@pytest.fixture
def other_authority(run_dir: Path) -> pki.Authority:
    return pki.Authority(run_dir / "other", dn="C=CN, O=StrongSwan, CN=Other CA")


async def test_a_responder_of_another_ca(
    charon_pair: CharonPair, left: Node, right: Node, other_authority: pki.Authority
) -> None:
    both = charon_pair.authority, other_authority
    right.credentials = read(both, other_authority.issue("right"))
    await left.load()
    await right.load()
    assert await why(left) == 'no issuer certificate found for "C=CN, O=StrongSwan, CN=right"'


async def test_a_responder_that_does_not_know_our_ca(
    charon_pair: CharonPair, left: Node, right: Node, other_authority: pki.Authority
) -> None:
    both = charon_pair.authority, other_authority
    left.credentials = read(both, other_authority.issue("left"))
    await left.load()
    await right.load()
    assert (await why(left)).startswith("peer answered AUTHENTICATION_FAILED: ")


async def test_a_ca_of_somebody_else_s_does_not_vouch_for_our_peers(
    charon_pair: CharonPair, left: Node, right: Node, other_authority: pki.Authority
) -> None:
    both = charon_pair.authority, other_authority
    right.credentials = read(both, other_authority.issue("right"))
    await right.load()
    await left.load()
    foreign = replace(left.credentials, authorities=right.credentials.authorities)
    await Node(left.daemon, left.charon, foreign, left.conn).load(
        replace(left.conn, name="fabric-elsewhere")
    )
    assert (await why(left)).startswith("constraint check failed: ")


async def test_nobody_there(left: Node) -> None:
    await left.load(replace(left.conn, remote_addrs=("192.0.2.77",)))
    assert await why(left, 0.3) == "no answer from 192.0.2.77 to IKE_SA_INIT within 0.3 s"


async def test_a_name_that_nobody_knows(left: Node) -> None:
    await left.load(replace(left.conn, remote_addrs=("nowhere.invalid",)))
    assert await why(left) == "unable to resolve nowhere.invalid"


async def test_a_failed_attempt_leaves_another_one_alone(left: Node) -> None:
    """Two children, one IKE_SA that is being tried: who did not make it does not end it."""
    second = Child(LEFT, OTHER)
    conn = replace(
        left.conn,
        children=left.conn.children | {second},
        remote_addrs=("192.0.2.77",),
    )
    await left.load(conn)

    async def connecting() -> bool:
        return [sa.state for sa in (await left.charon.observe()).sas] == ["CONNECTING"]

    async with trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(InitiateFailed):
                await left.charon.initiate(left.tunnel, SOON)

        nursery.start_soon(first)
        await until(connecting)
        with pytest.raises(InitiateFailed, match="not established after 100ms"):
            await left.charon.initiate(Tunnel(conn.name, conn.child_name(second)), 0.1)
        assert await connecting()
        await left.do(Kind.IKE_TERMINATE, await left.sa())


# ---------------------------------------------------------------- unload and terminate


@pytest.fixture
async def up(left: Node, right: Node) -> tuple[Node, Node]:
    """Both ends, with the tunnel up."""
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    return left, right


async def test_unload_leaves_the_sas(up: tuple[Node, Node]) -> None:
    left, _ = up
    before = ids(await left.sa())
    await left.do(Kind.CONN_UNLOAD, left.conn)
    assert ids(await left.sa()) == before
    assert not (await left.charon.observe()).conns


async def test_a_child_sa_is_terminated_alone(up: tuple[Node, Node]) -> None:
    left, right = up
    [child] = (await left.sa()).children
    await left.do(Kind.CHILD_TERMINATE, child)
    for node in (left, right):

        async def gone(node: Node = node) -> bool:
            return not (await node.sa()).children

        await until(gone)
        assert (await node.sa()).state == "ESTABLISHED"
    await left.do(Kind.CHILD_TERMINATE, child)  # gone already: done


async def test_an_ike_sa_is_terminated_on_both_sides(up: tuple[Node, Node]) -> None:
    left, right = up
    sa = await left.sa()
    await left.do(Kind.IKE_TERMINATE, sa)
    assert not (await left.charon.observe()).sas

    async def gone() -> bool:
        return not (await right.charon.observe()).sas

    await until(gone)
    await left.do(Kind.IKE_TERMINATE, sa)


async def test_an_ike_sa_to_a_dead_peer_is_terminated_at_once(up: tuple[Node, Node]) -> None:
    left, right = up
    right.daemon.kill()
    await left.do(Kind.IKE_TERMINATE, await left.sa())
    assert not (await left.charon.observe()).sas


# ---------------------------------------------------------------- a charon that comes and goes


async def test_watch_tells_of_our_sas(left: Node, right: Node, watched: Watched) -> None:
    await left.load()
    await right.load()
    await left.charon.initiate(left.tunnel, SOON)
    assert {await watched.next(), await watched.next()} == {
        "ike-updown fabric-right",
        "child-updown fabric-right",
    }
    left.daemon.swanctl("--rekey", "--child", left.tunnel.child)
    await watched.hear("child-rekey fabric-right")
    left.daemon.swanctl("--rekey", "--ike", "fabric-right")
    await watched.hear("ike-rekey fabric-right")
    await right.do(Kind.IKE_TERMINATE, await right.sa())
    await watched.hear("ike-updown fabric-right")


async def test_a_killed_charon_is_gone_then_there_and_empty(left: Node, watched: Watched) -> None:
    await left.load()
    left.daemon.kill()
    assert await watched.next() == "charon is gone"
    with pytest.raises(Unavailable, match=r"nobody listens on .*: charon is not running"):
        await left.charon.observe()
    with pytest.raises(Unavailable):
        await left.charon.initiate(left.tunnel, SOON)
    left.daemon.start()
    assert await watched.next() == "charon is there"
    assert await left.charon.observe() == IkeState(userspace_esp=left.daemon.userspace_esp)
    await left.load()


async def test_a_hung_charon_is_unavailable_within_the_deadline_and_recovers(left: Node) -> None:
    await left.load()
    charon = Charon(str(left.daemon.socket_path), deadline=0.5)
    before = await left.charon.observe()
    left.daemon.freeze()
    for _ in range(6):  # more than charon's queue of connections holds
        with pytest.raises(Unavailable, match=r"within 0.5 s: charon hangs or is overloaded"):
            await charon.observe()
    with pytest.raises(Unavailable, match=r"within 0.5 s"):
        await charon.apply([], left.credentials)
    with pytest.raises(Unavailable, match=r"within 0.5 s"):
        await charon.initiate(left.tunnel, 0.1)
    left.daemon.thaw()

    async def recovered() -> bool:
        try:
            return await charon.observe() == before
        except Unavailable:
            return False  # it has to answer who has gone away, first

    await until(recovered)
