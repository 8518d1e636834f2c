"""Whether the peers' certificates still hold: charon asks only when a peer authenticates.

An IKE_SA outlives what it was made with: a certificate that is revoked, expires, or whose CA is
trusted no more. Charon does not say which certificate an IKE_SA was made with, but it lists those
that it has met. So for each peer the latest one that was good when it appeared is kept in mind
here, and when that is good no more the IKE_SAs that the peer has by then are named, for the plan to
end. What the peer makes anew afterwards charon has checked itself, and it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from math import inf
from typing import Final

import structlog
from cryptography.x509 import Certificate

from fabricd.core.connections import doubt
from fabricd.core.kept import Kept, same
from fabricd.core.ownership import conn_name, peer_of
from fabricd.core.state import IkeState
from fabricd.core.tunnels import ESTABLISHED
from fabricd.ike import Credentials
from fabricd.model import Node, Prefix
from fabricd.pki.certificate import Description, read, utc
from fabricd.pki.names import identity_of, is_name, name_of
from fabricd.pki.verify import is_issued_by

GRACE: Final = 30.0
"""Seconds that peers get to authenticate anew when a CA of theirs is no longer trusted: who takes
part in a change of CAs has a certificate of another by then."""

DOUBT: Final = 300
"""Seconds after which a peer whose certificate does not cover its record, or who refuses what its
record claims, is asked anew."""

STANDING: Final = 3
"""Seconds that an IKE_SA is up when a failure is one of a CHILD_SA in it."""

REFUSAL: Final = 20
"""Seconds that a peer gets to read the record that a CHILD_SA is for."""

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
        self._judges: tuple[object, ...] = ()
        """For what they were known: the peers' identities, our CAs."""
        self._identities_of = Kept(_canonical_identities)
        self._by_name = Kept(_by_name)
        self._narrow_of = Kept(_narrow)
        self._narrow: Mapping[str, str] = {}
        """Peers whose certificates don't stand for all that their records claim, and for what."""
        self._seen: Mapping[str, Seen] = {}
        """By identity; another object when anything of it has changed."""
        self._judged: tuple[object, ...] = ()
        self._judged_until = -inf
        self._faults: Mapping[str, _Fault] = {}
        """What was found of whose certificates, what it followed from, and until when."""
        self._objections: dict[str, _Objection] = {}
        self.distrusted: dict[int, str] = {}
        """IKE_SAs to end, by unique id, with the reason."""
        self._refused_since: dict[str, float] = {}
        """By connection: since when a CHILD_SA is refused, Unix seconds."""
        self._asked: dict[str, str] = {}
        """By peer: on what occasion it was last asked for another certificate."""
        self.doubted: tuple[tuple[str, str], ...] = ()
        """As `Surroundings.doubted`."""

    def update(
        self,
        ike: IkeState,
        peers: Sequence[Node],
        credentials: Credentials | None,
        failed: Collection[str] = (),
    ) -> None:
        """`peers` are those that this node has a peering with; `failed` are the connections whose
        last attempt failed.
        """
        self._learn(ike, self._identities_of.of(peers), credentials)
        now = self._now()
        objections: dict[str, _Objection] = {}
        for conn, (reason, grace) in self._found(ike, peers, credentials).items():
            found = self._objections.get(conn)
            if found is None or found.reason != reason:
                log.warning("certificate of a peer", conn=conn, reason=reason)
                found = _Objection(reason, now + grace)
            if found.condemned is None and now >= found.since:
                ids = frozenset(sa.id for sa in ike.of(conn))
                found = replace(found, condemned=ids)
            objections[conn] = found
        self._objections = objections
        self.distrusted = {
            sa.id: found.reason
            for conn, found in objections.items()
            for sa in ike.of(conn)
            if sa.id in (found.condemned or ())
        }
        by_name = self._by_name.of(peers)
        self._narrow = self._narrow_of.of(peers, self._seen)
        refused = map(peer_of, self._refused(ike, failed))
        narrow = self._narrow.keys() | by_name.keys() & set(refused)
        # What was asked for once stays: with the set-up from before, charon would make CHILD_SAs
        # in the IKE_SA from before, as long as that is there.
        self._asked = {name: text for name, text in self._asked.items() if name in by_name}
        for name in narrow:
            seen = self.of(by_name[name].identity)
            serial = seen.about.serial if seen is not None else ""
            self._asked[name] = doubt(f"{serial} {_occasion(self._node, name, now)}")
        self.doubted = tuple(sorted(self._asked.items()))

    def resume(self, asked: Mapping[str, str]) -> None:
        """These peers were asked by another daemon of this node, on these occasions."""
        self._asked |= asked

    def _refused(self, ike: IkeState, failed: Collection[str]) -> frozenset[str]:
        """Connections that want a CHILD_SA for a while now, and don't get it in an IKE_SA that
        stands. It keeps the set-up that the peer had when it was made: if that has got another
        certificate since, what came into its record later is not to be had in there.
        """
        now = self._now()
        self._refused_since = {
            conn: self._refused_since.get(conn, now)
            for conn in failed
            if any(sa.state in ESTABLISHED and ike.age_of(sa) >= STANDING for sa in ike.of(conn))
        }
        return frozenset(c for c, since in self._refused_since.items() if now - since >= REFUSAL)

    def of(self, identity: str) -> Seen | None:
        """The certificate that an identity was last seen with."""
        return self._seen.get(_canonical(identity))

    def objection(self, conn: str) -> str:
        """What is wrong with the certificate of the peer behind a connection, or ""."""
        found = self._objections.get(conn)
        return found.reason if found else self._narrow.get(peer_of(conn), "")

    def _found(
        self, ike: IkeState, peers: Sequence[Node], credentials: Credentials | None
    ) -> Mapping[str, _Fault]:
        """What is wrong with whose certificate, by connection. As long as that is nothing, another
        answer takes something new, or the end of a certificate.
        """
        if credentials is None:
            return {}
        given, now = (peers, self._seen, credentials, ike.crls), self._now()
        if same(self._judged, given) and not self._faults and now < self._judged_until:
            return self._faults
        shown = {conn_name(peer.name): self.of(peer.identity) for peer in peers}
        known = {conn: seen for conn, seen in shown.items() if seen is not None}
        faults = {conn: _fault(seen, ike, credentials, now) for conn, seen in known.items()}
        self._faults = {conn: fault for conn, fault in faults.items() if fault is not None}
        self._judged, self._judged_until = given, min(map(_end, known.values()), default=inf)
        return self._faults

    def _learn(
        self, ike: IkeState, identities: frozenset[str], credentials: Credentials | None
    ) -> None:
        if credentials is None:
            return  # nobody can be told from a stranger
        ders, judges = ike.certificates, (identities, credentials.issuers)
        if ders is self._known and judges == self._judges:
            return
        fresh = ders if judges != self._judges else ders - self._known
        self._known, self._judges = ders, judges
        latest, now = dict(self._seen), self._now()
        found = sorted(filter(None, map(_read, fresh)), key=lambda seen: seen.about.not_before)
        for seen in found:
            for identity in _identities(seen) & identities:
                # Anybody can show a certificate. One that none of our CAs signed is nobody's; one
                # that is no good got nobody in; and one that is older than the last, while that is
                # good, is somebody else's copy as likely as not.
                if not _by_one_of(seen.certificate, credentials.issuers):
                    continue
                known = latest.get(identity)
                if known is not None and _fault(seen, ike, credentials, now):
                    continue
                if (
                    known is None
                    or seen.about.not_before >= known.about.not_before
                    or _fault(known, ike, credentials, now)
                ):
                    latest[identity] = seen
        latest = {identity: seen for identity, seen in latest.items() if identity in identities}
        if latest != self._seen:
            self._seen = latest


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


