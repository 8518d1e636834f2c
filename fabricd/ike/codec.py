"""Conn to the message of `load-conn`, and what charon lists back to the types of `core.state`.

The template of a connection stands here, every line of it explicit (swanctl.conf(5) has the
words). Pure: it knows neither the connection to charon nor the order of commands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Final

from fabricd.core.state import Child, ChildSa, Conn, IkeSa, parse_child_name
from fabricd.ike.credentials import Credentials
from fabricd.ike.protocol import ProtocolError, Section, Tree
from fabricd.model import prefix

IKE_TEMPLATE: Final[Tree] = MappingProxyType(
    {
        "version": 2,
        # AES-GCM first, it is what hardware accelerates; `default` for peers without it
        "proposals": (
            "aes128gcm16-prfsha256-ecp256",
            "aes256gcm16-prfsha384-ecp384",
            "default",
        ),
        "keyingtries": 1,  # who initiates tries again by itself, and knows why it failed
        # An initiator that finds its path changed makes a new IKE_SA in no time. MOBIKE would move
        # the old one, to addresses inside of tunnels too, and have the responder take no notice of
        # a NAT that has forgotten the edge.
        "mobike": False,
        "fragmentation": True,
        "reauth_time": "0s",  # reauthentication would break before make
        "send_cert": "always",
    }
)

CHILD_TEMPLATE: Final[Tree] = MappingProxyType(
    {
        "mode": "tunnel",
        "esp_proposals": ("aes128gcm16-ecp256", "aes256gcm16-ecp384", "default"),
        # none: reloading or unloading a connection then leaves its live SAs alone
        "start_action": "none",
        "close_action": "none",
        "dpd_action": "clear",
        "rekey_time": "1h",
        "replay_window": 1024,  # packets; the default 32 drops reordered ones at Gbit/s
    }
)

INITIATORS_UNIQUE: Final = "replace"  # tells the peer when it comes with nothing
RESPONDERS_UNIQUE: Final = "no"
"""What becomes of an older IKE_SA with the same peer. Who initiates ends it when nothing depends on
it; charon would do so ten seconds after there was a newer one, whatever has become of that. A peer
that comes with nothing (INITIAL_CONTACT) has none older in either case."""

TEMPLATE: Final = hashlib.sha256(
    json.dumps(
        [dict(IKE_TEMPLATE), dict(CHILD_TEMPLATE), INITIATORS_UNIQUE, RESPONDERS_UNIQUE],
        sort_keys=True,
    ).encode()
).hexdigest()[:8]
"""A short hash of the templates: part of `Conn.digest`, so that other terms are a difference."""


PRIORITY: Final = 400_000
"""Of policies where the peer initiates, for the first turn: behind those to which charon gives a
priority by itself, before those for want of any other (PRIO_BASE of kernel_netlink_ipsec.c)."""


def load_conn(conn: Conn, credentials: Credentials) -> Tree:
    """The message of `load-conn`.

    `cacerts` ties the peer to our CAs, whatever others charon trusts for somebody else.
    """
    return {
        conn.name: {
            **IKE_TEMPLATE,
            "unique": INITIATORS_UNIQUE if conn.turn is None else RESPONDERS_UNIQUE,
            "rekey_time": f"{conn.rekey}s",
            "rand_time": "0s",  # so that it can be read back
            "dpd_delay": f"{conn.dpd}s",
            "remote_addrs": conn.remote_addrs,
            "local-1": {
                "auth": "pubkey",
                "id": conn.local_id,
                "certs": [credentials.certificate],
            },
            "remote-1": {
                "auth": "pubkey",
                "id": conn.remote_id,
                "cacerts": [pem for _, pem in sorted(credentials.authorities.items())],
            },
            "children": {
                conn.child_name(child): {
                    **CHILD_TEMPLATE,
                    **({} if conn.turn is None else {"priority": PRIORITY + conn.turn}),
                    "local_ts": [child.local],
                    "remote_ts": [child.remote],
                }
                for child in sorted(conn.children)
            },
        }
    }


def observed_conn(name: str, section: Section) -> Conn:
    """A connection of ours as a `list-conn` event shows it. Raises ProtocolError."""
    children: set[Child] = set()
    digests: set[str] = set()
    turns: set[int | None] = set()
    for child_name, child in _subsections(_subsection(section, "children")):
        parsed = parse_child_name(child_name)
        if parsed is None:
            digests.add("")
            continue
        selectors = _prefixes(child, "local-ts"), _prefixes(child, "remote-ts")
        as_named = selectors == ({parsed.pair.local}, {parsed.pair.remote})
        children.add(parsed.pair)
        digests.add(parsed.digest if as_named else "")
        turns.add(parsed.turn)
    return Conn(
        name=name,
        digest=digests.pop() if len(digests) == len(turns) == 1 else "",
        turn=turns.pop() if len(turns) == 1 else None,
        children=frozenset(children),
        local_id=text(_subsection(section, "local-1"), "id"),
        remote_id=text(_subsection(section, "remote-1"), "id"),
        remote_addrs=tuple(texts(section, "remote_addrs")),
    )


def observed_ike_sa(conn: str, section: Section) -> IkeSa:
    """An IKE_SA as a `list-sa` event shows it. Raises ProtocolError."""
    return IkeSa(
        id=number(section, "uniqueid"),
        conn=conn,
        state=text(section, "state"),
        initiator=text(section, "initiator") == "yes",
        remote_host=text(section, "remote-host"),
        age=number(section, "established"),
        rekey=number(section, "established") + number(section, "rekey-time")
        if "rekey-time" in section
        else 0,
        children=tuple(
            _observed_child_sa(child)
            for _, child in _subsections(_subsection(section, "child-sas"))
        ),
    )


def _observed_child_sa(section: Section) -> ChildSa:
    return ChildSa(
        id=number(section, "uniqueid"),
        name=text(section, "name"),
        state=text(section, "state"),
        local=frozenset(_prefixes(section, "local-ts")),
        remote=frozenset(_prefixes(section, "remote-ts")),
        bytes_in=number(section, "bytes-in"),
        bytes_out=number(section, "bytes-out"),
        age=number(section, "install-time"),
    )


def spis(section: Section) -> Iterator[int]:
    """SPIs of the CHILD_SAs of an IKE_SA in a `list-sa` event, both ways. Raises ProtocolError."""
    for _, child in _subsections(_subsection(section, "child-sas")):
        for name in ("spi-in", "spi-out"):
            if found := text(child, name):
                try:
                    yield int(found, 16)
                except ValueError:
                    raise ProtocolError(f"{name}: {found!r} is no SPI") from None


def sections(messages: Sequence[Section]) -> list[tuple[str, Section]]:
    """The named sections that streamed items consist of: `{NAME: {…}}` each."""
    return [pair for message in messages for pair in _subsections(message)]


def texts(section: Section, name: str) -> list[str]:
    """A list of strings; empty when it is not there. Raises ProtocolError."""
    value = section.get(name, [])
    if not isinstance(value, list):
        raise ProtocolError(f"{name} is no list")
    return [item.decode(errors="replace") for item in value]


def text(section: Section, name: str) -> str:
    """A string; empty when it is not there. Raises ProtocolError."""
    return raw(section, name).decode(errors="replace")


def raw(section: Section, name: str) -> bytes:
    """A value as it is; empty when it is not there. Raises ProtocolError."""
    value = section.get(name, b"")
    if not isinstance(value, bytes):
        raise ProtocolError(f"{name} is no value")
    return value


def number(section: Section, name: str) -> int:
    """A number; 0 when it is not there. Raises ProtocolError."""
    found = text(section, name)
    try:
        return int(found or "0")
    except ValueError:
        raise ProtocolError(f"{name}: {found!r} is no number") from None


def _subsections(section: Section) -> list[tuple[str, Section]]:
    return [(name, value) for name, value in section.items() if isinstance(value, dict)]


def _subsection(section: Section, name: str) -> Section:
    value = section.get(name, {})
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is no section")
    return value


def _prefixes(section: Section, name: str) -> set[str]:
    """Traffic selectors; those that are prefixes in the form in which the model writes them."""
    return {_canonical(item) for item in texts(section, name)}


def _canonical(selector: str) -> str:
    try:
        return prefix(selector)
    except ValueError:
        return selector  # a range, or narrowed to a protocol and port: no prefix of ours
