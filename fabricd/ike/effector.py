"""Actions on charon as requests: what is sent for each kind, and what the answer means.

Connections, keys and CA certificates are loaded and unloaded, revocation lists loaded, SAs
rekeyed and terminated. Initiating is `initiator`'s: it takes as long as the peer does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fabricd.core.action import Action, Kind, Outcome
from fabricd.core.state import ChildSa, Conn, IkeSa
from fabricd.ike.codec import load_conn, number, text
from fabricd.ike.connection import Answer, Connection
from fabricd.ike.credentials import Credentials
from fabricd.ike.protocol import ProtocolError, Request

BY_ID: Final = frozenset({Kind.CHILD_REKEY, Kind.CHILD_TERMINATE, Kind.IKE_TERMINATE})
"""Kinds that name an SA by its unique id, which only the charon knows that listed it."""

FORGET_OLD_LISTS: Final = Request("flush-certs", {"type": "X509_CRL"})
"""charon would ask a list that it has used before first, and believe it."""

AT_ONCE: Final = -1
"""`timeout` of terminate: don't wait for the peer. An IKE_SA is gone with `force` when charon
answers, the peer is told once; a CHILD_SA is gone when the peer has confirmed it."""


class _Impossible(Exception):
    """An action that can't even be asked for: one line."""


async def apply(
    connection: Connection, actions: Sequence[Action], credentials: Credentials | None
) -> list[Outcome]:
    """Carry out actions in their order, whatever becomes of each. Raises Unavailable."""
    impossible: dict[int, str] = {}

    def requests() -> Iterator[Request]:
        for place, action in enumerate(actions):
            request = _prepare(action, credentials)
            if isinstance(request, Request):
                yield request
            else:
                impossible[place] = request

    answers = iter(await connection.exchange(requests()))
    outcomes = [
        Outcome(action, impossible[place] if place in impossible else _error(action, next(answers)))
        for place, action in enumerate(actions)
    ]
    if any(action.kind is Kind.CRL_LOAD for action in actions):
        await connection.exchange([FORGET_OLD_LISTS])
    return outcomes


def _prepare(action: Action, credentials: Credentials | None) -> Request | str:
    """The request for an action, or why there can be none."""
    try:
        return _request(action, credentials)
    except (_Impossible, ProtocolError) as error:
        return str(error)


def _request(action: Action, credentials: Credentials | None) -> Request:
    match action.kind, action.item:
        case Kind.AUTHORITY_LOAD, str(name):
            pem = _given(credentials).authorities.get(name)
            if pem is None:
                raise _Impossible(f"no CA certificate {name} among this node's")
            return Request("load-authority", {name: {"cacert": pem}})
        case Kind.AUTHORITY_UNLOAD, str(name):
            return Request("unload-authority", {"name": name})
        case Kind.CRL_LOAD, str(issuer):
            found = next((c for c in _given(credentials).crls if c.issuer == issuer), None)
            if found is None:
                raise _Impossible(f"no revocation list by {issuer} among this node's")
            return Request("load-cert", {"type": "X509_CRL", "flag": "NONE", "data": found.der})
        case Kind.KEY_LOAD, str(key):
            if key != _given(credentials).key_id:
                raise _Impossible(f"no private key {key} among this node's")
            return Request("load-key", {"type": "any", "data": _given(credentials).key})
        case Kind.KEY_UNLOAD, str(key):
            return Request("unload-key", {"id": key})
        case Kind.CONN_LOAD | Kind.CONN_TURN, Conn() as conn:
            return Request("load-conn", load_conn(conn, _given(credentials)))
        case Kind.CONN_UNLOAD, Conn(name=name):
            return Request("unload-conn", {"name": name})
        case Kind.CHILD_REKEY, ChildSa(id=sa):
            return Request("rekey", {"child-id": sa})
        case Kind.CHILD_TERMINATE, ChildSa(id=sa):
            return Request("terminate", {"child-id": sa, "timeout": AT_ONCE})
        case Kind.IKE_TERMINATE, IkeSa(id=sa):
            return terminate_ike_sa(sa)
    raise AssertionError(f"not an action on charon: {action}")


def terminate_ike_sa(sa: int) -> Request:
    """An IKE_SA by its unique id, at once and with its CHILD_SAs."""
    return Request("terminate", {"ike-id": sa, "force": True, "timeout": AT_ONCE})


def _given(credentials: Credentials | None) -> Credentials:
    if credentials is None:
        raise _Impossible("this node has no usable certificate and private key")
    return credentials


def _error(action: Action, answer: Answer) -> str | None:
    """What charon refused and why, or None."""
    if action.kind in BY_ID and number(answer.message, "matches") == 0:
        return None  # gone already
    if action.kind is Kind.KEY_LOAD and answer.error is None:
        loaded = text(answer.message, "id")
        return None if loaded == action.item else f"charon calls this key {loaded}"
    return answer.error
