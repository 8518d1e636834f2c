"""A CA and nodes' certificates at a time of the test's choice, without files."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from cryptography.x509 import Certificate

from fabricd.model import Prefix
from fabricd.pki.authority import EVERYWHERE, Authority, Grant
from fabricd.pki.keys import Algorithm, generate
from fabricd.pki.names import name_of

NOW = 1_800_000_000.0
DAY = 86_400


@dataclass
class Ca:
    """Makes certificates; all begin at NOW, less the time for clocks that are behind."""

    authority: Authority

    @classmethod
    def create(cls, *networks: str, days: int = 3650, cn: str = "Root CA") -> Ca:
        prefixes = [Prefix(text) for text in networks] or EVERYWHERE
        subject = name_of(f"C=CN, O=StrongSwan, CN={cn}")
        key = generate(Algorithm.ECDSA256)
        return cls(Authority.create(subject, key, prefixes, days=days, now=NOW))

    @property
    def certificate(self) -> Certificate:
        return self.authority.certificate

    def issue(self, name: str, *subnets: str, days: int = 730) -> Certificate:
        prefixes = [Prefix(text) for text in subnets]
        grant = Grant.of(name, f"C=CN, O=StrongSwan, CN={name}", prefixes)
        key = generate(Algorithm.ECDSA256).public_key()
        return self.authority.issue(grant, key, days=days, now=NOW)


@pytest.fixture
def ca() -> Ca:
    return Ca.create()
