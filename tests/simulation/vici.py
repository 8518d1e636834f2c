"""One daemon's way to its node's charon."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Final, NoReturn

import trio

from fabricd.core.action import Action, Kind, Outcome, Tunnel
from fabricd.core.ownership import owns_authority, owns_conn
from fabricd.core.state import ChildSa, Conn, IkeSa, IkeState
from fabricd.errors import Unavailable
from fabricd.ike import Credentials, InitiateFailed
from fabricd.ike.effector import BY_ID
from fabricd.ike.observer import renewed
from tests.simulation.charon import Charon
from tests.simulation.ike import Process, Request

DEADLINE: Final = 5.0
"""Seconds that charon may be silent before it counts as hung: the daemon's own."""

PLUGINS: Final = frozenset({"addrblock", "revocation"})


class Client:
    """What `fabricd.ike.Charon` is to a daemon."""

    def __init__(self, charon: Charon, rng: random.Random) -> None:
        self._charon = charon
        self._rng = rng
        self._connected: Process | None = None

    async def observe(
        self, only: Collection[str] | None = None, last: IkeState | None = None
    ) -> IkeState:
        before, self._connected = self._connected, None
        process = await self._process()
        self._connected = process
        found = self._listed(process)
        if only is not None and last is not None and before is process:
            return renewed(last, only, found)
        self._charon.hands_seen = self._charon.hands
        return found

    async def listing(self) -> IkeState:
        return self._listed(await self._process())

    def _listed(self, process: Process) -> IkeState:
        now = trio.current_time()
        return IkeState(
            authorities=frozenset(filter(owns_authority, process.authorities)),
            keys=frozenset(process.keys),
            crls=dict(process.crls),
            certificates=frozenset(process.certificates),
            conns={name: conn for name, conn in process.conns.items() if owns_conn(name)},
            sas=tuple(half.shown(now) for half in process.halves.values() if owns_conn(half.conn)),
            plugins=PLUGINS,
            userspace_esp=self._charon.userspace_esp,
        )

    async def apply(
        self, actions: Sequence[Action], credentials: Credentials | None
    ) -> list[Outcome]:
        before, self._connected = self._connected, None
        process = await self._process()
        if before is not None and before is not process:
            raise Unavailable("charon", "connection lost")
        if before is None and any(action.kind in BY_ID for action in actions):
            reason = "connected anew since its SAs were listed, their ids may mean others now"
            raise Unavailable("charon", reason)
        outcomes = []
        for action in actions:
            await trio.lowlevel.checkpoint()  # here a daemon is killed
            if process is not self._charon.process:
                raise Unavailable("charon", "connection lost")
            self._charon.before_action(action)
            error = self._charon.refused.get(action.kind.value)
            if error is None:
                error = self._carry_out(process, action, credentials)
            outcomes.append(Outcome(action, error))
            self._charon.acted(action, error)
        self._connected = process
        return outcomes

    def _carry_out(
        self, process: Process, action: Action, credentials: Credentials | None
    ) -> str | None:
        charon = self._charon
        match action.kind, action.item:
            case Kind.CHILD_REKEY, ChildSa(id=number):
                for half in charon.halves:
                    if number in half.children:
                        charon.rekey_child(half, number)
            case Kind.CHILD_TERMINATE, ChildSa(id=number):
                for half in charon.halves:
                    if number in half.children:
                        charon.network.nursery.start_soon(charon.end_child, half, number)
            case Kind.IKE_TERMINATE, IkeSa(id=number):
                if number in process.halves:
                    charon.end(process.halves[number])
            case Kind.CONN_LOAD | Kind.CONN_TURN, Conn() as conn:
                if credentials is None:
                    return "this node has no usable certificate and private key"
                process.keep(conn, credentials)
            case Kind.CONN_UNLOAD, Conn() as conn:
                if process.conns.pop(conn.name, None) is None:
                    return f"unload: connection '{conn.name}' not found"
                process.set_ups.pop(conn.name)
            case Kind.KEY_UNLOAD, str(key):
                process.keys.discard(key)
            case Kind.AUTHORITY_UNLOAD, str(name):
                process.authorities.discard(name)
            case _:
                process.load(action)
        return None

    async def initiate(self, tunnel: Tunnel, timeout: float) -> None:
        process = await self._process()
        for name in ("", tunnel.child) if tunnel.beside else (tunnel.child,):
            request = self._charon.request(process, tunnel.conn, name)
            with trio.move_on_after(timeout):
                await request.done.wait()
            if not request.done.is_set():
                raise InitiateFailed(self._give_up(process, request, timeout))
            if request.away or self._charon.process is not process:
                raise Unavailable("charon", "connection lost")
            if request.error:
                raise InitiateFailed(request.error)

    def _give_up(self, process: Process, request: Request, timeout: float) -> str:
        """Nothing half-open stays that the peer knows nothing of; what was waited for."""
        for half in list(process.halves.values()):
            if half.maker is request and half.state == "CONNECTING":
                if not half.heard:
                    self._charon.destroy(half)
                return f"no answer from {half.remote_host} to {half.exchange} within {timeout:g} s"
        return f"CHILD_SA not established after {timeout * 1000:g}ms"

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        charon = self._charon
        while True:
            while charon.process is None or charon.hung:
                await charon.network.changed.wait()
                await trio.sleep(self._rng.uniform(0.05, 2.0))
            process = charon.process
            changed("charon is there")
            charon.watchers.append(changed)
            try:
                while charon.process is process:
                    await charon.network.changed.wait()
            finally:
                charon.watchers.remove(changed)

    async def _process(self) -> Process:
        charon = self._charon
        with trio.move_on_after(DEADLINE):
            while charon.hung and charon.process is not None:
                await charon.network.changed.wait()
        if charon.process is None:
            await trio.lowlevel.checkpoint()
            raise Unavailable("charon", "nobody listens: charon is not running")
        if charon.hung:
            raise Unavailable("charon", f"no answer within {DEADLINE:g} s: charon hangs")
        await trio.lowlevel.checkpoint()
        if charon.process is None:
            raise Unavailable("charon", "connection lost")
        return charon.process
