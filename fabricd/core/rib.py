"""The Rib: which records are in force, given all that the source has said so far.

- A record in force stays in force until a newer version of it is right, or it is deleted.
- Where two nodes claim the same, the record that was created first keeps it; names decide
  between equals. So the result depends on what was written, never on the order of arrival.
- Nothing is deleted while the source is not in sync, and a sudden loss of more than a share
  of the node records is held until somebody confirms it, or the records come back.

Values only: the clock is an argument. Who peers with whom is `core.topology`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fabricd.core.claims import Claims
from fabricd.core.events import FOLDERS, Changed, Delete, Event, Listed, Lost, Put
from fabricd.core.records import decode
from fabricd.model import Community, Node, Record, Rejection

VERSIONS: Final = 16
"""How many right versions of a record are remembered to fall back on."""

LOSS_WINDOW: Final = 60.0
"""Seconds within which losses of node records add up to one sudden loss."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The records in force, and what was said about the others."""

    nodes: Mapping[str, Node]
    communities: Mapping[str, Community]
    rejected: tuple[Rejection, ...]
    """Sorted by key. A rejected record can have an earlier version in force."""
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Entry:
    """All that is known of one key."""

    latest: Put
    versions: list[tuple[Put, Record]]
    """Right ones, newest first, no two with the same claims."""
    faults: tuple[Rejection, ...]
    warnings: tuple[str, ...]


class Rib:
    """Applies events; answers with the records in force."""

    def __init__(self, identity_template: str, hold_share: float = 0.5) -> None:
        self._template = identity_template
        self._hold_share = hold_share
        self._entries: dict[str, _Entry] = {}
        self._held: set[str] = set()
        self._losses: dict[str, float] = {}
        self._in_force: InForce | None = None
        self.synced = False
        """Whether the source has said everything it knows, and still answers."""
        self.lost_reason = "no answer yet"
        """Why not, if not."""

    # ------------------------------------------------------------ events in

    def apply(self, event: Event, now: float) -> frozenset[str]:
        """Take in an event; `now` in seconds of any steady clock. Returns the keys that changed."""
        match event:
            case Lost(reason):
                self.synced, self.lost_reason = False, reason
                return frozenset()
            case Listed(records):
                puts = [put for put in records if put.key.startswith(FOLDERS)]
                gone = self._entries.keys() - {put.key for put in puts}
                self.synced = True
            case Changed(changes):
                last = {change.key: change for change in changes if change.key.startswith(FOLDERS)}
                gone = {key for key, change in last.items() if isinstance(change, Delete)}
                # Every version counts, also one that a later version in this event replaces.
                # But what came and went within the event never was.
                known = last.keys() - (gone - self._entries.keys())
                puts = [c for c in changes if isinstance(c, Put) and c.key in known]
        before = self.in_force().nodes if gone else {}
        changed = {put.key for put in puts if self._put(put)}
        gone &= self._entries.keys()
        self._lose(gone, before, now)
        self._in_force = None
        return frozenset(changed | gone)

    def confirm(self) -> tuple[str, ...]:
        """Obey the losses that are held; returns their keys."""
        keys = self.held
        self._forget(keys)
        self._losses.clear()
        self._in_force = None
        return keys

    @property
    def held(self) -> tuple[str, ...]:
        """Keys whose loss is held, not obeyed."""
        return tuple(sorted(self._held))

    def _put(self, put: Put) -> bool:
        entry = self._entries.get(put.key)
        self._held.discard(put.key)
        self._losses.pop(put.key, None)
        if entry is not None and entry.latest == put:
            return False
        versions = entry.versions if entry and entry.latest.created == put.created else []
        decoded = decode(put.key, put.value, self._template)
        if decoded.record is not None:
            older = [v for v in versions if _claims(v[1]) != _claims(decoded.record)]
            versions = [(put, decoded.record), *older][:VERSIONS]
        self._entries[put.key] = _Entry(put, versions, decoded.faults, decoded.warnings)
        return True

    def _lose(self, keys: set[str], before: Mapping[str, Node], now: float) -> None:
        """Obey or hold the loss of `keys`; `before`: the nodes that were in force until now."""
        in_force = {f"nodes/{name}" for name in before}
        nodes = (keys - self._held) & in_force
        self._losses = {k: when for k, when in self._losses.items() if now - when < LOSS_WINDOW}
        lost = len(self._losses) + len(nodes)
        if nodes and lost > self._hold_share * (len(in_force) + len(self._losses)):
            self._held |= keys
        elif not self._held:
            self._losses |= dict.fromkeys(nodes, now)
            self._forget(keys)
        else:
            # While a loss is held, what else goes may be part of it: one confirmation for all.
            self._held |= keys

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            del self._entries[key]
            self._held.discard(key)

    # ------------------------------------------------------------ records out

    def in_force(self) -> InForce:
        """The records in force now; the same object until an event changes something."""
        if self._in_force is None:
            self._in_force = self._arbitrate()
        return self._in_force

    def _arbitrate(self) -> InForce:
        claims = Claims()
        nodes: dict[str, Node] = {}
        communities: dict[str, Community] = {}
        rejected: list[Rejection] = []
        warnings: list[str] = []
        for key, entry in sorted(self._entries.items(), key=_seniority):
            faults = list(entry.faults)
            accepted: Record | None = None
            for _, record in entry.versions:
                if isinstance(record, Community):
                    communities[record.name] = accepted = record
                    break
                conflict = claims.conflict(record)
                if conflict is None:
                    claims.add(record)
                    nodes[record.name] = accepted = record
                    break
                faults = faults or [Rejection(key, *conflict)]
            stays = "; an earlier version stays in force" if accepted else ""
            rejected += [Rejection(f.key, f.field, f.reason + stays) for f in faults]
            warnings += entry.warnings
        return InForce(
            dict(sorted(nodes.items())),
            dict(sorted(communities.items())),
            tuple(sorted(rejected)),
            tuple(sorted(warnings)),
        )

    # ------------------------------------------------------------ to disk and back

    def versions(self) -> tuple[Put, ...]:
        """All versions that may be in force, oldest first: `restore` brings them back."""
        return tuple(
            put for _, entry in sorted(self._entries.items()) for put, _ in reversed(entry.versions)
        )

    def restore(self, versions: Iterable[Put]) -> None:
        """Start from what `versions()` gave once: in force, but not in sync."""
        for put in versions:
            if put.key.startswith(FOLDERS):
                self._put(put)
        self._in_force = None


def _seniority(item: tuple[str, _Entry]) -> tuple[int, str]:
    key, entry = item
    return entry.latest.created, key


def _claims(record: Record) -> object:
    """What can make this version collide with another node; two such versions are worth one."""
    if isinstance(record, Node):
        return record.role, record.subnets, record.endpoint, record.identity
    return None
