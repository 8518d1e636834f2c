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
from heapq import heappop, heappush
from typing import Final, TypeVar, cast

from fabricd.core.claims import FIRST, Claims, Rank
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


@dataclass(frozen=True, slots=True)
class _Decision:
    """What has become of one key."""

    rank: Rank
    record: Record | None
    """The version in force."""
    rejected: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: tuple[Node, ...] = ()
    """Newer versions, which claim what older records have."""

    @property
    def claims(self) -> object:
        return self.rank, _claims(self.record)


class Rib:
    """Applies events; answers with the records in force.

    What an event costs grows with what it changes: keys are decided anew when they have changed,
    or when somebody older has begun or ceased to claim what they do.
    """

    def __init__(self, identity_template: str, hold_share: float = 0.5) -> None:
        self._template = identity_template
        self._hold_share = hold_share
        self._entries: dict[str, _Entry] = {}
        self._held: set[str] = set()
        self._losses: dict[str, float] = {}
        self._claims = Claims()
        self._decisions: dict[str, _Decision] = {}
        self._refused = Claims()
        """What newer versions of nodes' records claim than those in force."""
        self._youngest: Rank = FIRST
        """No rank that was ever decided is greater."""
        self._undecided: set[str] = set()
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
        return frozenset(changed | gone)

    def confirm(self) -> tuple[str, ...]:
        """Obey the losses that are held; returns their keys."""
        keys = self.held
        self._forget(keys)
        self._losses.clear()
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
        self._undecided.add(put.key)
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
            self._undecided.add(key)

    # ------------------------------------------------------------ records out

    def in_force(self) -> InForce:
        """The records in force now; the same object until an event changes something."""
        if self._in_force is None or self._undecided:
            self._in_force = self._after(self._in_force, self._decide_all())
        return self._in_force

    def _decide_all(self) -> dict[str, _Decision | None]:
        """Decide what is undecided, the oldest first, and what follows from it; returns what was
        decided before.
        """
        earlier: dict[str, _Decision | None] = {}
        heap: list[Rank] = []
        while self._undecided or heap:
            for key in self._undecided:
                heappush(heap, self._rank(key))
            self._undecided.clear()
            _, key = heappop(heap)
            earlier.setdefault(key, self._decisions.get(key))
            self._decide(key)
        return earlier

    def _decide(self, key: str) -> None:
        before = self._decisions.pop(key, None)
        if before is not None:
            for refused in before.refused:
                self._refused.remove(refused, before.rank)
            if isinstance(before.record, Node):
                self._claims.remove(before.record, before.rank)
        now = self._decision(key)
        if now is not None:
            self._youngest = max(self._youngest, now.rank)
            self._decisions[key] = now
            for refused in now.refused:
                self._refused.add(refused, now.rank)
            if isinstance(now.record, Node):
                self._claims.add(now.record, now.rank)
        if (before and before.claims) == (now and now.claims):
            return
        # What younger ones have got or were refused may be another matter now.
        for decision in filter(None, (before, now)):
            record = decision.record
            if isinstance(record, Node) and decision.rank < self._youngest:
                rivals = self._claims.rivals(record) | self._refused.rivals(record)
                self._undecided.update(other for _, other in rivals if other != key)

    def _decision(self, key: str) -> _Decision | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        rank = self._rank(key)
        faults, refused = list(entry.faults), list[Node]()
        accepted: Record | None = None
        for _, record in entry.versions:
            conflict = self._claims.conflict(record, rank) if isinstance(record, Node) else None
            if not isinstance(record, Node) or conflict is None:
                accepted = record
                break
            refused.append(record)
            faults = faults or [Rejection(key, *conflict)]
        stays = "; an earlier version stays in force" if accepted else ""
        rejected = tuple(Rejection(f.key, f.field, f.reason + stays) for f in faults)
        return _Decision(rank, accepted, rejected, entry.warnings, tuple(refused))

    def _rank(self, key: str) -> Rank:
        entry = self._entries.get(key)
        return (entry.latest.created if entry else 0), key

    def _after(self, before: InForce | None, earlier: Mapping[str, _Decision | None]) -> InForce:
        """The records in force, where `earlier` was so before: no more is made anew than has
        changed.
        """
        if before is None:
            before = InForce({}, {}, (), ())
        changed = {
            key: self._decisions.get(key)
            for key, decision in earlier.items()
            if decision != self._decisions.get(key)
        }
        if not changed:
            return before
        told = [d for d in (*changed.values(), *earlier.values()) if d is not None]
        rejected, warnings = before.rejected, before.warnings
        if any(d.rejected for d in told):
            rejected = tuple(sorted(f for d in self._decisions.values() for f in d.rejected))
        if any(d.warnings for d in told):
            warnings = tuple(sorted(w for d in self._decisions.values() for w in d.warnings))
        records = {
            key: None if decision is None else decision.record for key, decision in changed.items()
        }
        return InForce(
            _changed(before.nodes, "nodes/", records),
            _changed(before.communities, "communities/", records),
            rejected,
            warnings,
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


R = TypeVar("R", Node, Community)


def _changed(
    before: Mapping[str, R], folder: str, records: Mapping[str, Record | None]
) -> Mapping[str, R]:
    """By name, sorted; the same object if nothing of it has changed."""
    now = {
        key.removeprefix(folder): cast("R | None", record)
        for key, record in records.items()
        if key.startswith(folder) and before.get(key.removeprefix(folder)) != record
    }
    if not now:
        return before
    result = dict(before)
    for name, record in now.items():
        if record is None:
            result.pop(name, None)
        else:
            result[name] = record
    return result if now.keys() <= before.keys() else dict(sorted(result.items()))


def _claims(record: Record | None) -> object:
    """What can make this version collide with another node; two such versions are worth one."""
    if isinstance(record, Node):
        return record.role, record.subnets, record.endpoint, record.identity
    return None
