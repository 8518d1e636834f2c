"""The CA: what its certificates say, what it issues and what it refuses to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, UnrecognizedExtension
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from fabricd.model import Prefix
from fabricd.pki.authority import IKE_INTERMEDIATE, Authority, Grant
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, blocks_of, encode
from fabricd.pki.certificate import Validity, describe
from fabricd.pki.fault import PkiError
from fabricd.pki.keys import Algorithm, generate, node_algorithm, same_algorithm, usable
from fabricd.pki.names import name_of
from fabricd.pki.request import make_request, requested_key, requested_name
from tests.unit.pki.conftest import DAY, NOW, Ca


def extension(certificate: Certificate, oid: x509.ObjectIdentifier) -> tuple[bool, object]:
    found = certificate.extensions.get_extension_for_oid(oid)
    return found.critical, found.value


def moment(offset: float) -> datetime:
    return datetime.fromtimestamp(NOW + offset, UTC)


# ---------------------------------------------------------------- what is in them


def test_the_ca() -> None:
    ca = Ca.create().certificate
    ca.verify_directly_issued_by(ca)
    assert ca.version is x509.Version.v3
    assert (ca.not_valid_before_utc, ca.not_valid_after_utc) == (moment(-300), moment(3650 * DAY))
    assert extension(ca, ExtensionOID.BASIC_CONSTRAINTS) == (True, x509.BasicConstraints(True, 0))
    critical, usage = extension(ca, ExtensionOID.KEY_USAGE)
    assert critical
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert extension(ca, ADDRESS_BLOCKS_OID) == (
        True,
        UnrecognizedExtension(ADDRESS_BLOCKS_OID, encode(["0.0.0.0/0", "::/0"])),
    )
    own = describe(ca)
    assert (own.subject, own.issuer) == ("C=CN, O=StrongSwan, CN=Root CA",) * 2
    assert own.authority


def test_a_node_s_certificate(ca: Ca) -> None:
    node = ca.issue("edge2", "2.2.2.0/27", "fd00:2::/64")
    node.verify_directly_issued_by(ca.certificate)
    assert (node.not_valid_before_utc, node.not_valid_after_utc) == (
        moment(-300),
        moment(730 * DAY),
    )
    own = describe(node)
    assert own.subject == "C=CN, O=StrongSwan, CN=edge2"
    assert own.issuer == "C=CN, O=StrongSwan, CN=Root CA"
    assert own.alternatives == ("edge2",)
    assert str(own.blocks) == "2.2.2.0/27, fd00:2::/64"
    assert own.key_type == "ECDSA P-256"
    assert not own.authority
    assert extension(node, ExtensionOID.EXTENDED_KEY_USAGE) == (
        False,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, IKE_INTERMEDIATE]),
    )
    critical, _ = extension(node, ADDRESS_BLOCKS_OID)
    assert critical
    _, ca_key_id = extension(ca.certificate, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    _, pointer = extension(node, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    assert isinstance(ca_key_id, x509.SubjectKeyIdentifier)
    assert isinstance(pointer, x509.AuthorityKeyIdentifier)
    assert pointer.key_identifier == ca_key_id.digest


def test_serials_are_long_positive_and_never_twice(ca: Ca) -> None:
    serials = [ca.issue("edge2", "2.2.2.0/27").serial_number for _ in range(20)]
    assert len(set(serials)) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serials).bit_length() > 128
    digits = describe(ca.issue("edge2", "2.2.2.0/27")).serial
    assert len(digits) % 2 == 0


def test_the_subject_is_the_ca_s_idea_of_charon_s_octets(ca: Ca) -> None:
    node = ca.issue("edge2", "2.2.2.0/27")
    assert node.subject.public_bytes() == name_of("C=CN, O=StrongSwan, CN=edge2").public_bytes()
    assert node.issuer.public_bytes() == ca.certificate.subject.public_bytes()


def test_an_identity_that_is_no_name_is_an_alternative_name(ca: Ca) -> None:
    grant = Grant.of("edge2", "edge2.example.org", [Prefix("2.2.2.0/27")])
    key = generate(Algorithm.ECDSA256).public_key()
    own = describe(ca.authority.issue(grant, key, days=730, now=NOW))
    assert own.subject == "CN=edge2"
    assert own.alternatives == ("edge2", "edge2.example.org")


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_signs_and_is_signed(algorithm: Algorithm) -> None:
    key = generate(algorithm)
    ca = Authority.create(name_of("CN=CA"), key, [Prefix("2.0.0.0/8")], days=10, now=NOW)
    node_key = generate(node_algorithm(key.public_key()))
    grant = Grant.of("edge2", "CN=edge2", [Prefix("2.2.2.0/27")])
    node = ca.issue(grant, node_key.public_key(), days=1, now=NOW)
    node.verify_directly_issued_by(ca.certificate)
    expected = {
        Algorithm.ECDSA256: ("ECDSA P-256", "ECDSA P-256"),
        Algorithm.ECDSA384: ("ECDSA P-384", "ECDSA P-384"),
        Algorithm.RSA2048: ("RSA 2048", "RSA 2048"),
        Algorithm.RSA4096: ("RSA 4096", "RSA 2048"),
        Algorithm.ED25519: ("Ed25519", "Ed25519"),
    }
    kinds = describe(ca.certificate).key_type, describe(node).key_type
    assert kinds == expected[algorithm]
    assert same_algorithm(key.public_key()) is algorithm


# ---------------------------------------------------------------- time


def test_a_certificate_ends_with_its_ca() -> None:
    ca = Ca.create(days=100)
    assert ca.issue("edge2", "2.2.2.0/27").not_valid_after_utc == moment(100 * DAY)


def test_states_of_a_certificate(ca: Ca) -> None:
    own = describe(ca.issue("edge2", "2.2.2.0/27", days=300))
    assert own.validity(NOW - 301) is Validity.NOT_YET
    assert own.validity(NOW) is Validity.VALID
    assert own.validity(NOW + 199 * DAY) is Validity.VALID
    assert own.validity(NOW + 201 * DAY) is Validity.EXPIRING
    assert own.validity(NOW + 300 * DAY) is Validity.EXPIRING
    assert own.validity(NOW + 300 * DAY + 1) is Validity.EXPIRED
    assert own.lifetime_used(NOW + 150 * DAY) == pytest.approx(0.5, abs=1e-4)


# ---------------------------------------------------------------- refused


def refusal(ca: Ca, *subnets: str, now: float = NOW) -> str:
    grant = Grant.of("edge2", "CN=edge2", [Prefix(text) for text in subnets])
    key = generate(Algorithm.ECDSA256).public_key()
    with pytest.raises(PkiError) as caught:
        ca.authority.issue(grant, key, days=730, now=now)
    return str(caught.value)


def test_subnets_outside_the_ca_s() -> None:
    ca = Ca.create("2.0.0.0/8", "10.233.0.0/16")
    said = refusal(ca, "2.2.2.0/27", "3.0.0.0/27", "fd00::/64")
    assert said == (
        "3.0.0.0/27: is outside the CA's address blocks: 2.0.0.0/8, 10.233.0.0/16; "
        "fd00::/64: is outside the CA's address blocks: 2.0.0.0/8, 10.233.0.0/16"
    )


def test_no_subnets_under_a_ca_with_blocks(ca: Ca) -> None:
    assert "name the node's subnets" in refusal(ca)


def test_subnets_under_a_ca_without_blocks() -> None:
    key = generate(Algorithm.ECDSA256)
    name = name_of("CN=old CA")
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(moment(0))
        .not_valid_after(moment(DAY))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, SHA256())
    )
    ca = Ca(Authority(certificate, key))
    assert "leave the subnets out" in refusal(ca, "2.2.2.0/27")
    node = ca.issue("edge2", days=1)
    assert blocks_of(node) is None
    # Without a subjectKeyIdentifier in the CA the pointer is made of its key.
    node.verify_directly_issued_by(certificate)


def test_a_ca_that_is_out_of_date(ca: Ca) -> None:
    late = refusal(ca, "2.2.2.0/27", now=NOW + 3651 * DAY)
    assert late == "the CA C=CN, O=StrongSwan, CN=Root CA is expired: is the clock right?"
    assert "is not yet valid" in refusal(ca, "2.2.2.0/27", now=NOW - DAY)


def test_no_date_is_that_late(ca: Ca) -> None:
    with pytest.raises(PkiError, match="no date is that late"):
        ca.issue("edge2", "2.2.2.0/27", days=36525000)


# ---------------------------------------------------------------- again


def test_renewal_says_the_same_to_the_octet(ca: Ca) -> None:
    old = ca.issue("edge2", "2.2.2.0/27", "2.2.2.32/28", "fd00::/64")
    grant = Grant.again(old)
    key = usable(old.public_key())
    new = ca.authority.issue(grant, key, days=730, now=NOW + 500 * DAY)
    assert new.subject.public_bytes() == old.subject.public_bytes()
    for oid in (ADDRESS_BLOCKS_OID, ExtensionOID.SUBJECT_ALTERNATIVE_NAME):
        assert extension(new, oid) == extension(old, oid)
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc == moment(1230 * DAY)


# ---------------------------------------------------------------- requests


def test_a_request_names_its_node_and_proves_its_key() -> None:
    key = generate(Algorithm.ECDSA256)
    request = make_request(Grant.of("edge2", "C=CN, O=StrongSwan, CN=edge2"), key)
    assert requested_name(request) == "edge2"
    assert requested_key(request) == key.public_key()
    assert all(item.oid != ADDRESS_BLOCKS_OID for item in request.extensions)


def test_a_request_without_alternative_names_is_known_by_its_cn() -> None:
    key = generate(Algorithm.ED25519)
    request = x509.CertificateSigningRequestBuilder(name_of("O=x, CN=edge3")).sign(key, None)
    assert requested_name(request) == "edge3"
    nobody = x509.CertificateSigningRequestBuilder(name_of("O=x, CN=Edge 3")).sign(key, None)
    with pytest.raises(PkiError, match="names no node"):
        requested_name(nobody)


def test_a_request_signed_with_another_key() -> None:
    key = generate(Algorithm.ECDSA256)
    request = make_request(Grant.of("edge2", "CN=edge2"), key)
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(PkiError, match="not signed with the key that is in it"):
        requested_key(x509.load_der_x509_csr(bytes(der)))


def test_keys_that_are_too_weak() -> None:
    with pytest.raises(ValueError, match="RSA key of 1024 bits: at least 2048"):
        usable(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(ValueError, match="secp256k1"):
        usable(ec.generate_private_key(ec.SECP256K1()).public_key())
