"""Private keys: which sorts are made, and with which hash they sign."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey | Ed448PublicKey

MIN_RSA_BITS: Final = 2048
CURVES: Final = (SECP256R1, SECP384R1, SECP521R1)


class Algorithm(StrEnum):
    """The sorts of keys that are made."""

    ECDSA256 = "ecdsa256"
    ECDSA384 = "ecdsa384"
    RSA2048 = "rsa2048"
    RSA4096 = "rsa4096"
    ED25519 = "ed25519"


def generate(algorithm: Algorithm) -> PrivateKey:
    """A new key."""
    match algorithm:
        case Algorithm.ECDSA256:
            return generate_ec(SECP256R1())
        case Algorithm.ECDSA384:
            return generate_ec(SECP384R1())
        case Algorithm.RSA2048:
            return generate_rsa(65537, 2048)
        case Algorithm.RSA4096:
            return generate_rsa(65537, 4096)
        case Algorithm.ED25519:
            return Ed25519PrivateKey.generate()


def node_algorithm(authority: CertificatePublicKeyTypes) -> Algorithm:
    """What a node's key is like by default: of the family of its CA's key.

    A CA's RSA key of 4,096 bits signs for ten years; a node's of 2,048 signs each IKE_AUTH.
    """
    match authority:
        case RSAPublicKey():
            return Algorithm.RSA2048
        case EllipticCurvePublicKey() if authority.curve.key_size > 256:
            return Algorithm.ECDSA384
        case Ed25519PublicKey() | Ed448PublicKey():
            return Algorithm.ED25519
    return Algorithm.ECDSA256


def same_algorithm(key: CertificatePublicKeyTypes) -> Algorithm:
    """The sort of a key that shall be followed by another like it."""
    if isinstance(key, RSAPublicKey) and key.key_size > 2048:
        return Algorithm.RSA4096
    return node_algorithm(key)


def usable(key: object) -> PublicKey:
    """`key`, if it is one that charon can use and that is long enough. Raises ValueError."""
    match key:
        case RSAPublicKey() if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits: at least {MIN_RSA_BITS}")
        case EllipticCurvePublicKey() if not isinstance(key.curve, CURVES):
            raise ValueError(f"a key on the curve {key.curve.name}: P-256, P-384 or P-521")
        case EllipticCurvePublicKey() | RSAPublicKey() | Ed25519PublicKey() | Ed448PublicKey():
            return key
    raise ValueError("a sort of key that charon can't use: ECDSA, RSA, Ed25519 or Ed448")


def hash_for(key: PrivateKey) -> SHA256 | SHA384 | SHA512 | None:
    """The hash that goes with a signing key: as strong as the key; None for EdDSA."""
    match key:
        case Ed25519PrivateKey() | Ed448PrivateKey():
            return None
        case EllipticCurvePrivateKey() if key.curve.key_size > 384:
            return SHA512()
        case EllipticCurvePrivateKey() if key.curve.key_size > 256:
            return SHA384()
    return SHA256()


def private_pem(key: PrivateKey) -> bytes:
    """PKCS#8, in clear."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_der(key: CertificatePublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo: equal for equal keys."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
