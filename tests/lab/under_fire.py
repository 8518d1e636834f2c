"""What all tests under fire share: a fabric beside objects of others, pings that must not be lost,
and changes that must be obeyed whatever else is broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.topology import RECORDS
from tests.lab import others
from tests.lab.observe import SOON, ike, kernel, sas, wait_converged, wait_status, whole_fabric
from tests.lab.pings import pinging

NODES: Final = ("node1", "edge2", "edge3")
ALL: Final = ("c1", "c2", "c3")
"""The connections that go through tunnels: edge2 with node1, edge2 with edge3, edge3 with node1."""

INTERVAL: Final = 0.01
"""Seconds between two pings."""


def under_fire() -> Iterator[Fabric]:
    """A fixture: a whole fabric, converged, on whose nodes others have a link, an address, routes,
    a rule, a connection and a CA, which look much like fabricd's. Once it is purged they are as
    they were.
    """

    def make(fabric: Fabric) -> None:
        for node in fabric.nodes.values():
            others.make(node)

    with whole_fabric(before_fabricd=make) as fabric:
        yield fabric


def foreign(fabric: Fabric) -> dict[str, Any]:
    """What others have, by node."""
    return {name: others.seen(node) for name, node in fabric.nodes.items()}


@contextmanager
def unharmed(fabric: Fabric, *paths: str) -> Iterator[None]:
    """Along these connections every single ping is answered meanwhile, one every 10 ms; and what
    others have on the nodes is afterwards as it was.
    """
    before = foreign(fabric)
    with pinging(fabric, *paths, interval=INTERVAL) as lost:
        yield
    assert lost == {path: [] for path in paths}
    assert foreign(fabric) == before


def states(fabric: Fabric) -> dict[str, Any]:
    """All that fabricd looks after, by node, but for what shows only that it was made anew: ids,
    and which turn a connection's CHILD_SAs are at.
    """
    return {
        name: {
            "kernel": kernel(node.namespace, indexes=False),
            "charon": _without_turns(ike(node.charon)),
            "sas": {sa.split()[0]: len(kids) for sa, kids in sas(node.charon).items()},
        }
        for name, node in fabric.nodes.items()
    }


def _without_turns(found: dict[str, Any]) -> dict[str, Any]:
    conns = {
        name: {**conn, "children": _by_pair(conn["children"])}
        for name, conn in found["conns"].items()
    }
    return {**found, "conns": conns}


def _by_pair(children: dict[str, Any]) -> dict[str, Any]:
    """Without the turn of a responder's, which is in the name and in the priority."""
    return {
        "-".join(name.split("-")[:3]): {k: v for k, v in child.items() if k != "priority"}
        for name, child in children.items()
    }


def change_is_obeyed(fabric: Fabric, field: str) -> None:
    """Every node obeys another version of edge3's record, with a field that nobody knows, and then
    the old one again.
    """
    fabric.put_record("edge3", {**RECORDS["edge3"], field: 1})
    try:
        for name in fabric.nodes:
            wait_status(fabric, name, f"has seen {field}", lambda seen: field in warnings(seen))
    finally:
        fabric.put_record("edge3", RECORDS["edge3"])
    for name in fabric.nodes:
        wait_status(fabric, name, "has forgotten it", lambda seen: field not in warnings(seen))


def warnings(status: dict[str, Any]) -> str:
    return "\n".join(status["warnings"])


def pods_talk_again(fabric: Fabric) -> None:
    """Converged, and along every connection a ping is answered."""
    wait_converged(fabric, timeout=2 * SOON)
    for path in PATHS.values():
        fabric.wait_ping(*path)
