"""Revocation, and everything that can be wrong with a certificate."""

from __future__ import annotations

from cryptography.x509 import Certificate, CertificateRevocationList

from fabricd.pki.blocks import INHERIT, AddressBlocks
from fabricd.pki.revocation import number_of, reason_of, updated
from fabricd.pki.verify import Trust, block_faults
from tests.unit.pki.conftest import DAY, NOW, Ca


def crl(
    ca: Ca,
    *certificates: Certificate,
    before: CertificateRevocationList | None = None,
    reason: str = "unspecified",
    now: float = NOW,
) -> CertificateRevocationList:
    serials = {certificate.serial_number: reason for certificate in certificates}
    return updated(ca.authority, before, serials, days=30, now=now)


def faults(
    ca: Ca, certificate: Certificate, *lists: CertificateRevocationList, now: float = NOW
) -> list[str]:
    return Trust([ca.certificate], lists, now).faults(certificate)


# ---------------------------------------------------------------- lists


def test_a_list_grows_and_counts(ca: Ca) -> None:
    edge2, edge3 = ca.issue("edge2", "2.2.2.0/27"), ca.issue("edge3", "2.2.3.0/27")
    first = crl(ca, edge2, reason="keyCompromise")
    second = crl(ca, edge3, edge2, before=first, reason="superseded", now=NOW + DAY)
    assert [number_of(item) for item in (None, first, second)] == [0, 1, 2]
    said = {entry.serial_number: reason_of(entry) for entry in second}
    assert said == {edge2.serial_number: "keyCompromise", edge3.serial_number: "superseded"}
    assert second.is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type]
    dates = [entry.revocation_date_utc.timestamp() - NOW for entry in second]
    assert dates == [0, DAY]


def test_silence_is_the_reason_unspecified(ca: Ca) -> None:
    (entry,) = crl(ca, ca.issue("edge2", "2.2.2.0/27"))
    assert len(entry.extensions) == 0
    assert reason_of(entry) == "unspecified"


def test_a_fresh_list_has_what_the_old_one_had(ca: Ca) -> None:
    edge2 = ca.issue("edge2", "2.2.2.0/27")
    fresh = crl(ca, before=crl(ca, edge2), now=NOW + 20 * DAY)
    assert [entry.serial_number for entry in fresh] == [edge2.serial_number]
    assert fresh.next_update_utc is not None
    assert fresh.next_update_utc.timestamp() == NOW + 50 * DAY


# ---------------------------------------------------------------- certificates


def test_nothing_is_wrong(ca: Ca) -> None:
    assert faults(ca, ca.issue("edge2", "2.2.2.0/27"), crl(ca)) == []


def test_the_clock(ca: Ca) -> None:
    edge2 = ca.issue("edge2", "2.2.2.0/27", days=10)
    assert faults(ca, edge2, now=NOW + 11 * DAY) == ["expired 2027-01-25 08:00:00 UTC"]
    early = faults(ca, edge2, now=NOW - DAY)
    assert early == [
        "is not valid before 2027-01-15 07:55:00 UTC",
        "the CA's certificate is not valid before 2027-01-15 07:55:00 UTC",
    ]


def test_another_ca_of_the_same_name(ca: Ca) -> None:
    stranger = Ca.create()
    found = faults(ca, stranger.issue("edge2", "2.2.2.0/27"))
    assert found == ["issued by C=CN, O=StrongSwan, CN=Root CA, which is none of the CAs"]


def test_revoked(ca: Ca) -> None:
    edge2 = ca.issue("edge2", "2.2.2.0/27")
    revoked = crl(ca, edge2, reason="keyCompromise")
    assert faults(ca, edge2, revoked) == ["revoked 2027-01-15 08:00:00 UTC (keyCompromise)"]
    assert faults(ca, ca.issue("edge2", "2.2.2.0/27"), revoked) == []


def test_a_list_that_a_stranger_signed_revokes_nothing(ca: Ca) -> None:
    edge2, stranger = ca.issue("edge2", "2.2.2.0/27"), Ca.create()
    forged = crl(stranger, edge2)
    assert faults(ca, edge2, forged) == []
    trust = Trust([ca.certificate], [forged], NOW + 31 * DAY)
    assert trust.crl_faults(forged) == [
        "signed by C=CN, O=StrongSwan, CN=Root CA, which is none of the CAs",
        "out of date since 2027-02-14 08:00:00 UTC: fabricctl pki crl",
    ]
    assert trust.crl_faults(crl(ca, now=NOW + 30 * DAY)) == []


def test_blocks_under_the_issuer_s() -> None:
    node, ca = AddressBlocks.of(["2.2.2.0/27"]), AddressBlocks.of(["2.2.2.0/24"])
    assert block_faults(node, ca) == []
    assert block_faults(None, None) == []
    assert block_faults(AddressBlocks.of(["3.0.0.0/27"]), ca) == [
        "3.0.0.0/27: is outside the CA's address blocks: 2.2.2.0/24"
    ]
    assert block_faults(None, ca) == ["has no address blocks, but its CA has: charon refuses it"]
    assert block_faults(node, None) == [
        "has address blocks, but its CA has none: charon refuses it"
    ]
    assert "inherits" in block_faults(AddressBlocks(v4=INHERIT), ca)[0]


def test_each_of_two_cas_is_enough(ca: Ca) -> None:
    old, edge2 = Ca.create(cn="Old CA"), ca.issue("edge2", "2.2.2.0/27")
    trust = Trust([old.certificate, ca.certificate], [], NOW)
    assert trust.faults(edge2) == []
    assert trust.faults(old.issue("edge3", "2.2.3.0/27")) == []


# ---------------------------------------------------------------- CAs


def test_a_ca(ca: Ca) -> None:
    trust = Trust([ca.certificate], [], NOW)
    assert trust.authority_faults(ca.certificate) == []
    assert trust.authority_faults(ca.issue("edge2", "2.2.2.0/27")) == [
        "is no CA certificate (basicConstraints)",
        "may not sign certificates (keyUsage)",
    ]
    late = Trust([ca.certificate], [], NOW + 4000 * DAY)
    assert late.authority_faults(ca.certificate) == ["expired 2037-01-12 08:00:00 UTC"]
