"""Path independence: what is in force depends on what was written, not on how we heard of it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from fabricd.core.claims import Claims
from fabricd.core.desired import Memory, desired
from fabricd.core.events import Changed, Delete, Event, Listed, Lost, Put
from fabricd.core.rib import InForce, Rib
from fabricd.core.surroundings import Surroundings
from fabricd.model import Community, Node, Rejection, Role, network
from tests.property.strategies import (
    KEYS,
    TEMPLATE,
    in_force,
    record_sets,
    surroundings,
    values,
)

Change = Put | Delete


@dataclass(frozen=True)
class History:
    """What was done to each key, in its order; a record that comes again has another rank."""

    by_key: dict[str, list[Change]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    by_key: dict[str, list[Change]] = {}
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, min_size=1)):
        created = draw(st.integers(0, 2))
        changes: list[Change] = []
        for _ in range(draw(st.integers(1, 4))):
            if changes and isinstance(changes[-1], Put) and draw(st.integers(0, 3)) == 0:
                changes.append(Delete(key))
                created += 10
            else:
                changes.append(Put(key, draw(values(key)), created))
        by_key[key] = changes
    return History(by_key)


def _rib() -> Rib:
    """One that obeys every loss: the safety valve is the one thing that depends on the path."""
    return Rib(TEMPLATE, hold_share=1.0)


@st.composite
def interleavings(draw: st.DrawFn, history: History) -> list[list[Change]]:
    """All changes, each key's in their order, cut into pieces."""
    tokens = [key for key, changes in history.by_key.items() for _ in changes]
    queues = {key: iter(changes) for key, changes in history.by_key.items()}
    pieces: list[list[Change]] = [[]]
    for key in draw(st.permutations(tokens)):
        if draw(st.booleans()):
            pieces.append([])
        pieces[-1].append(next(queues[key]))
    return pieces


def _from_scratch(rib: Rib) -> InForce:
    """All decided at once, the oldest first: what a Rib comes to step by step."""
    claims = Claims()
    nodes: dict[str, Node] = {}
    communities: dict[str, Community] = {}
    rejected: list[Rejection] = []
    warnings: list[str] = []
    ranked = sorted((entry.latest.created, key) for key, entry in rib._entries.items())
    for rank in ranked:
        key, entry = rank[1], rib._entries[rank[1]]
        faults, stays = list(entry.faults), ""
        for _, record in entry.versions:
            conflict = claims.conflict(record) if isinstance(record, Node) else None
            if conflict is not None:
                faults = faults or [Rejection(key, *conflict)]
                continue
            stays = "; an earlier version stays in force"
            if isinstance(record, Node):
                claims.add(record, rank)
                nodes[record.name] = record
            else:
                communities[record.name] = record
            break
        rejected += [Rejection(fault.key, fault.field, fault.reason + stays) for fault in faults]
        warnings += entry.warnings
    return InForce(nodes, communities, tuple(sorted(rejected)), tuple(sorted(warnings)))


def _plainly(history: History) -> Rib:
    rib = _rib()
    rib.apply(Listed(()), 0.0)
    for changes in history.by_key.values():
        for change in changes:
            rib.apply(Changed((change,)), 0.0)
    return rib


@given(histories(), surroundings, st.data())
def test_order_batching_repetition_and_restarts_do_not_matter(
    history: History, around: Surroundings, data: st.DataObject
) -> None:
    rib = _rib()
    rib.apply(Listed(()), 0.0)
    store: dict[str, Put] = {}
    memory = Memory(around.networks)
    for now, piece in enumerate(data.draw(interleavings(history))):
        for change in piece:
            store.pop(change.key, None)
            if isinstance(change, Put):
                store[change.key] = change
        once = len({change.key for change in piece}) == len(piece)
        told: Event = Changed(tuple(piece))
        if once and data.draw(st.booleans(), label="listed instead"):
            told = Listed(tuple(store.values()))
        rib.apply(told, float(now))
        assert rib.in_force() == _from_scratch(rib)
        force = rib.in_force()
        by_and_by = desired(force.nodes, force.communities, around, memory)
        assert by_and_by == desired(force.nodes, force.communities, around)
        match data.draw(st.sampled_from(["", "", "repeat", "relist", "lose", "restart"])):
            case "repeat":
                rib.apply(told, float(now))
            case "relist":
                rib.apply(Listed(tuple(store.values())), float(now))
            case "lose":
                rib.apply(Lost("it does not answer"), float(now))
                rib.apply(Listed(tuple(store.values())), float(now))
            case "restart":
                restarted = _rib()
                restarted.restore(rib.versions())
                assert restarted.in_force().nodes == rib.in_force().nodes
                assert restarted.in_force().communities == rib.in_force().communities
                rib = restarted
                rib.apply(Listed(tuple(store.values())), float(now))
    plain = _plainly(history).in_force()
    assert rib.in_force() == plain
    assert not rib.held
    assert desired(rib.in_force().nodes, rib.in_force().communities, around, memory) == desired(
        plain.nodes, plain.communities, around
    )


@given(record_sets(at_least=6).map(in_force))
def test_no_two_nodes_in_force_claim_the_same(force: InForce) -> None:
    nodes = list(force.nodes.values())
    for number, one in enumerate(nodes):
        for other in nodes[number + 1 :]:
            assert one.identity != other.identity
            if not one.role is other.role is Role.CLOUD:
                assert not any(
                    network(mine).overlaps(network(theirs))
                    for mine in one.subnets
                    for theirs in other.subnets
                )


@given(st.binary(max_size=200), st.sampled_from(KEYS))
def test_whatever_is_written_is_a_record_or_a_rejection(value: bytes, key: str) -> None:
    rib = _rib()
    rib.apply(Listed((Put(key, value),)), 0.0)
    force = rib.in_force()
    assert len(force.nodes) + len(force.communities) == (not force.rejected)
    assert all(rejection.key == key for rejection in force.rejected)
