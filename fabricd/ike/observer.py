"""What charon holds that is ours, in one exchange. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from fabricd.core.ownership import owns_authority, owns_conn
from fabricd.core.state import Conn, IkeSa, IkeState
from fabricd.errors import Unavailable
from fabricd.ike.codec import observed_conn, observed_ike_sa, raw, sections, text, texts
from fabricd.ike.connection import Answer, Connection
from fabricd.ike.crl import listed_crl
from fabricd.ike.protocol import ProtocolError, Request, Section, Tree, parse

T = TypeVar("T")

QUESTIONS: Final = (
    Request("get-authorities"),
    Request("get-keys"),
    Request("list-certs", {"type": "ANY"}, stream="list-cert"),
    Request("stats"),
)

USERSPACE_ESP: Final = "kernel-libipsec"

STEP: Final = 64
"""Messages that are decoded in one go: other tasks get their turn between."""


class Observer:
    """Remembers connections as they were listed last: at rest they are the same bytes each time."""

    def __init__(self) -> None:
        self._known: Mapping[bytes, tuple[Conn, ...]] = {}
        """By message: what the last listing of everything had, and no more."""

    async def observe(
        self,
        connection: Connection,
        only: Collection[str] | None = None,
        last: IkeState | None = None,
    ) -> IkeState:
        """Ask charon for everything that is ours, and for all keys; or only for connections and SAs
        of these names with their peers' certificates, and take all else from `last`. Raises
        Unavailable.
        """
        with readable():
            if only is None or last is None:
                general, conns, sas = await self._listed(connection, QUESTIONS, [{}], forget=True)
                return await _state(general, conns, sas)
            had = [last.conns[name] for name in only if name in last.conns]
            about: list[Tree] = [{"ike": name} for name in only]
            shown, conns, sas = await self._listed(connection, map(_certificates, had), about)
            known = {conn.remote_id for conn in had}
            new = [conn for conn in conns.values() if conn.remote_id not in known]
            if new:
                shown += await connection.exchange([*map(_certificates, new)])
            items = await _each(parse, _data(shown))
            found = IkeState(conns=conns, sas=sas, certificates=_x509(items))
            return renewed(last, only, found)

    async def _listed(
        self,
        connection: Connection,
        general: Iterable[Request],
        narrowed: Sequence[Tree],
        *,
        forget: bool = False,
    ) -> tuple[list[Answer], dict[str, Conn], tuple[IkeSa, ...]]:
        """The answers to general questions, and connections and SAs as far as `narrowed` says."""
        general = list(general)
        answers = await connection.exchange(
            [
                *general,
                *(Request("list-conns", about, stream="list-conn") for about in narrowed),
                # Not `noblock`: a busy IKE_SA would seem to be gone.
                *(Request("list-sas", about, stream="list-sa") for about in narrowed),
            ]
        )
        first_conns, first_sas = len(general), len(general) + len(narrowed)
        conns = await self._conns(answers[first_conns:first_sas], forget=forget)
        sas = tuple(chain.from_iterable(await _each(_ike_sas, _data(answers[first_sas:]))))
        return answers[:first_conns], conns, sas

    async def _conns(self, answers: Iterable[Answer], *, forget: bool) -> dict[str, Conn]:
        messages = _data(answers)
        found = await _each(self._conns_in, messages)
        if forget:
            self._known = dict(zip(messages, found, strict=True))
        return {conn.name: conn for conns in found for conn in conns}

    def _conns_in(self, message: bytes) -> tuple[Conn, ...]:
        known = self._known.get(message)
        if known is not None:
            return known
        return tuple(
            observed_conn(name, section)
            for name, section in sections([parse(message)])
            if owns_conn(name)
        )


@contextmanager
def readable() -> Iterator[None]:
    """Around what reads charon's lists. Raises Unavailable for what can't be read."""
    try:
        yield
    except ProtocolError as error:
        reason = f"it lists what this program can't read: {error}"
        raise Unavailable("charon", reason) from error


def renewed(last: IkeState, names: Collection[str], found: IkeState) -> IkeState:
    """What was there `last`, with the connections and SAs of these names as they are in `found`,
    and certificates that are new.
    """
    seen = last.certificates
    return replace(
        last,
        certificates=seen if found.certificates <= seen else seen | found.certificates,
        conns=MappingProxyType(
            {
                **{name: conn for name, conn in last.conns.items() if name not in names},
                **{name: conn for name, conn in found.conns.items() if name in names},
            }
        ),
        sas=(
            *(sa for sa in last.sas if sa.conn not in names),
            *(_younger(sa, last.elapsed) for sa in found.sas if sa.conn in names),
        ),
    )


def _younger(sa: IkeSa, seconds: int) -> IkeSa:
    """As old as it was then: all ages of a state are of one time."""
    if not seconds:
        return sa
    children = tuple(replace(child, age=child.age - seconds) for child in sa.children)
    return replace(sa, age=sa.age - seconds, children=children)


async def _state(
    answers: Sequence[Answer], conns: Mapping[str, Conn], sas: tuple[IkeSa, ...]
) -> IkeState:
    authorities, keys, certs, stats = answers
    items = await _each(parse, certs.data)
    plugins = frozenset(texts(stats.message, "plugins"))
    return IkeState(
        authorities=frozenset(filter(owns_authority, texts(authorities.message, "authorities"))),
        keys=frozenset(texts(keys.message, "keys")),
        crls=_crls(items),
        certificates=_x509(items),
        conns=MappingProxyType(conns),
        sas=sas,
        plugins=plugins,
        userspace_esp=USERSPACE_ESP in plugins,
    )


def _certificates(conn: Conn) -> Request:
    """Those of a connection's peer. For an identity that charon can't tell it lists nothing."""
    about = {"type": "X509", "subject": conn.remote_id}
    return Request("list-certs", about, stream="list-cert")


def _x509(items: Iterable[Section]) -> frozenset[bytes]:
    return frozenset(raw(item, "data") for item in items if text(item, "type") == "X509")


def _data(answers: Iterable[Answer]) -> list[bytes]:
    return [message for answer in answers for message in answer.data]


async def _each(decode: Callable[[bytes], T], messages: Sequence[bytes]) -> list[T]:
    found: list[T] = []
    for start in range(0, len(messages), STEP):
        found += map(decode, messages[start : start + STEP])
        await trio.lowlevel.checkpoint()
    return found


def _ike_sas(message: bytes) -> list[IkeSa]:
    return [
        observed_ike_sa(name, section)
        for name, section in sections([parse(message)])
        if owns_conn(name)
    ]


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
