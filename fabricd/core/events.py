"""What a source of records tells the Rib: the few events that etcd, a directory and any other
source have in common. Values are bytes as they were written; only `core.records` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FOLDERS: Final = ("nodes/", "communities/")
"""How the keys of records begin; a node's `status/NAME` is written by it, never read."""


@dataclass(frozen=True, slots=True)
class Put:
    """A record as it stands in the store."""

    key: str
    """Below the prefix: `nodes/edge2`, `communities/app1`. Other keys are ignored."""
    value: bytes
    created: int = 0
    """Rank of the record's creation (etcd: create revision); 0 where a source has none."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A record that is gone."""

    key: str


@dataclass(frozen=True, slots=True)
class Listed:
    """All records there are now, nothing else: from here on the source is in sync."""

    records: tuple[Put, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed since the last event, in order. One event is one transaction of the store."""

    changes: tuple[Put | Delete, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """The source does not answer: what it said last stays in force, but nothing is deleted. The
    next event is Listed: only that brings the source back in sync.
    """

    reason: str


Event = Listed | Changed | Lost
