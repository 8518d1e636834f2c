"""The node's credentials and revocation lists as they are in the files now.

Files that can't be used leave what is in force in force; the reason is kept for the status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.x509 import Certificate

from fabricd.core.surroundings import Identity
from fabricd.ike import TEMPLATE, CredentialError, Credentials, Crl, load_credentials, read_crls
from fabricd.pki.certificate import Description, Validity, utc

DAY: Final = 86400


class Keyring:
    """Reads the files again at each `refresh`."""

    def __init__(
        self,
        ca: Sequence[Path],
        cert: Path,
        key: Path,
        now: Callable[[], float],
        crl: Sequence[Path] | None = None,
    ) -> None:
        """`now` gives Unix seconds; without `crl` a list is looked for beside each CA file."""
        self._ca, self._cert, self._key = ca, cert, key
        self._crl = crl
        self._now = now
        self._lists: dict[Path, list[Crl]] = {}
        self._loaded: set[str] = set()
        self.credentials: Credentials | None = None
        self.faults: tuple[str, ...] = ()
        """What is wrong with the files, one line a fault."""

    @property
    def folders(self) -> frozenset[Path]:
        """Where the files are."""
        return frozenset(path.parent for path in (*self._ca, self._cert, self._key, *self._crls))

    def _latest(self) -> tuple[Crl, ...]:
        latest: dict[str, Crl] = {}
        for found in (item for lists in self._lists.values() for item in lists):
            if found.number >= latest.get(found.issuer, found).number:
                latest[found.issuer] = found
        return tuple(latest[issuer] for issuer in sorted(latest))

    def refresh(self) -> None:
        """Read the files."""
        faults: list[str] = []
        try:
            self.credentials = load_credentials(self._ca, self._cert, self._key, now=self._now())
        except CredentialError as error:
            faults += error.faults
        if self.credentials is not None:
            faults += self._read_lists(self.credentials.issuers)
            self.credentials = replace(self.credentials, crls=self._latest())
        self.faults = tuple(faults)

    def loaded(self, key: str) -> None:
        """A private key of ours is in charon now."""
        self._loaded.add(key)

    def unloaded(self, key: str) -> None:
        """A private key of ours is no longer in charon."""
        self._loaded.discard(key)

    @property
    def identity(self) -> Identity | None:
        """What the desired state has to know of the credentials."""
        if self.credentials is None:
            return None
        return Identity(
            authorities=frozenset(self.credentials.authorities),
            key=self.credentials.key_id,
            digest=f"{self.credentials.digest} {TEMPLATE}",
            crls=tuple((item.issuer, item.number) for item in self.credentials.crls),
            retired=frozenset(self._loaded - {self.credentials.key_id}),
        )

    def warnings(self) -> Iterator[str]:
        """What an operator should do something about before it becomes a fault."""
        if self.credentials is None:
            return
        now = self._now()
        yield from _aging(f"{self._cert}: the certificate", self.credentials.about, now)
        for subject, about in self.credentials.about_issuers:
            yield from _aging(f"the CA certificate {subject}", about, now)
        for item in self.credentials.crls:
            if item.next_update is not None and item.next_update < now:
                yield (
                    f"the revocation list of {item.issuer} was to be followed by another by "
                    f"{utc(item.next_update)}: fetch it, or make it with `fabricctl pki crl`"
                )
        if any(item.revokes(self.credentials.own) is not None for item in self.credentials.crls):
            yield f"{self._cert}: the certificate is revoked, peers refuse it: get another"

    @property
    def _crls(self) -> list[Path]:
        if self._crl is not None:
            return list(self._crl)
        return list(dict.fromkeys(path.with_suffix(".crl") for path in self._ca))

    def _read_lists(self, issuers: Sequence[Certificate]) -> Iterator[str]:
        """Read the revocation lists; yields the faults. A bad file leaves its last good lists."""
        for path in self._crls:
            try:
                self._lists[path] = read_crls(path.read_bytes(), issuers)
            except FileNotFoundError:
                if self._crl is not None:
                    yield f"{path}: No such file or directory"
                else:
                    self._lists.pop(path, None)
            except OSError as error:
                yield f"{path}: {error.strerror}"
            except ValueError as error:
                yield f"{path}: {error}"


def _aging(what: str, about: Description, now: float) -> Iterator[str]:
    end = about.not_after
    match about.validity(now):
        case Validity.EXPIRED:
            yield f"{what} expired {utc(end)}: renew it"
        case Validity.EXPIRING:
            yield f"{what} expires {utc(end)}, in {(end - now) / DAY:.0f} days: renew it"
