"""A directory of keys and certificates, at the CA or on a node.

| file | is |
| --- | --- |
| `ca.crt` | certificates of the CAs that are trusted; during a change of CAs there are two |
| `ca.key` | the key of one of them, which issues; at the CA only |
| `ca.crl` | what was revoked, a list of each CA |
| `NAME.crt` `NAME.key` `NAME.csr` | of a node |
| `issued/NAME-SERIAL.crt` | all that this CA issued: who revokes a node wants its older ones too |

Private keys are for their owner only (0600). What is there is replaced only if asked.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, CertificateRevocationList, CertificateSigningRequest

from fabricd.model import NAME_PATTERN
from fabricd.pki.authority import Authority
from fabricd.pki.fault import PkiError
from fabricd.pki.files import SECRET, File, make_directory, put_in_place
from fabricd.pki.keys import PrivateKey, private_pem, public_der
from fabricd.pki.pem import read_certificates, read_crls, read_private_key
from fabricd.pki.revocation import is_by

CA: Final = "ca"
"""No node can have this name here."""


class Folder:
    """The files in a directory, by what they are. All that reads or writes raises PkiError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # ------------------------------------------------------------ where

    def certificate(self, name: str = CA) -> Path:
        """`NAME.crt`."""
        return self.path / f"{name}.crt"

    def key(self, name: str = CA) -> Path:
        """`NAME.key`."""
        return self.path / f"{name}.key"

    def request(self, name: str) -> Path:
        """`NAME.csr`."""
        return self.path / f"{name}.csr"

    @property
    def crl(self) -> Path:
        """`ca.crl`."""
        return self.path / "ca.crl"

    @property
    def _issued(self) -> Path:
        return self.path / "issued"

    # ------------------------------------------------------------ read

    def names(self) -> list[str]:
        """Nodes that have a certificate here, sorted."""
        stems = (path.stem for path in self.path.glob("*.crt"))
        return sorted(stem for stem in stems if stem != CA and re.fullmatch(NAME_PATTERN, stem))

    def authorities(self) -> list[Certificate]:
        """The CAs."""
        if not self.certificate().exists():
            raise PkiError(f"{self.certificate()}: there is no CA here: fabricctl pki init")
        return read_certificates(self.certificate())

    def authority(self) -> Authority:
        """The CA that issues: that of `ca.crt` to which `ca.key` belongs."""
        certificates = self.authorities()
        if not self.key().exists():
            raise PkiError(f"{self.key()}: is not here: issue and revoke where the CA's key is")
        key = read_private_key(self.key())
        for certificate in certificates:
            if public_der(certificate.public_key()) == public_der(key.public_key()):
                return Authority(certificate, key)
        raise PkiError(f"{self.key()}: belongs to no certificate in {self.certificate()}")

    def crls(self) -> list[CertificateRevocationList]:
        """The lists of revoked certificates; none when there is no file."""
        return read_crls(self.crl) if self.crl.exists() else []

    def issued(self, name: str) -> list[Certificate]:
        """All certificates that are known to have been issued for a node."""
        pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]+")
        paths = [p for p in sorted(self._issued.glob("*.crt")) if pattern.fullmatch(p.stem)]
        if self.certificate(name).exists():
            paths.append(self.certificate(name))
        found = [certificate for path in paths for certificate in read_certificates(path)[:1]]
        return list({item.serial_number: item for item in found}.values())

    # ------------------------------------------------------------ write

    def write_authority(self, authority: Authority, *, replace: bool) -> None:
        """`ca.crt` and `ca.key`."""
        make_directory(self.path)
        put_in_place(
            [
                File(self.key(), private_pem(authority.key), SECRET),
                File(self.certificate(), authority.certificate.public_bytes(Encoding.PEM)),
            ],
            replace=replace,
        )

    def write_certificate(
        self, name: str, certificate: Certificate, key: PrivateKey | None, *, replace: bool
    ) -> None:
        """`NAME.crt`, and `NAME.key` if there is a new one. It is filed among what was issued."""
        make_directory(self._issued)
        pem = certificate.public_bytes(Encoding.PEM)
        files = [
            File(self._issued / f"{name}-{certificate.serial_number:x}.crt", pem),
            File(self.certificate(name), pem),
        ]
        if key is not None:
            files.insert(0, File(self.key(name), private_pem(key), SECRET))
        put_in_place(files, replace=replace)

    def write_request(
        self, name: str, request: CertificateSigningRequest, key: PrivateKey, *, replace: bool
    ) -> None:
        """`NAME.csr` and `NAME.key`."""
        make_directory(self.path)
        put_in_place(
            [
                File(self.key(name), private_pem(key), SECRET),
                File(self.request(name), request.public_bytes(Encoding.PEM)),
            ],
            replace=replace,
        )

    def write_crl(self, crl: CertificateRevocationList, authority: Authority) -> None:
        """`ca.crl`: this list instead of the CA's former one. Those of other CAs stay as long as
        the CAs are in `ca.crt`: without, nobody could check them.
        """
        rest = [ca for ca in self.authorities() if ca != authority.certificate]
        others = [
            other
            for other in self.crls()
            if not is_by(other, authority.certificate) and any(is_by(other, ca) for ca in rest)
        ]
        pem = b"".join(item.public_bytes(Encoding.PEM) for item in (crl, *others))
        put_in_place([File(self.crl, pem)], replace=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other fabricctl extends the list of revoked certificates in the meantime."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise PkiError(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
