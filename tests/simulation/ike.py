"""What two charons negotiate: IKE_SAs with their two halves, and what each side remembers of them.

The rules are strongSwan's: who is let in, which set-up is reused, what becomes of duplicates, who
is told when something ends. `conformance/` tries them on the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from fabricd.core.state import Child, ChildSa, Conn, IkeSa
from fabricd.ike import Credentials
from tests.property.world import Loaded
from tests.simulation.pki import trusts

NO_PROPOSAL: Final = (
    "peer answered NO_PROPOSAL_CHOSEN: it has no connection for this node's address, or other "
    "proposals"
)
REFUSED: Final = (
    "peer answered AUTHENTICATION_FAILED: it does not accept this node's identity or certificate"
)
UNACCEPTABLE: Final = "peer answered TS_UNACCEPTABLE: it does not agree to these subnets"


@dataclass(eq=False)
class SetUp:
    """A connection as charon holds it: IKE_SAs made by it keep it, whatever is loaded later. One
    that is loaded again with an equal IKE part is the same one, with other children.
    """

    conn: Conn
    credentials: Credentials

    @property
    def authorities(self) -> tuple[bytes, ...]:
        return tuple(self.credentials.authorities.values())

    def vouches_for(self, other: SetUp) -> bool:
        """Whether this side lets in whoever has the other's certificate."""
        return self.conn.remote_id == other.subject and trusts(
            self.authorities, other.credentials.certificate
        )

    @property
    def subject(self) -> str:
        """Of its certificate, as charon writes it."""
        return self.credentials.subject

    def child(self, local: str, remote: str) -> Child | None:
        found = Child(local, remote)  # type: ignore[arg-type]
        return found if found in self.conn.children else None


@dataclass(eq=False)
class HalfChild:
    """A CHILD_SA, as one side holds it."""

    id: int
    name: str
    pair: Child
    born: float
    state: str = "INSTALLED"
    twin: HalfChild | None = None


@dataclass(eq=False)
class Request:
    """A child that is to come up, and who waits for it."""

    child: str
    done: trio.Event = field(default_factory=trio.Event)
    error: str = ""
    away: bool = False

    def end(self, error: str = "", *, away: bool = False) -> None:
        self.error, self.away = error, away
        self.done.set()


@dataclass(eq=False)
class Half:
    """An IKE_SA, as one side holds it."""

    process: Process
    id: int
    set_up: SetUp
    initiator: bool
    remote_host: str
    peer: str
    """The node at the other end."""
    state: str = "CONNECTING"
    born: float = 0.0
    children: dict[int, HalfChild] = field(default_factory=dict)
    other: Half | None = None
    maker: Request | None = None
    """Who had it made."""
    exchange: str = "IKE_SA_INIT"
    """What goes on."""
    heard: bool = False
    """The peer has answered to something."""
    suspected: bool = False
    digest: str = ""

    def __post_init__(self) -> None:
        self.digest = self.set_up.conn.digest
        self.rekey = self.set_up.conn.rekey

    @property
    def conn(self) -> str:
        return self.set_up.conn.name

    @property
    def alive(self) -> bool:
        """Whether its side still has it."""
        return self.process.halves.get(self.id) is self

    def carries(self, pair: Child) -> bool:
        return any(c.pair == pair and c.state == "INSTALLED" for c in self.children.values())

    def named(self, name: str) -> bool:
        return any(c.name == name and c.state == "INSTALLED" for c in self.children.values())

    def add(self, name: str, pair: Child, now: float) -> HalfChild:
        child = HalfChild(self.process.next_id(), name, pair, now)
        self.children[child.id] = child
        return child

    def shown(self, now: float) -> IkeSa:
        """As `list-sas` shows it."""
        established = self.state == "ESTABLISHED"
        return IkeSa(
            id=self.id,
            conn=self.conn,
            state=self.state,
            initiator=self.initiator,
            remote_host=self.remote_host,
            age=int(now - self.born) if established else 0,
            rekey=self.rekey if established else 0,
            children=tuple(
                ChildSa(
                    child.id,
                    child.name,
                    child.state,
                    frozenset({child.pair.local}),
                    frozenset({child.pair.remote}),
                    bytes_in=int(100 * (now - child.born)),
                    bytes_out=int(100 * (now - child.born)),
                    age=int(now - child.born),
                )
                for child in self.children.values()
            ),
        )


@dataclass
class Process(Loaded):
    """One life of a charon: it dies with all that it holds."""

    set_ups: dict[str, SetUp] = field(default_factory=dict)
    halves: dict[int, Half] = field(default_factory=dict)
    dead: bool = False

    def keep(self, conn: Conn, credentials: Credentials) -> None:
        """Load a connection: in place of one of its name, or into it."""
        found = self.set_ups.get(conn.name)
        if found is not None and found.conn.digest == conn.digest:
            found.conn, found.credentials = conn, credentials
        else:
            self.set_ups[conn.name] = SetUp(conn, credentials)
        self.conns[conn.name] = conn

    def reusable(self, set_up: SetUp) -> Half | None:
        """An IKE_SA of an equal set-up: charon compares them, not their names."""
        for half in self.halves.values():
            if (half.conn, half.digest) == (set_up.conn.name, set_up.conn.digest):
                return half
        return None

    def for_host(self, host: str) -> bool:
        """Whether any connection is for who comes from there."""
        return any(_fits(set_up.conn, host) for set_up in self.set_ups.values())

    def for_peer(self, own: str, remote: str, host: str) -> SetUp | None:
        """The connection for these identities."""
        for set_up in self.set_ups.values():
            conn = set_up.conn
            if conn.local_id == own and conn.remote_id == remote and _fits(conn, host):
                return set_up
        return None

    def foreign(self) -> frozenset[object]:
        theirs = [h for h in self.halves.values() if not h.conn.startswith("fabric-")]
        return super().foreign() | {(h.id, *h.children) for h in theirs}

    def has_key_of(self, set_up: SetUp) -> bool:
        return set_up.credentials.key_id in self.keys and set_up.conn.local_id == set_up.subject


def _fits(conn: Conn, host: str) -> bool:
    return bool({"%any", host} & {*conn.remote_addrs})
