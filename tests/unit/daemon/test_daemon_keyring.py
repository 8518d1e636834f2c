"""The node's credentials, from real files that change."""

from __future__ import annotations

from tests.unit.daemon.conftest import Pki

DAY = 86400


def test_files_that_are_right(pki: Pki) -> None:
    keyring = pki.keyring()
    assert keyring.identity is None
    assert keyring.refresh()
    assert keyring.faults == ()
    assert keyring.credentials is not None
    assert keyring.identity is not None
    assert keyring.identity.key == keyring.credentials.key_id
    assert len(keyring.identity.authorities) == 1
    assert keyring.credentials.expiry.keys() == {
        "CN=edge2,O=StrongSwan,C=CN",
        "CN=Root CA,O=StrongSwan,C=CN",
    }


def test_to_read_them_again_changes_nothing(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.identity
    assert not keyring.refresh()
    assert keyring.identity == before


def test_a_new_certificate_is_another_identity(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.identity
    pki.issue()
    assert keyring.refresh()
    assert keyring.identity is not None
    assert before is not None
    assert keyring.identity.digest != before.digest
    assert keyring.identity.key != before.key


def test_files_that_went_bad_leave_the_old_ones_in_force(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    before = keyring.credentials
    pki.cert.write_text("no certificate")
    assert keyring.refresh()
    assert keyring.credentials is before
    assert [fault for fault in keyring.faults if str(pki.cert) in fault]
    assert not keyring.refresh()
    pki.issue()
    assert keyring.refresh()
    assert keyring.faults == ()


def test_a_certificate_that_runs_out_is_told_and_stays_in_force(pki: Pki) -> None:
    keyring = pki.keyring()
    keyring.refresh()
    pki.now += 31 * DAY
    assert keyring.refresh()
    assert "expired" in keyring.faults[0]
    assert keyring.credentials is not None


def test_without_files_there_is_no_identity(pki: Pki) -> None:
    for path in (pki.ca, pki.cert, pki.key):
        path.unlink()
    keyring = pki.keyring()
    assert keyring.refresh()
    assert keyring.identity is None
    assert len(keyring.faults) == 3
