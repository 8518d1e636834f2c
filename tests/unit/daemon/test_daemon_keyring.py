"""The node's credentials, from real files that change."""

from __future__ import annotations

from fabricd.daemon.keyring import Keyring
from tests.unit.daemon.conftest import Pki

DAY = 86400


def test_files_that_are_right(pki: Pki) -> None:
    keyring = pki.keyring()
    assert keyring.identity is None
    keyring.refresh()
    assert keyring.faults == ()
    assert keyring.credentials is not None
    assert keyring.identity is not None
    assert keyring.identity.key == keyring.credentials.key_id
    assert len(keyring.identity.authorities) == 1
    assert keyring.credentials.expiry.keys() == {
        "C=CN, O=StrongSwan, CN=edge2",
        "C=CN, O=StrongSwan, CN=Root CA",
    }


def test_to_read_them_again_changes_nothing(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.identity
    keyring.refresh()
    assert keyring.identity == before


def test_a_new_certificate_is_another_identity(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.identity
    pki.issue()
    keyring.refresh()
    assert keyring.identity is not None
    assert before is not None
    assert keyring.identity.digest != before.digest
    assert keyring.identity.key != before.key


def test_files_that_went_bad_leave_the_old_ones_in_force(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.credentials
    pki.cert.write_text("no certificate")
    keyring.refresh()
    assert keyring.credentials == before
    assert [fault for fault in keyring.faults if str(pki.cert) in fault]
    keyring.refresh()
    pki.issue()
    keyring.refresh()
    assert keyring.faults == ()


def test_a_certificate_that_runs_out_is_told_and_stays_in_force(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    pki.now += 31 * DAY
    keyring.refresh()
    assert "expired" in keyring.faults[0]
    assert keyring.credentials is not None


def test_without_files_there_is_no_identity(pki: Pki) -> None:
    for path in (pki.ca, pki.cert, pki.key):
        path.unlink()
    keyring = pki.keyring()
    keyring.refresh()
    assert keyring.identity is None
    assert len(keyring.faults) == 3


def warnings(pki: Pki, keyring: Keyring) -> list[str]:
    keyring.refresh()
    return [text.replace(f"{pki.folder}/", "") for text in keyring.warnings()]


def lists(keyring: Keyring) -> list[tuple[str, int]]:
    keyring.refresh()
    assert keyring.identity is not None
    return list(keyring.identity.crls)


def test_a_certificate_is_to_be_renewed_from_two_thirds_of_its_lifetime(pki: Pki) -> None:
    keyring = pki.keyring()
    pki.now += 20 * DAY - 1
    assert warnings(pki, keyring) == []
    pki.now += 1
    assert warnings(pki, keyring) == [
        "node.crt: the certificate expires 2026-01-31 00:00 UTC, in 10 days: renew it"
    ]
    pki.issue(days=200)
    pki.now += 180 * DAY
    assert warnings(pki, keyring) == [
        "the CA certificate C=CN, O=StrongSwan, CN=Root CA expires 2026-10-28 00:00 UTC, "
        "in 100 days: renew it"
    ]


def test_a_revocation_list_is_found_beside_its_ca(pki: Pki) -> None:
    keyring = pki.keyring()
    assert lists(keyring) == []
    pki.revoke(pki.peer("edge3"), number=4)
    assert lists(keyring) == [("CN=Root CA,O=StrongSwan,C=CN", 4)]
    pki.now += 25 * DAY
    pki.issue(days=25)
    pki.now += 6 * DAY
    [warning] = warnings(pki, keyring)
    assert "was to be followed by another by 2026-01-31 00:00 UTC" in warning


def test_a_bad_list_leaves_the_last_good_one(pki: Pki) -> None:
    keyring = pki.keyring()
    pki.revoke(pki.peer("edge3"), number=4)
    keyring.refresh()
    crl = pki.ca.with_suffix(".crl")
    other = Pki(pki.folder / "..")
    other.revoke()
    for content, reason in (
        (b"rubbish", "no certificate revocation list in PEM or DER form"),
        (other.ca.with_suffix(".crl").read_bytes(), "signed by none of the CAs"),
    ):
        crl.write_bytes(content)
        assert lists(keyring) == [("CN=Root CA,O=StrongSwan,C=CN", 4)]
        assert [fault for fault in keyring.faults if reason in fault and str(crl) in fault]
    crl.unlink()
    assert lists(keyring) == []
    assert keyring.faults == ()


def test_a_list_that_the_config_names_has_to_be_there(pki: Pki) -> None:
    path = pki.folder / "list.pem"
    keyring = Keyring([pki.ca], pki.cert, pki.key, lambda: pki.now, [path])
    keyring.refresh()
    assert keyring.faults == (f"{path}: No such file or directory",)
    assert keyring.credentials is not None


def test_the_own_certificate_may_be_revoked(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    assert keyring.credentials is not None
    pki.revoke(keyring.credentials.own)
    assert warnings(pki, keyring) == [
        "node.crt: the certificate is revoked, peers refuse it: get another"
    ]


def test_the_key_of_an_earlier_certificate_is_retired_if_it_was_loaded_here(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    assert keyring.identity is not None
    first = keyring.identity.key
    pki.issue()
    keyring.refresh()
    assert keyring.identity.retired == frozenset(), "another program's, for all we know"
    second = keyring.identity.key
    keyring.loaded(first)
    keyring.loaded(second)
    assert keyring.identity.retired == {first}
    keyring.unloaded(first)
    assert keyring.identity.retired == frozenset()
