"""A CA and node certificates: made by `fabricctl pki`, or with strongSwan's `pki` in the manner of
the first proof of concept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.process import command

EVERYTHING = ("0.0.0.0/0", "::/0")
"""Address blocks for a node whose subnets are not what is looked at."""


@dataclass(frozen=True)
class Credentials:
    """A node's certificate and private key, PEM files."""

    cert: Path
    key: Path
    identity: str
    """The certificate's subject, and so the node's IKE identity."""


class Authority:
    """A CA in a directory: `ca.crt`, `ca.key`, `ca.crl`; for nodes `NAME.crt` and `NAME.key`."""

    def __init__(
        self,
        directory: Path,
        dn: str | None = None,
        fabricctl: Sequence[str | Path] = (Path(sys.executable).with_name("fabricctl"),),
    ) -> None:
        """Make it, unless it is there."""
        self.directory = directory
        self.cert = directory / "ca.crt"
        self.key = directory / "ca.key"
        self.crl = directory / "ca.crl"
        self._fabricctl = fabricctl
        if not self.cert.exists():
            self.pki("init", *(("--identity", dn) if dn else ()))

    def issue(
        self, name: str, subnets: Sequence[str] = EVERYTHING, *, identity: str | None = None
    ) -> Credentials:
        """A key and a certificate for a node, made anew if they are there already."""
        identity = identity or f"C=CN, O=StrongSwan, CN={name}"
        blocks = ("--subnet", ",".join(subnets))
        self.pki("issue", name, *blocks, "--identity", identity, "--force")
        return Credentials(self.directory / f"{name}.crt", self.directory / f"{name}.key", identity)

    def pki(self, verb: str, *arguments: str | Path) -> str:
        """`fabricctl pki VERB`; raises CommandError."""
        return command(
            *self._fabricctl, "pki", verb, *arguments, "--dir", self.directory, timeout=120
        )


class FirstAuthority:
    """A CA in the manner of the proof of concept: RSA keys, no address blocks unless asked for."""

    def __init__(self, directory: Path, blocks: Sequence[str] = (), size: int = 4096) -> None:
        """`size`: of the CA's key, bits."""
        self._blocks = tuple(blocks)
        self.directory = directory
        self.cert = directory / "ca.crt"
        self.key = directory / "ca.key"
        directory.mkdir(parents=True, exist_ok=True)
        _generate(self.key, size)
        self._write(
            self.cert,
            *("--self", "--ca", "--lifetime", "3650", "--in", self.key, "--type", "rsa"),
            *("--dn", "C=CN, O=StrongSwan, CN=Root CA", "--outform", "pem"),
            *_addrblocks(blocks),
        )

    def issue(self, name: str, subnets: Sequence[str] = ()) -> Credentials:
        """A key and a certificate for a node."""
        identity = f"C=CN, O=StrongSwan, CN={name}"
        made = Credentials(self.directory / f"{name}.crt", self.directory / f"{name}.key", identity)
        _generate(made.key, 2048)
        public = self.directory / f"{name}.pub"
        self._write(public, "--pub", "--in", made.key, "--type", "rsa", "--outform", "pem")
        self._write(
            made.cert,
            *("--issue", "--lifetime", "730", "--in", public, "--type", "pub"),
            *("--cacert", self.cert, "--cakey", self.key, "--dn", identity, "--san", name),
            *("--flag", "serverAuth", "--flag", "ikeIntermediate", "--outform", "pem"),
            # charon refuses a certificate with blocks by an issuer without.
            *_addrblocks(subnets if self._blocks else ()),
        )
        public.unlink()
        return made

    @staticmethod
    def _write(path: Path, *arguments: str | Path) -> None:
        path.write_text(_pki(*arguments), encoding="ascii")


def _generate(path: Path, size: int) -> None:
    pem = _pki("--gen", "--type", "rsa", "--size", str(size), "--outform", "pem")
    path.touch(mode=0o600)
    path.write_text(pem, encoding="ascii")


def _addrblocks(blocks: Sequence[str]) -> list[str]:
    return [argument for block in blocks for argument in ("--addrblock", block)]


def _pki(*arguments: str | Path) -> str:
    return command("pki", *arguments, timeout=120)  # RSA 4096 on a busy machine
