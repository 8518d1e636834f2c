"""charon and the peers under fire, on a whole fabric: what a fault does not concern loses no
ping, what it does comes back by itself, and of others nothing is touched.

What somebody changes by hand is in test_drift.py; a charon that hangs, in test_outages.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric, FabricNode
from lab.process import wait_until
from tests.lab import others
from tests.lab.observe import (
    SOON,
    Log,
    look_again,
    metrics,
    or_else,
    sas,
    session,
    wait_sas,
    wait_status,
    wait_unready,
)
from tests.lab.under_fire import ALL, pods_talk_again, states, under_fire, unharmed

fabric = pytest.fixture(scope="module")(under_fire)


@dataclass(frozen=True)
class Fault:
    """Something that befalls one node's charon."""

    what: str
    node: str
    strikes: Callable[[Fabric, FabricNode], object]
    unharmed: tuple[str, ...]
    """Connections that it does not concern."""


def kill(fabric: Fabric, node: FabricNode) -> None:
    """What others had in it they load again themselves."""
    node.charon.kill()
    with or_else(partial(again, node)):
        seen = wait_status(
            fabric, node.name, "misses charon", lambda seen: not seen["charon"]["ok"]
        )
        assert {(peer["state"], peer["up"]) for peer in seen["peers"]} == {("unknown", False)}
        assert wait_unready(fabric, node.name, "charon")
        assert metrics(fabric, node.name)['fabricd_part_available{part="charon"}'] == 0
    again(node)


def again(node: FabricNode) -> None:
    node.charon.start()
    others.load(node)


def restart(_: Fabric, node: FabricNode) -> None:
    """In order: it takes leave of its peers."""
    node.charon.restart()
    others.load(node)


def unload_all(fabric: Fabric, node: FabricNode) -> None:
    """As `swanctl --load-all` does that knows nothing of fabricd."""
    with session(node.charon) as asked:
        for name in asked.get_conns()["conns"]:
            if name.startswith(b"fabric-"):
                asked.unload_conn({"name": name})
        for name in asked.get_authorities()["authorities"]:
            if name.startswith(b"fabric-"):
                asked.unload_authority({"name": name})
    look_again(fabric, node.name)


def terminate_all(_: Fabric, node: FabricNode) -> None:
    """By the responder, who can't make them anew."""
    with session(node.charon) as asked:
        for sa in sas(node.charon):
            list(asked.terminate({"ike-id": sa.rpartition("#")[2], "timeout": "-1"}))


FAULTS = (
    Fault("killed", "edge2", kill, ("c3",)),
    Fault("restarted", "edge3", restart, ("c1",)),
    Fault("restarted at the gateway", "node1", restart, ("c2",)),
    Fault("emptied by hand", "edge2", unload_all, ALL),
    Fault("its SAs terminated at the gateway", "node1", terminate_all, ("c2",)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_charon_is_struck_and_all_comes_back_by_itself(fabric: Fabric, fault: Fault) -> None:
    before = states(fabric)
    ids = {name: sas(node.charon) for name, node in fabric.nodes.items()}
    with unharmed(fabric, *fault.unharmed):
        fault.strikes(fabric, fabric.nodes[fault.node])
        wait_until(lambda: states(fabric) == before, "everything is as it was", 2 * SOON)
        pods_talk_again(fabric)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
    for name, node in fabric.nodes.items():
        kept = {sa for sa in ids[name] if concerns(name, sa, fault.unharmed)}
        assert kept <= sas(node.charon).keys(), "what is not concerned is not made anew"


ENDS = {"c1": {"edge2", "node1"}, "c2": {"edge2", "edge3"}, "c3": {"edge3", "node1"}}


def concerns(name: str, sa: str, paths: tuple[str, ...]) -> bool:
    """Whether a node's SA carries one of these connections."""
    peer = sa.partition(" ")[0].removeprefix("fabric-")
    return any(ENDS[path] == {name, peer} for path in paths)


def misses_edge3(state: str, seen: dict[str, Any]) -> bool:
    return {p["name"]: p["state"] for p in seen["peers"] if not p["up"]} == {"edge3": state}


def test_a_peer_is_silently_gone_and_comes_back(fabric: Fabric) -> None:
    before = states(fabric)
    cable = fabric.namespaces["wan"]
    log = Log(fabric, "edge2")
    with unharmed(fabric, "c1"):
        cable.ip("link", "set", "p-edge3", "down")
        try:
            for name, state in {"node1": "waiting", "edge2": "connecting"}.items():
                # Probes may have noticed first: then it is silent at first.
                wait_status(fabric, name, "misses edge3", partial(misses_edge3, state), 2 * SOON)
                assert metrics(fabric, name)['fabricd_tunnel_up{peer="edge3"}'] == 0
            assert fabric.ping(*PATHS["c2"], 1) == 1
            assert not [line for line in log.lines("action") if line["kind"] == "conn.unload"]
        finally:
            cable.ip("link", "set", "p-edge3", "up")
        pods_talk_again(fabric)
    for name in fabric.nodes:
        wait_sas(fabric, name, "one IKE_SA a peer is left", lambda found: len(found) == 2)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
