"""The node's credentials as they are in the files now.

Files that can't be used leave the credentials that are in force in force; the reason is kept
for the status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fabricd.core.surroundings import Identity
from fabricd.ike import TEMPLATE, CredentialError, Credentials, load_credentials


class Keyring:
    """Reads the files again at each `refresh`."""

    def __init__(self, ca: Sequence[Path], cert: Path, key: Path, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._ca, self._cert, self._key = ca, cert, key
        self._now = now
        self.credentials: Credentials | None = None
        self.faults: tuple[str, ...] = ()
        """What is wrong with the files, one line a fault."""

    def refresh(self) -> bool:
        """Read the files; returns whether that changed the credentials or the faults."""
        before = self.credentials, self.faults
        try:
            self.credentials = load_credentials(self._ca, self._cert, self._key, now=self._now())
            self.faults = ()
        except CredentialError as error:
            self.faults = tuple(error.faults)
        return (self.credentials, self.faults) != before

    @property
    def identity(self) -> Identity | None:
        """What the desired state has to know of the credentials."""
        if self.credentials is None:
            return None
        return Identity(
            authorities=frozenset(self.credentials.authorities),
            key=self.credentials.key_id,
            digest=f"{self.credentials.digest} {TEMPLATE}",
        )
