"""One attempt to bring a CHILD_SA up, over a connection of its own: it lasts as long as it lasts.

When it fails nothing half-open stays behind that the peer knows nothing of, and charon's log of the
attempt says why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fabricd.core.action import Tunnel
from fabricd.core.state import IkeSa
from fabricd.core.tunnels import UP
from fabricd.errors import Unavailable
from fabricd.ike.codec import number, observed_ike_sa, sections, text
from fabricd.ike.connection import Connection
from fabricd.ike.effector import terminate_ike_sa
from fabricd.ike.failure import RECEIVED, explain
from fabricd.ike.protocol import ProtocolError, Request, Section, Tree

HALF_OPEN: Final = frozenset({"CREATED", "CONNECTING"})

CREATES_IKE_SA: Final = "initiating IKE_SA "
"""How the line begins that charon logs when an attempt makes an IKE_SA of its own."""


class InitiateFailed(Exception):
    """The CHILD_SA did not come up; `reason` is one line for an operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def initiate(connection: Connection, tunnel: Tunnel, patience: float) -> None:
    """Bring the CHILD_SA up, or find that it is; `patience` in seconds.

    Raises InitiateFailed, and Unavailable when charon is away.
    """
    if tunnel.beside:
        # The peer sends into a new CHILD_SA from the moment that it answers. Alone in an exchange
        # it is ready here soonest; together with an IKE_SA it would wait for a signature's check.
        await _initiate(connection, replace(tunnel, child=""), patience)
    await _initiate(connection, tunnel, patience)


async def _initiate(connection: Connection, tunnel: Tunnel, patience: float) -> None:
    request: Tree = {
        "ike": tunnel.conn,
        **({"child": tunnel.child} if tunnel.child else {}),
        "timeout": max(1, round(patience * 1000)),  # ms; 0 would be for ever
        "loglevel": 1,
    }
    [answer] = await connection.exchange(
        [Request("initiate", request, stream="control-log")], patience=patience
    )
    if answer.error is None:
        return
    try:
        log = [text(event, "msg") for event in answer.items]
        created = set(map(_created, answer.items))
        sas = await _ike_sas(connection, tunnel.conn)
    except ProtocolError as error:
        raise Unavailable("charon", f"it logs what this program can't read: {error}") from error
    if any(child.name == tunnel.child and child.state in UP for sa in sas for child in sa.children):
        return
    if not any(line.startswith(RECEIVED) for line in log):
        # A peer that has answered may have its half done, and would send into what is cut off here:
        # charon goes on with it, and another attempt joins in.
        half_open = [sa.id for sa in sas if sa.id in created and sa.state in HALF_OPEN]
        await connection.exchange([terminate_ike_sa(sa) for sa in half_open])
    raise InitiateFailed(explain(log, answer.error, patience))


def _created(event: Section) -> int:
    """The id of the IKE_SA that this line tells the making of, or 0."""
    if not text(event, "msg").startswith(CREATES_IKE_SA):
        return 0
    return number(event, "ikesa-uniqueid")


async def _ike_sas(connection: Connection, conn: str) -> list[IkeSa]:
    [answer] = await connection.exchange([Request("list-sas", {"ike": conn}, stream="list-sa")])
    return [observed_ike_sa(name, section) for name, section in sections(answer.items)]
