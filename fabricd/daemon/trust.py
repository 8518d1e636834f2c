"""Whether the peers' certificates still hold: charon asks only when a peer authenticates.

An IKE_SA outlives what it was made with: a certificate that is revoked, expires, or whose CA is
trusted no more. Charon does not say which certificate an IKE_SA was made with, but it lists those
that it has met. So for each peer the last one that was good when it appeared is kept in mind here,
and when that is good no more the peer's IKE_SAs are named, for the plan to end. What the peer makes
anew afterwards charon has checked itself, and it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import log2
from typing import Final

import structlog
from cryptography.x509 import Certificate, load_der_x509_certificate

from fabricd.core.ownership import conn_name
from fabricd.core.state import IkeState
from fabricd.ike import Credentials, issued
from fabricd.model import Node, Prefix
from fabricd.pki.certificate import Description, describe
from fabricd.pki.names import identity_of, is_name, name_of

GRACE: Final = 30.0
"""Seconds that peers get to authenticate anew when a CA of theirs is no longer trusted: who takes
part in a change of CAs has a certificate of another by then."""

FIRST_DOUBT: Final = 10.0
SLOW: Final = 300.0
"""Seconds."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Seen:
    """A peer's certificate."""

    certificate: Certificate
    about: Description


@dataclass(frozen=True, slots=True)
class _Objection:
    """What is wrong with a peer's certificate, and which IKE_SAs were made before that was so."""

    reason: str
    noticed: float
    grace: float
    last_id: int
    """The highest unique id of an IKE_SA then: charon's ids only grow."""


class Trust:
    """Updated once a pass, from what charon shows and the credentials in force."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._now = now
        self._known: frozenset[bytes] = frozenset()
        self._identities: frozenset[str] = frozenset()
        self._seen: dict[str, Seen] = {}
        self._objections: dict[str, _Objection] = {}
        self.distrusted: dict[int, str] = {}
        """IKE_SAs to end, by unique id, with the reason."""
        self._doubts: dict[str, float] = {}
        """By peer: since when its certificate does not cover its record, Unix seconds."""
        self.doubted: tuple[tuple[str, str], ...] = ()
        """As `Surroundings.doubted`."""

    def update(self, ike: IkeState, peers: Iterable[Node], credentials: Credentials | None) -> None:
        """`peers` are those that this node has a peering with."""
        peers = list(peers)
        identities = frozenset(_canonical(peer.identity) for peer in peers)
        self._learn(ike, identities, credentials)
        last_id = max((sa.id for sa in ike.sas), default=0)
        objections: dict[str, _Objection] = {}
        for peer in peers:
            conn = conn_name(peer.name)
            fault = self._fault(self.of(peer.identity), ike, credentials)
            if fault is None:
                continue
            reason, grace = fault
            before = self._objections.get(conn)
            if before is None or before.reason != reason:
                log.warning("certificate of a peer", conn=conn, reason=reason)
                before = _Objection(reason, self._now(), grace, last_id)
            if last_id < before.last_id:
                before = _Objection(reason, before.noticed, grace, 0)  # another charon
            objections[conn] = before
        self._objections = objections
        narrow = {
            peer.name: seen.about.serial
            for peer in sorted(peers, key=lambda peer: peer.name)
            if (seen := self.of(peer.identity)) is not None and uncovered(seen, peer.subnets)
        }
        now = self._now()
        self._doubts = {name: self._doubts.get(name, now) for name in narrow}
        self.doubted = tuple(
            (name, f"{serial} {_times(now - self._doubts[name])}")
            for name, serial in narrow.items()
        )
        self.distrusted = {
            sa.id: found.reason
            for sa in ike.sas
            if (found := objections.get(sa.conn)) is not None
            and sa.id <= found.last_id
            and self._now() >= found.noticed + found.grace
        }

    def of(self, identity: str) -> Seen | None:
        """The certificate that an identity was last seen with."""
        return self._seen.get(_canonical(identity))

    def objection(self, conn: str) -> str:
        """What is wrong with the certificate of the peer behind a connection, or ""."""
        found = self._objections.get(conn)
        return found.reason if found else ""

    def _fault(
        self, seen: Seen | None, ike: IkeState, credentials: Credentials | None
    ) -> tuple[str, float] | None:
        if seen is None or credentials is None:
            return None
        return _fault(seen, ike, credentials, self._now())

    def _learn(
        self, ike: IkeState, identities: frozenset[str], credentials: Credentials | None
    ) -> None:
        ders = ike.certificates
        fresh = ders if identities != self._identities else ders - self._known
        self._known, self._identities = ders, identities
        found = sorted(filter(None, map(_read, fresh)), key=lambda seen: seen.about.not_before)
        for seen in found:
            for identity in _identities(seen) & identities:
                # One that is no good has been refused: whoever showed it did not get in with it.
                if identity not in self._seen or not self._fault(seen, ike, credentials):
                    self._seen[identity] = seen
        for gone in self._seen.keys() - identities:
            del self._seen[gone]


def uncovered(seen: Seen | None, subnets: tuple[Prefix, ...]) -> str:
    """What of a peer's subnets its certificate does not stand for, in a line, or ""."""
    if seen is None or seen.about.blocks is None:
        return ""
    missing = seen.about.blocks.uncovered(subnets)
    if not missing:
        return ""
    return (
        f"its certificate is for {seen.about.blocks}, not for {', '.join(missing)}, which its "
        "record claims"
    )


def _fault(
    seen: Seen, ike: IkeState, credentials: Credentials, now: float
) -> tuple[str, float] | None:
    """Why a certificate is no longer good, and the seconds until that has consequences."""
    what = f"its certificate {seen.about.serial}"
    for crl in credentials.crls:
        when = crl.revokes(seen.certificate)
        # Until charon knows the list, it would let the peer in again at once.
        if when is not None and ike.crls.get(crl.issuer, -1) >= crl.number:
            return f"{what} was revoked {_date(when)}", 0.0
    if now >= seen.about.not_after + 1:  # charon counts whole seconds: it refuses it from now on
        return f"{what} expired {_date(seen.about.not_after)}", 0.0
    if not any(issued(seen.certificate, issuer) for issuer in credentials.issuers):
        return f"{what} is by {seen.about.issuer}, which is no longer among the CAs", GRACE
    return None


def _times(waited: float) -> int:
    """How often a doubted peer has been asked anew after so many seconds: soon at first, since it
    may be about to take a new certificate, then every five minutes.
    """
    return int(log2(1 + max(waited, 0) / FIRST_DOUBT)) if waited < SLOW else 5 + int(waited / SLOW)


def _read(der: bytes) -> Seen | None:
    try:
        certificate = load_der_x509_certificate(der)
        return Seen(certificate, describe(certificate))
    except ValueError:
        return None  # charon judges it; nothing can be told of it here


def _identities(seen: Seen) -> set[str]:
    return {text.casefold() for text in (seen.about.subject, *seen.about.alternatives)}


@lru_cache(maxsize=65536)
def _canonical(identity: str) -> str:
    """An identity as `describe` writes names: charon compares without regard to case too."""
    if not is_name(identity):
        return identity.removeprefix("@").casefold()
    try:
        return identity_of(name_of(identity)).casefold()
    except ValueError:
        return identity.casefold()


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
