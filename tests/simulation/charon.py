"""The charons of a world: each speaks to the others over a network that can lose what they say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from fabricd.core.action import Action
from fabricd.core.ownership import owns_conn
from fabricd.core.state import parse_child_name
from tests.simulation.ike import NO_PROPOSAL, REFUSED, UNACCEPTABLE, Half, Process, Request
from tests.simulation.mood import Mood
from tests.simulation.network import Network

OVERLAP: Final = 10.0
"""Seconds until a duplicate of an IKE_SA is deleted (`unique = replace`)."""


@dataclass(eq=False)
class Charon:
    """Of one node, whichever process it is at the time."""

    node: str
    host: str
    network: Network
    mood: Mood
    userspace_esp: bool = False
    process: Process | None = None
    hung: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    """Kinds of actions that fail, and why."""
    acted: Callable[[Action, str | None], None] = lambda action, error: None
    before_action: Callable[[Action], None] = lambda action: None
    told: Callable[[str], None] = lambda line: None
    """Hears every event, whatever the daemon hears."""
    setup: Callable[[Process], None] = lambda process: None
    """What others load when it starts."""
    hands: int = 0
    hands_seen: int = 0
    _queues: dict[Half, deque[Request]] = field(default_factory=dict)
    watchers: list[Callable[[str], None]] = field(default_factory=list)

    @property
    def halves(self) -> tuple[Half, ...]:
        return tuple(self.process.halves.values()) if self.process else ()

    # ------------------------------------------------------------ coming and going

    def start(self) -> None:
        self.process = Process()
        self.hung = False
        self.setup(self.process)
        self.network.look()

    def kill(self) -> None:
        """SIGKILL: the peers hear nothing."""
        self._end()

    def stop(self) -> None:
        """SIGTERM: the peers are told."""
        for half in self.halves:
            self._tell_peer(half)
        self._end()

    def _end(self) -> None:
        if self.process is None:
            return
        self.process.dead = True
        self.process.halves.clear()
        self.process = None
        for queue in self._queues.values():
            for request in queue:
                request.end("charon is gone", away=True)
        self._queues.clear()
        self.tell("charon is gone")
        self.network.look()

    def freeze(self) -> None:
        self.hung = True
        self.network.look()

    def thaw(self) -> None:
        self.hung = False
        self.network.look()

    # ------------------------------------------------------------ SAs that end

    def destroy(self, half: Half, why: str = "the IKE_SA is gone") -> None:
        """This side has it no more; the peer hears nothing of it here."""
        if not half.alive:
            return
        del half.process.halves[half.id]
        for request in self._queues.pop(half, ()):
            request.end(why)
        if half.state != "CONNECTING":
            self.tell(f"ike-updown {half.conn}")
        self.network.look()

    def end(self, half: Half) -> None:
        """Delete it, and tell the peer once."""
        if half.alive:
            self._tell_peer(half)
            self.destroy(half)

    def forget(self, half: Half) -> None:
        """Lose it without a word: the peer's half stays open."""
        self.destroy(half)

    def _tell_peer(self, half: Half) -> None:
        other = half.other
        if other is not None and not self.network.broken(self, half):
            self.network.nursery.start_soon(self.network.charons[half.peer].hear_delete, other)

    async def hear_delete(self, half: Half) -> None:
        await self.network.flight()
        if not self.hung:
            self.destroy(half)

    async def end_child(self, half: Half, number: int) -> None:
        """Ask the peer to delete a CHILD_SA; it is gone when the peer has answered."""
        child = half.children.get(number)
        if child is None or child.state == "DELETING":
            return
        child.state = "DELETING"
        heard = await self.network.send(self.node, half.peer)
        other = half.other
        if not half.alive:
            return
        if heard is None or other is None or not other.alive or other.process is not heard:
            self.destroy(half)  # given up
            return
        peer = self.network.charons[half.peer]
        if child.twin is not None and other.children.pop(child.twin.id, None) is not None:
            peer.tell(f"child-updown {other.conn}")
        await self.network.flight()
        if half.alive and half.children.pop(number, None) is not None:
            self.tell(f"child-updown {half.conn}")

    def rekey_child(self, half: Half, number: int) -> None:
        """A new CHILD_SA takes over from one, on both sides."""
        child, other = half.children[number], half.other
        if other is None or child.twin is None or self.network.broken(self, half):
            return
        if child.twin.id not in other.children or child.state != "INSTALLED":
            return
        now = trio.current_time()
        mine = half.add(child.name, child.pair, now)
        theirs = other.add(child.twin.name, child.twin.pair, now)
        mine.twin, theirs.twin = theirs, mine
        del half.children[child.id], other.children[child.twin.id]
        self.tell(f"child-rekey {half.conn}")
        self.network.charons[half.peer].tell(f"child-rekey {other.conn}")

    def tell(self, line: str) -> None:
        self.told(line)
        name = line.partition(" ")[2]
        if owns_conn(name) or line.startswith("charon"):
            for changed in self.watchers:
                self.mood.pass_on(changed, line)

    # ------------------------------------------------------------ SAs that begin

    def request(self, process: Process, conn: str, child: str) -> Request:
        """Have a CHILD_SA made, in an IKE_SA that is there or in a new one."""
        request = Request(child)
        set_up = process.set_ups.get(conn)
        names = {set_up.conn.child_name(c) for c in set_up.conn.children} if set_up else set()
        if set_up is None or child not in names | {""}:
            what = f"CHILD_SA config '{child}'" if child else f"IKE_SA config '{conn}'"
            request.end(f"{what} not found")
            return request
        half = process.reusable(set_up)
        if half is not None and half.state == "ESTABLISHED" and (not child or half.named(child)):
            request.end()
            return request
        if half is None:
            if not process.has_key_of(set_up):
                request.end(f"no private key found for '{set_up.conn.local_id}'")
                return request
            host = set_up.conn.remote_addrs[0]
            if host == "%any":
                request.end("unable to resolve %any")
                return request
            peer = self.network.hosts.get(host, "")
            half = Half(process, process.next_id(), set_up, True, host, peer, maker=request)
            process.halves[half.id] = half
        queue = self._queues.get(half)
        if queue is None:
            queue = self._queues[half] = deque()
            self.network.nursery.start_soon(self._negotiate, half, queue)
        queue.append(request)
        return request

    async def _negotiate(self, half: Half, queue: deque[Request]) -> None:
        while queue and half.alive:
            request = queue[0]
            if half.state == "CONNECTING":
                error = await self._first_exchanges(half, request.child)
            elif request.child and not half.named(request.child):
                error = await self._create_child(half, request.child)
            else:
                error = ""
            if queue and queue[0] is request:
                queue.popleft()
            if not request.done.is_set():
                request.end(error)
            if not half.alive:
                break
        if self._queues.get(half) is queue:
            del self._queues[half]
        for request in queue:
            request.end("the IKE_SA is gone")

    async def _first_exchanges(self, half: Half, child: str) -> str:
        """IKE_SA_INIT and IKE_AUTH; why the child did not come up."""
        for exchange in ("IKE_SA_INIT", "IKE_AUTH"):
            half.exchange = exchange
            heard = await self.network.send(self.node, half.peer)
            if not half.alive:
                return "the IKE_SA is gone"
            if heard is None:
                self.destroy(half, _silence(half))
                return _silence(half)
            error = ""
            if exchange == "IKE_SA_INIT":
                error = "" if heard.for_host(self.host) else NO_PROPOSAL
            else:
                error = self.network.charons[half.peer].let_in(heard, half, child)
            if not await self._answer(half):
                return _silence(half)
            if error and error != UNACCEPTABLE:
                self.destroy(half, error)
                return error
            half.heard = True
        return self._established(half, child, error)

    async def _answer(self, half: Half) -> bool:
        """Wait for the peer's answer; whether it came."""
        await self.network.flight()
        if half.alive and self.network.listener(self.node, half.peer) is None:
            heard = await self.network.send(self.node, half.peer)
            if heard is None and half.alive:
                self.destroy(half, _silence(half))
        return half.alive

    def _established(self, half: Half, child: str, error: str) -> str:
        other = half.other
        if other is None or not other.alive:
            self.destroy(half)
            return "the peer has lost it"
        if not half.set_up.vouches_for(other.set_up):
            why = f'no issuer certificate found for "{other.set_up.subject}"'
            self._tell_peer(half)
            self.destroy(half, why)
            return why
        half.state, half.born = "ESTABLISHED", trio.current_time()
        self.tell(f"ike-updown {half.conn}")
        self.replace_duplicates(half)
        if child and not error:
            self._install(half, child, other)
        return error

    def let_in(self, process: Process, theirs: Half, child: str) -> str:
        """IKE_AUTH, seen from the responder."""
        wanted = theirs.set_up.conn
        set_up = process.for_peer(wanted.remote_id, wanted.local_id, self._host_of(theirs))
        if (
            set_up is None
            or not set_up.vouches_for(theirs.set_up)
            or not process.has_key_of(set_up)
        ):
            return REFUSED
        peer = self._peer_of(theirs)
        first_contact = not any(
            half.state == "ESTABLISHED" and half.set_up.conn.remote_id == wanted.remote_id
            for half in theirs.process.halves.values()
        )
        if first_contact:  # INITIAL_CONTACT: what there was is no more
            for old in [h for h in self.halves if h.set_up.conn.remote_id == wanted.local_id]:
                if old.state == "ESTABLISHED":
                    self.destroy(old)
        mine = Half(process, process.next_id(), set_up, False, self._host_of(theirs), peer)
        mine.state, mine.born = "ESTABLISHED", trio.current_time()
        process.halves[mine.id] = mine
        mine.other, theirs.other = theirs, mine
        self.tell(f"ike-updown {mine.conn}")
        self.replace_duplicates(mine)
        return self.accept(mine, child) if child else ""

    def accept(self, mine: Half, child: str) -> str:
        """The responder's half of a CHILD_SA."""
        parsed = parse_child_name(child)
        assert parsed is not None
        pair = mine.set_up.child(parsed.pair.remote, parsed.pair.local)
        if pair is None:
            return UNACCEPTABLE
        mine.add(mine.set_up.conn.child_name(pair), pair, trio.current_time())
        self.tell(f"child-updown {mine.conn}")
        return ""

    def _install(self, half: Half, child: str, other: Half) -> None:
        """The initiator's half."""
        parsed = parse_child_name(child)
        assert parsed is not None
        mine = half.add(child, parsed.pair, trio.current_time())
        for theirs in other.children.values():
            mirrored = (
                theirs.pair.local == mine.pair.remote and theirs.pair.remote == mine.pair.local
            )
            if theirs.twin is None and mirrored:
                theirs.twin, mine.twin = mine, theirs
                break
        self.tell(f"child-updown {half.conn}")

    async def _create_child(self, half: Half, child: str) -> str:
        """CREATE_CHILD_SA in an IKE_SA that is there."""
        half.exchange = "CREATE_CHILD_SA"
        heard = await self.network.send(self.node, half.peer)
        if not half.alive:
            return "the IKE_SA is gone"
        other = half.other
        if heard is None or other is None or not other.alive or other.process is not heard:
            self.destroy(half, _silence(half))
            return _silence(half)
        error = self.network.charons[half.peer].accept(other, child)
        if not await self._answer(half):
            return _silence(half)
        if not error:
            self._install(half, child, other)
        return error

    def replace_duplicates(self, new: Half) -> None:
        """`unique = replace`, where it initiates: an older one of the same set-up is deleted in a
        while.
        """
        if new.set_up.conn.turn is not None:
            return
        for old in self.halves:
            if old is not new and old.set_up is new.set_up and old.state == "ESTABLISHED":
                self.network.nursery.start_soon(self._end_later, old)

    async def _end_later(self, half: Half) -> None:
        await trio.sleep(OVERLAP)
        if not self.hung:
            self.end(half)

    def _peer_of(self, theirs: Half) -> str:
        return next(name for name, c in self.network.charons.items() if c.process is theirs.process)

    def _host_of(self, theirs: Half) -> str:
        return self.network.charons[self._peer_of(theirs)].host


def _silence(half: Half) -> str:
    return f"no answer from {half.remote_host} to {half.exchange} after 4 retransmissions"
