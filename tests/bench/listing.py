"""A charon in memory that is asked as the real one is: it lists what it holds in VICI messages, and
`fabricd.ike`'s observer reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from vici.protocol import Message

from fabricd.core.state import Conn, IkeSa, IkeState
from fabricd.ike.connection import Answer
from fabricd.ike.observer import Observer
from fabricd.ike.protocol import Request, Section
from tests.unit.daemon.fakes import FakeCharon


@dataclass
class ListingCharon(FakeCharon):
    """Counts what it is asked, and what it says."""

    asked: int = 0
    """Requests that ask for something."""
    told: int = 0
    """Messages of the lists."""
    _observer: Observer = field(default_factory=Observer)
    _messages: dict[object, bytes] = field(default_factory=dict)
    """By what they say: writing them is no part of what is measured."""

    async def observe(
        self, only: Collection[str] | None = None, last: IkeState | None = None
    ) -> IkeState:
        connection: Any = self
        return await self._observer.observe(connection, only, last)

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """As `fabricd.ike.connection.Connection` does it."""
        await trio.lowlevel.checkpoint()
        self.asked += len(requests)
        answers = [
            Answer(self._said(request), tuple(self.listed(request.command, request.message)))
            for request in requests
        ]
        self.told += sum(len(answer.data) for answer in answers)
        return answers

    def listed(self, command: str, message: Mapping[str, Any]) -> Iterator[bytes]:
        """The messages of a list."""
        items: Sequence[Conn | IkeSa] = ()
        if command == "list-conns":
            items = tuple(self.held.conns.values())
        elif command == "list-sas":
            items = tuple(self.held.sas)
        for item in items:
            name = item.name if isinstance(item, Conn) else item.conn
            if message.get("ike") in (None, name):
                if item not in self._messages:
                    told = _conn(item) if isinstance(item, Conn) else _sa(item)
                    self._messages[item] = Message.serialize({name: told})
                yield self._messages[item]

    def _said(self, request: Request) -> Section:
        match request.command:
            case "get-authorities":
                return {"authorities": [name.encode() for name in self.held.authorities]}
            case "get-keys":
                return {"keys": [key.encode() for key in self.held.keys]}
            case _:
                return {}


def _conn(conn: Conn) -> dict[str, Any]:
    return {
        "local_addrs": ["%any"],
        "remote_addrs": list(conn.remote_addrs),
        "version": "IKEv2",
        "reauth_time": "0",
        "rekey_time": str(conn.rekey),
        "unique": "UNIQUE_NO",
        "dpd_delay": "30",
        "local-1": {"class": "public key", "id": conn.local_id},
        "remote-1": {"class": "public key", "id": conn.remote_id},
        "children": {
            conn.child_name(child): {
                "mode": "TUNNEL",
                "rekey_time": "3600",
                "dpd_action": "clear",
                "local-ts": [child.local],
                "remote-ts": [child.remote],
            }
            for child in conn.children
        },
    }


def _sa(sa: IkeSa) -> dict[str, Any]:
    return {
        "uniqueid": str(sa.id),
        "version": "2",
        "state": sa.state,
        "remote-host": sa.remote_host,
        "initiator": "yes" if sa.initiator else "no",
        "encr-alg": "AES_GCM_16",
        "prf-alg": "PRF_HMAC_SHA2_256",
        "dh-group": "ECP_256",
        "established": str(sa.age),
        "rekey-time": str(sa.rekey),
        "child-sas": {
            f"{child.name}-{child.id}": {
                "name": child.name,
                "uniqueid": str(child.id),
                "state": child.state,
                "mode": "TUNNEL",
                "protocol": "ESP",
                "spi-in": f"{child.id:08x}",
                "spi-out": f"{child.id:08x}",
                "encr-alg": "AES_GCM_16",
                "bytes-in": str(child.bytes_in),
                "bytes-out": str(child.bytes_out),
                "install-time": str(child.age),
                "local-ts": sorted(child.local),
                "remote-ts": sorted(child.remote),
            }
            for child in sa.children
        },
    }
