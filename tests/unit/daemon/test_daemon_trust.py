"""Peers' certificates that go bad while their IKE_SAs live on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fabricd.core.connections import DOUBTS
from fabricd.core.state import IkeSa, IkeState
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.trust import GRACE, REFUSAL, Trust, uncovered
from fabricd.model import Node, Prefix, Role
from fabricd.pki.certificate import Description, read
from tests.unit.daemon.conftest import Pki

DAY = 86400
EDGE3 = "C=CN, O=StrongSwan, CN=edge3"
PEERS = [Node("edge3", Role.EDGE, (Prefix("2.2.2.32/27"),), EDGE3)]


@dataclass
class Bench:
    """A charon's shown state, and the trust in it."""

    pki: Pki
    keyring: Keyring
    certificates: list[x509.Certificate] = field(default_factory=list)
    sas: dict[int, str] = field(default_factory=dict)
    """Unique id to connection."""
    knows_crls: bool = True
    odd: list[bytes] = field(default_factory=list)
    """More that charon lists."""

    def __post_init__(self) -> None:
        self.trust = Trust("node1", lambda: self.pki.now)

    def look(
        self, failed: Collection[str] = (), age: int = 100, peers: Sequence[Node] = PEERS
    ) -> dict[int, str]:
        """One pass; returns which IKE_SAs are to end, and why."""
        self.keyring.refresh()
        found = self.keyring.credentials
        assert found is not None
        ike = IkeState(
            crls={c.issuer: c.number for c in found.crls} if self.knows_crls else {},
            certificates=frozenset(
                [*self.odd, *(c.public_bytes(Encoding.DER) for c in self.certificates)]
            ),
            sas=tuple(
                IkeSa(n, conn, "ESTABLISHED", False, age=age) for n, conn in self.sas.items()
            ),
        )
        self.trust.update(ike, peers, found, failed)
        return self.trust.distrusted

    def authenticates(self, number: int, certificate: x509.Certificate) -> None:
        self.sas[number] = "fabric-edge3"
        self.certificates.append(certificate)


@pytest.fixture
def bench(pki: Pki) -> Bench:
    return Bench(pki, pki.keyring())


def reasons(found: Iterable[str]) -> set[str]:
    """Reasons without serial numbers."""
    return {" ".join(text.split()[3:]) for text in found}


def test_a_good_certificate_is_kept_in_mind(bench: Bench) -> None:
    certificate = bench.pki.peer("edge3")
    bench.authenticates(1, certificate)
    assert bench.look() == {}
    seen = bench.trust.of("c=cn,o=strongswan, CN=EDGE3")
    assert seen is not None
    assert seen.certificate == certificate
    bench.certificates.clear()  # charon remembers the last few only
    bench.look()
    assert bench.trust.of(EDGE3) == seen
    assert bench.trust.of("C=CN, O=StrongSwan, CN=edge4") is None


def test_what_was_listed_before_this_node_had_credentials_is_read_then(bench: Bench) -> None:
    certificate = bench.pki.peer("edge3")
    ders = frozenset({certificate.public_bytes(Encoding.DER)})
    bench.trust.update(IkeState(certificates=ders), PEERS, None)
    bench.authenticates(1, certificate)
    bench.look()
    assert bench.trust.of(EDGE3) is not None


def test_a_revoked_peer_is_cut_off_and_stays_so_until_it_has_another_certificate(
    bench: Bench,
) -> None:
    stolen = bench.pki.peer("edge3")
    bench.authenticates(1, stolen)
    bench.pki.revoke(bench.pki.peer("edge4"))
    assert bench.look() == {}
    bench.pki.revoke(stolen, number=2)
    assert reasons(bench.look().values()) == {"was revoked 2026-01-01 00:00 UTC"}
    assert "was revoked" in bench.trust.objection("fabric-edge3")
    del bench.sas[1]
    # What comes later has passed charon's own check, though its certificate may not be shown.
    bench.sas[2] = "fabric-edge3"
    assert bench.look() == {}
    bench.authenticates(3, bench.pki.peer("edge3", days=1))
    assert bench.look() == {}
    assert bench.trust.objection("fabric-edge3") == ""


def test_nobody_is_cut_off_before_charon_knows_the_list(bench: Bench) -> None:
    certificate = bench.pki.peer("edge3")
    bench.authenticates(1, certificate)
    bench.pki.revoke(certificate)
    bench.knows_crls = False
    assert bench.look() == {}
    bench.authenticates(2, certificate)  # it was let in again meanwhile
    bench.knows_crls = True
    assert bench.look().keys() == {1, 2}