def _canonical_identities(peers: Sequence[Node]) -> frozenset[str]:
    return frozenset(_canonical(peer.identity) for peer in peers)


def _by_name(peers: Sequence[Node]) -> Mapping[str, Node]:
    return {peer.name: peer for peer in peers}


def _narrow(peers: Sequence[Node], seen: Mapping[str, Seen]) -> Mapping[str, str]:
    shown = ((peer, seen.get(_canonical(peer.identity))) for peer in peers)
    texts = {peer.name: uncovered(found, peer.subnets) for peer, found in shown}
    return {name: text for name, text in texts.items() if text}


_Fault = tuple[str, float]
"""Why a certificate is no longer good, and the seconds until that has consequences."""


def _end(seen: Seen) -> float:
    """Unix seconds: charon counts whole ones, and refuses it from then on."""
    return seen.about.not_after + 1


def _fault(seen: Seen, ike: IkeState, credentials: Credentials, now: float) -> _Fault | None:
    what = f"its certificate {seen.about.serial}"
    for crl in credentials.crls:
        when = crl.revokes(seen.certificate)
        # Until charon knows the list, it would let the peer in again at once.
        if when is not None and ike.crls.get(crl.issuer, -1) >= crl.number:
            return f"{what} was revoked {utc(when)}", 0.0
    if now >= _end(seen):
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


@lru_cache(maxsize=16384)
def _read(der: bytes) -> Seen | None:
    """All are looked at again whenever a peer comes or goes."""
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
