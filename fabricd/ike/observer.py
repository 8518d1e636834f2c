"""What charon holds that is ours, in one exchange. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fabricd.core.ownership import owns_authority, owns_conn
from fabricd.core.state import IkeState
from fabricd.errors import Unavailable
from fabricd.ike.codec import observed_conn, observed_ike_sa, raw, sections, text, texts
from fabricd.ike.connection import Connection
from fabricd.ike.crl import listed_crl
from fabricd.ike.protocol import ProtocolError, Request, Section

QUESTIONS: Final = (
    Request("get-authorities"),
    Request("get-keys"),
    Request("list-certs", {"type": "ANY"}, stream="list-cert"),
    Request("list-conns", stream="list-conn"),
    Request("list-sas", stream="list-sa"),  # not `noblock`: a busy IKE_SA would seem to be gone
    Request("stats"),
)

USERSPACE_ESP: Final = "kernel-libipsec"


async def observe(connection: Connection) -> IkeState:
    """Ask charon for everything that is ours, and for all keys. Raises Unavailable."""
    authorities, keys, certs, conns, sas, stats = await connection.exchange(QUESTIONS)
    try:
        plugins = frozenset(texts(stats.message, "plugins"))
        return IkeState(
            authorities=frozenset(
                filter(owns_authority, texts(authorities.message, "authorities"))
            ),
            keys=frozenset(texts(keys.message, "keys")),
            crls=_crls(certs.items),
            certificates=frozenset(
                raw(item, "data") for item in certs.items if text(item, "type") == "X509"
            ),
            conns=MappingProxyType(
                {
                    name: observed_conn(name, section)
                    for name, section in sections(conns.items)
                    if owns_conn(name)
                }
            ),
            sas=tuple(
                observed_ike_sa(name, section)
                for name, section in sections(sas.items)
                if owns_conn(name)
            ),
            plugins=plugins,
            userspace_esp=USERSPACE_ESP in plugins,
        )
    except ProtocolError as error:
        raise Unavailable("charon", f"it lists what this program can't read: {error}") from error


def _crls(items: Sequence[Section]) -> Mapping[str, int]:
    numbers: dict[str, int] = {}
    for item in items:
        if text(item, "type") != "X509_CRL":
            continue
        try:
            found = listed_crl(raw(item, "data"))
        except ValueError:
            continue  # somebody else's, of a kind that nobody here can read
        numbers[found.issuer] = max(found.number, numbers.get(found.issuer, found.number))
    return MappingProxyType(numbers)
