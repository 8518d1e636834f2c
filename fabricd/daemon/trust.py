"""Whether the peers' certificates still hold: charon asks only when a peer authenticates.

An IKE_SA outlives what it was made with: a certificate that is revoked, expires, or whose CA is
trusted no more. Charon does not say which certificate an IKE_SA was made with, but it lists those
that it has met. So for each peer the latest one that was good when it appeared is kept in mind
here, and when that is good no more the IKE_SAs that the peer has by then are named, for the plan to
end. What the peer makes anew afterwards charon has checked itself, and it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Final

import structlog
from cryptography.x509 import Certificate

from fabricd.core.ownership import conn_name
from fabricd.core.state import IkeState
from fabricd.ike import Credentials
from fabricd.model import Node, Prefix
from fabricd.pki.certificate import Description, read, utc
from fabricd.pki.names import identity_of, is_name, name_of
from fabricd.pki.verify import is_issued_by

GRACE: Final = 30.0
"""Seconds that peers get to authenticate anew when a CA of theirs is no longer trusted: who takes
part in a change of CAs has a certificate of another by then."""

DOUBT: Final = 300
"""Seconds after which a peer whose certificate does not cover its record is asked anew."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Seen:
    """A peer's certificate."""

    certificate: Certificate
    about: Description


@dataclass(frozen=True, slots=True)
class _Objection:
    """What is wrong with a peer's certificate, and which IKE_SAs are to end for it."""

    reason: str
    since: float
    """From when on it has consequences, Unix seconds."""
    condemned: frozenset[int] | None = None
    """The unique ids of the peer's IKE_SAs at that time; None before it. What comes later has
    passed charon's own check."""


class Trust:
    """Updated once a pass, from what charon shows and the credentials in force."""

    def __init__(self, node: str, now: Callable[[], float]) -> None:
        """`node`: this one's name. `now` gives Unix seconds."""
        self._node = node
        self._now = now
        self._known: frozenset[bytes] = frozenset()
        self._identities: frozenset[str] = frozenset()
        self._seen: dict[str, Seen] = {}
        self._objections: dict[str, _Objection] = {}
        self.distrusted: dict[int, str] = {}
        """IKE_SAs to end, by unique id, with the reason."""
        self._asked: dict[str, str] = {}
        """By peer: on what occasion it was last asked for another certificate."""
        self.doubted: tuple[tuple[str, str], ...] = ()
        """As `Surroundings.doubted`."""

    def update(self, ike: IkeState, peers: Iterable[Node], credentials: Credentials | None) -> None:
        """`peers` are those that this node has a peering with."""
        peers = list(peers)
        identities = frozenset(_canonical(peer.identity) for peer in peers)
        self._learn(ike, identities, credentials)
        now = self._now()
        objections: dict[str, _Objection] = {}
        for peer in peers:
            conn = conn_name(peer.name)
            fault = self._fault(self.of(peer.identity), ike, credentials)
            if fault is None:
                continue
            reason, grace = fault
            found = self._objections.get(conn)
            if found is None or found.reason != reason:
                log.warning("certificate of a peer", conn=conn, reason=reason)
                found = _Objection(reason, now + grace)
            if found.condemned is None and now >= found.since:
                ids = frozenset(sa.id for sa in ike.sas if sa.conn == conn)
                found = replace(found, condemned=ids)
            objections[conn] = found
        self._objections = objections
        self.distrusted = {
            sa.id: found.reason
            for sa in ike.sas
            if (found := objections.get(sa.conn)) is not None and sa.id in (found.condemned or ())
        }
        narrow = {
            peer.name: seen.about.serial
            for peer in sorted(peers, key=lambda peer: peer.name)
            if (seen := self.of(peer.identity)) is not None and uncovered(seen, peer.subnets)
        }
        # What was asked for once stays: with the set-up from before, charon would make CHILD_SAs
        # in the IKE_SA from before, as long as that is there.
        names = {peer.name for peer in peers}
        self._asked = {name: text for name, text in self._asked.items() if name in names}
        self._asked |= {
            name: f"{serial} {_occasion(self._node, name, now)}" for name, serial in narrow.items()
        }
        self.doubted = tuple(sorted(self._asked.items()))

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
                # Anybody can show a certificate. One that none of our CAs signed is nobody's; one
                # that is no good got nobody in; and one that is older than the last, while that is
                # good, is somebody else's copy as likely as not.
                if credentials is None or not _by_one_of(seen.certificate, credentials.issuers):
                    continue
                known = self._seen.get(identity)
                if known is not None and self._fault(seen, ike, credentials):
                    continue
                if (
                    known is None
                    or seen.about.not_before >= known.about.not_before
                    or self._fault(known, ike, credentials)
                ):
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
            return f"{what} was revoked {utc(when)}", 0.0
    if now >= seen.about.not_after + 1:  # charon counts whole seconds: it refuses it from now on
        return f"{what} expired {utc(seen.about.not_after)}", 0.0
    if not _by_one_of(seen.certificate, credentials.issuers):
        return f"{what} is by {seen.about.issuer}, which is no longer among the CAs", GRACE
    return None


def _occasion(node: str, peer: str, now: float) -> int:
    """Changes when a doubted peer is to be asked anew: at a time of this pair's own, and the same
    after a restart.
    """
    spread = int.from_bytes(sha256(f"{node} {peer}".encode()).digest()[:4])
    return int(now + spread % DOUBT) // DOUBT


@lru_cache(maxsize=16384)
def _by_one_of(certificate: Certificate, issuers: tuple[Certificate, ...]) -> bool:
    return any(is_issued_by(certificate, issuer) for issuer in issuers)


def _read(der: bytes) -> Seen | None:
    try:
        return Seen(*read(der))
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