def test_an_expired_peer_is_cut_off(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3", days=-20))
    assert bench.look() == {}
    bench.pki.now += 10 * DAY + 0.9
    assert bench.look() == {}, "charon would let it in again"
    bench.pki.now += 0.1
    assert reasons(bench.look().values()) == {"expired 2026-01-11 00:00 UTC"}


def test_the_last_one_that_got_in_counts(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3"))
    bench.look()
    bench.pki.now += 5 * DAY
    bench.authenticates(2, bench.pki.peer("edge3", days=5))
    bench.look()
    bench.pki.now += 26 * DAY
    bench.pki.issue(days=31)
    assert bench.look() == {}, "the first has expired, the second has not"
    bench.pki.now += 5 * DAY
    assert bench.look().keys() == {1, 2}


def test_whoever_comes_with_a_revoked_certificate_harms_nobody(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3"))
    stolen = bench.pki.peer("edge3", days=1)
    bench.pki.revoke(stolen)
    bench.look()
    bench.certificates.append(stolen)  # charon has met it, and refused it
    assert bench.look() == {}


def test_an_older_certificate_that_expires_concerns_nobody(bench: Bench) -> None:
    bench.certificates.append(bench.pki.peer("edge3", days=-20))
    bench.authenticates(1, bench.pki.peer("edge3"))
    bench.certificates.append(bench.pki.peer("edge3", days=-19))
    bench.look()
    bench.pki.now += 12 * DAY
    assert bench.look() == {}


def test_a_ca_that_is_no_longer_trusted_leaves_time_to_authenticate_anew(bench: Bench) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    bench.pki.trust(other)
    bench.authenticates(1, bench.pki.peer("edge3", issuer=other))
    assert bench.look() == {}
    assert bench.trust.objection("fabric-edge3") == ""
    bench.pki.trust()
    assert bench.look() == {}
    objection = bench.trust.objection("fabric-edge3")
    assert objection.endswith(
        "is by C=CN, O=StrongSwan, CN=Root CA, which is no longer among the CAs"
    )
    bench.pki.now += GRACE - 1
    assert bench.look() == {}
    bench.sas[5] = bench.sas.pop(1)  # rekeyed meanwhile, by the same certificate
    bench.pki.now += 1
    assert bench.look() == {5: objection}
    bench.sas[6] = "fabric-edge3"
    assert bench.look() == {5: objection}


def test_what_others_do_meanwhile_changes_nothing(bench: Bench) -> None:
    stolen = bench.pki.peer("edge3")
    bench.authenticates(7, stolen)
    bench.sas[9] = "fabric-edge4"
    bench.pki.revoke(stolen)
    assert bench.look().keys() == {7}
    del bench.sas[9]
    assert bench.look().keys() == {7}


def test_a_certificate_that_none_of_our_cas_signed_is_nobodys(bench: Bench) -> None:
    """Anybody on the underlay can show charon one, with whatever name in it."""
    outsider = ec.generate_private_key(ec.SECP256R1())
    bench.sas[1] = "fabric-edge3"
    bench.certificates.append(bench.pki.peer("edge3", issuer=outsider))
    bench.look()
    bench.pki.now += GRACE
    assert (bench.look(), bench.trust.objection("fabric-edge3")) == ({}, "")


def test_a_certificate_is_public_an_older_one_shown_again_counts_no_more(bench: Bench) -> None:
    old = bench.pki.peer("edge3", days=-20)
    bench.authenticates(1, bench.pki.peer("edge3"))
    bench.look()
    bench.certificates.append(old)
    bench.look()
    bench.pki.now += 11 * DAY
    assert bench.look() == {}


def test_a_good_one_follows_a_bad_one_whenever_it_began(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3", days=-20))
    bench.look()
    bench.pki.now += 11 * DAY
    assert bench.look().keys() == {1}
    bench.authenticates(2, bench.pki.peer("edge3", days=-19))
    assert bench.look() == {}
    assert bench.trust.objection("fabric-edge3") == ""


def test_what_can_t_be_read_stops_nothing(bench: Bench) -> None:
    good = bench.pki.peer("edge3").public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")  # [0] INTEGER 2: X.509 version 3
    assert version in good
    bench.authenticates(1, bench.pki.peer("edge3"))
    bench.odd = [b"", b"0", good[:-40], good.replace(version, bytes.fromhex("a003020109"))]
    assert bench.look() == {}
    assert bench.trust.of(EDGE3) is not None


def test_each_certificate_is_read_once_whoever_comes_and_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def counted(der: bytes) -> tuple[x509.Certificate, Description]:
        parsed.append(der)
        return read(der)

    monkeypatch.setattr("fabricd.daemon.trust.read", counted)
    bench.authenticates(1, bench.pki.peer("edge3"))
    bench.odd = [b"nothing like a certificate"]
    edge4 = replace(PEERS[0], name="edge4", identity="C=CN, O=StrongSwan, CN=edge4")
    for peers in (PEERS, [*PEERS, edge4], PEERS, [edge4], PEERS):
        bench.look(peers=peers)
        assert (bench.trust.of(EDGE3) is None) == (PEERS[0] not in peers)
    assert len(parsed) == len(set(parsed)) == 2


def test_the_connections_of_others_are_none_of_its_business(bench: Bench) -> None:
    stolen = bench.pki.peer("edge9")
    bench.certificates.append(stolen)
    bench.sas[1] = "office"
    bench.pki.revoke(stolen)
    assert bench.look() == {}


def test_what_a_certificate_is_not_for(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3", blocks=["2.2.2.32/27"]))
    bench.look()
    seen = bench.trust.of(EDGE3)
    assert uncovered(seen, (Prefix("2.2.2.32/27"),)) == ""
    assert uncovered(seen, (Prefix("2.2.2.0/27"), Prefix("2.2.2.32/28"))) == (
        "its certificate is for 2.2.2.32/27, not for 2.2.2.0/27, which its record claims"
    )
    bench.authenticates(2, bench.pki.peer("edge3", days=1))
    bench.look()
    assert uncovered(bench.trust.of(EDGE3), (Prefix("2.2.2.0/27"),)) == "", "blocks are optional"


def test_a_certificate_that_is_not_for_the_record_is_doubted_until_there_is_another(
    bench: Bench,
) -> None:
    narrow = bench.pki.peer("edge3", blocks=["2.2.2.64/27"])
    bench.authenticates(1, narrow)
    bench.look()
    [(name, occasion)] = bench.trust.doubted
    assert name == "edge3"
    assert int(occasion) < DOUBTS
    changes = []
    for second in range(1200):
        bench.pki.now += 1
        bench.look()
        if bench.trust.doubted != ((name, occasion),):
            changes.append(second + 1)
            [(name, occasion)] = bench.trust.doubted
    assert [later - one for one, later in pairwise(changes)] == [300, 300, 300]
    again = Trust("node1", lambda: bench.pki.now)
    assert bench.keyring.credentials is not None
    again.update(
        IkeState(certificates=frozenset([narrow.public_bytes(Encoding.DER)])),
        PEERS,
        bench.keyring.credentials,
    )
    assert again.doubted == bench.trust.doubted, "a restart asks nobody anew"
    bench.authenticates(2, bench.pki.peer("edge3", days=1, blocks=["2.2.2.0/24"]))
    bench.look()
    assert bench.trust.doubted == ((name, occasion),), "and that stays: nothing is undone"
    bench.pki.now += 1200
    bench.look()
    assert bench.trust.doubted == ((name, occasion),)
    again = Trust("node1", lambda: bench.pki.now)
    again.resume({"edge3": occasion})  # as charon's connection says
    again.update(IkeState(), PEERS, bench.keyring.credentials)
    assert again.doubted == ((name, occasion),)


def test_a_peer_that_refuses_a_child_sa_in_an_ike_sa_that_stands_is_asked_anew(
    bench: Bench,
) -> None:
    """It may have got another certificate since: then it judges the IKE_SA by an older record."""
    bench.authenticates(1, bench.pki.peer("edge3", blocks=["2.2.2.0/24"]))
    bench.look(failed=["fabric-edge3"])
    before: tuple[tuple[str, str], ...] = bench.trust.doubted
    assert before == (), "it may just not have read the record"
    bench.pki.now += REFUSAL
    bench.look(failed=["fabric-edge3"])
    [(name, occasion)] = bench.trust.doubted
    assert name == "edge3"
    bench.look()
    assert bench.trust.doubted == ((name, occasion),), "and that stays: nothing is undone"


def test_a_failure_without_an_ike_sa_that_stands_says_nothing_of_the_peer(bench: Bench) -> None:
    bench.authenticates(1, bench.pki.peer("edge3", blocks=["2.2.2.0/24"]))
    for _ in range(2):
        bench.look(failed=["fabric-edge3"], age=2)
        bench.look(failed=["fabric-edge2"])
        bench.pki.now += REFUSAL
    assert bench.trust.doubted == ()
