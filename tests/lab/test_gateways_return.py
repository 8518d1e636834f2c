"""Many edges come back to a gateway: not before it has proved itself, and not all at once.

All of them belong to node1; node2 is their second choice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from fabricd.core.fitness import PROBATION, probation
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import MANY_EDGES
from tests.lab.gateways import (
    Made,
    boot,
    die,
    doors,
    losing,
    moving,
    up,
    wait_carried,
    wait_standing_by,
)
from tests.lab.observe import SOON, or_else, wait_converged

EDGES: Final = tuple(name for name in MANY_EDGES.records if "edge" in name)
SPREAD: Final = max(map(probation, EDGES)) - min(map(probation, EDGES))
"""Seconds between the first and the last, if nothing else but their own times made a difference."""


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with up(MANY_EDGES) as whole:
        wait_carried(whole, dict.fromkeys(EDGES, "node1"))
        yield whole


def returned(fabric: Fabric, since: float) -> dict[str, float]:
    """Wait for all to come back: when each got its route at node1, in seconds."""
    found: dict[str, float] = {}

    def look() -> bool:
        for edge in EDGES:
            if edge not in found and doors(fabric, "node1", edge):
                found[edge] = time.monotonic() - since
        return len(found) == len(EDGES)

    wait_until(look, "all edges are back at node1", 3 * SOON)
    print(", ".join(f"{edge} {found[edge]:.0f} s (own {probation(edge)} s)" for edge in EDGES))
    return found


def assert_one_by_one(times: Mapping[str, float]) -> None:
    assert all(times[edge] >= probation(edge) >= PROBATION for edge in EDGES)
    assert max(times.values()) - min(times.values()) > SPREAD / 2
    [(_, most)] = Counter(int(when) for when in times.values()).most_common(1)
    assert most <= len(EDGES) / 2


def test_edges_come_back_to_a_gateway_in_use_again_one_by_one(fabric: Fabric) -> None:
    with or_else(lambda: fabric.fabricctl("node1", "undrain")):
        fabric.fabricctl("node1", "drain")
        wait_carried(fabric, dict.fromkeys(EDGES, "node2"))
    with losing(fabric, "edge2", "node1 in use again", moving(fabric)):
        since = time.monotonic()
        fabric.fabricctl("node1", "undrain")
        assert_one_by_one(returned(fabric, since))
        wait_carried(fabric, dict.fromkeys(EDGES, "node1"))
    wait_converged(fabric)


def test_edges_come_back_to_a_gateway_that_was_dead_one_by_one_and_once(fabric: Fabric) -> None:
    die(fabric, "node1")
    wait_carried(fabric, dict.fromkeys(EDGES, "node2"), alone=False)
    with losing(fabric, "edge2", "node1 has lasted", moving(fabric)):
        since = time.monotonic()
        boot(fabric, "node1")
        made = {edge: Made(fabric, edge) for edge in EDGES}
        for edge in EDGES:
            wait_standing_by(fabric, edge, "node1")
        assert_one_by_one(returned(fabric, since))
        wait_carried(fabric, dict.fromkeys(EDGES, "node1"))
    wait_converged(fabric)
    for edge in EDGES:
        assert made[edge].peers() == ["node1"]
