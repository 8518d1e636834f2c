"""A CA and node certificates, made with strongSwan's `pki` in the manner of the first proof of
concept: names `C=CN, O=StrongSwan, CN=NODE`, a subjectAltName, `serverAuth`, `ikeIntermediate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lab.process import command


class KeyType(Enum):
    """Arguments of `pki --gen`: for the CA and for a node."""

    ECDSA = (("ecdsa", 256), ("ecdsa", 256))
    RSA = (("rsa", 4096), ("rsa", 2048))
    """Slow to make: for what must be as it was in the proof of concept."""


@dataclass(frozen=True)
class Credentials:
    """A node's certificate and private key, PEM files."""

    cert: Path
    key: Path
    identity: str
    """The certificate's subject, and so the node's IKE identity."""


class Authority:
    """A CA in a directory: `ca.crt`, `ca.key`, and `NAME.crt`, `NAME.key` for each node."""

    def __init__(
        self,
        directory: Path,
        key_type: KeyType = KeyType.ECDSA,
        blocks: Sequence[str] = (),
        dn: str = "C=CN, O=StrongSwan, CN=Root CA",
    ) -> None:
        """Make it, unless it is there. `blocks` are its RFC 3779 address blocks."""
        self.directory = directory
        self.key_type = key_type
        self.cert = directory / "ca.crt"
        self.key = directory / "ca.key"
        if self.cert.exists():
            return
        directory.mkdir(parents=True, exist_ok=True)
        kind, size = key_type.value[0]
        _generate(self.key, kind, size)
        self._write(
            self.cert,
            *("--self", "--ca", "--lifetime", "3650", "--in", self.key, "--type", kind),
            *("--dn", dn, "--outform", "pem"),
            *_addrblocks(blocks),
        )

    def issue(
        self,
        name: str,
        *,
        blocks: Sequence[str] = (),
        identity: str | None = None,
        lifetime_days: int = 730,
    ) -> Credentials:
        """A key and a certificate for a node, made anew if they are there already."""
        kind, size = self.key_type.value[1]
        identity = identity or f"C=CN, O=StrongSwan, CN={name}"
        made = Credentials(self.directory / f"{name}.crt", self.directory / f"{name}.key", identity)
        _generate(made.key, kind, size)
        public = self.directory / f"{name}.pub"
        self._write(public, "--pub", "--in", made.key, "--type", kind, "--outform", "pem")
        self._write(
            made.cert,
            *("--issue", "--lifetime", str(lifetime_days), "--in", public, "--type", "pub"),
            *("--cacert", self.cert, "--cakey", self.key, "--dn", identity, "--san", name),
            *("--flag", "serverAuth", "--flag", "ikeIntermediate", "--outform", "pem"),
            *_addrblocks(blocks),
        )
        public.unlink()
        return made

    @staticmethod
    def _write(path: Path, *arguments: str | Path) -> None:
        path.write_text(_pki(*arguments), encoding="ascii")


def _generate(path: Path, kind: str, size: int) -> None:
    pem = _pki("--gen", "--type", kind, "--size", str(size), "--outform", "pem")
    path.touch(mode=0o600)
    path.write_text(pem, encoding="ascii")


def _addrblocks(blocks: Sequence[str]) -> list[str]:
    return [argument for block in blocks for argument in ("--addrblock", block)]


def _pki(*arguments: str | Path) -> str:
    return command("pki", *arguments, timeout=120)  # RSA 4096 on a busy machine
