"""`fabricctl purge` on every node of a fabric: kernels and charons are as before fabricd came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab.fabric import Fabric, FabricNode
from lab.process import CommandError, wait_until
from lab.topology import PODS, RECORDS
from tests.lab import others
from tests.lab.observe import SOON, own_fabric, sas, wait_converged, whole
from tests.lab.pings import no_ping_lost


@dataclass(frozen=True)
class Scene:
    """A fabric that is up, beside objects of others."""

    fabric: Fabric
    before: dict[str, Any]
    """By node: what there was before fabricd first ran. No SA of ESP, and no policy."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    with own_fabric() as fabric:
        fabric.start_services()
        for node in fabric.nodes.values():
            others.make(node)
        before = whole(fabric)
        for name, record in RECORDS.items():
            fabric.put_record(name, record)
        fabric.start_daemons()
        wait_converged(fabric)
        yield Scene(fabric, before)


def test_purge_leaves_every_node_as_it_was_before_fabricd_came(scene: Scene) -> None:
    fabric = scene.fabric
    full = whole(fabric)
    assert all(xfrm(node) for node in fabric.nodes.values()) != fabric.userspace_esp
    with no_ping_lost(fabric, "c1", "c2", "c3"):
        for name in fabric.nodes:
            with pytest.raises(CommandError, match="fabricd runs here") as refused:
                fabric.fabricctl(name, "purge")
            assert refused.value.status == 1
            fabric.stop_fabricd(name)
            assert "disruption" in fabric.fabricctl(name, "purge", "--dry-run")
        assert whole(fabric) == full

    for pod in PODS:
        if pod.bridge == "br-edge":
            fabric.namespaces[pod.node].ip("link", "delete", f"v-{pod.name}")
    for name, node in fabric.nodes.items():
        assert "disruption" in fabric.fabricctl(name, "purge")
        assert sas(node.charon) == {}
        assert fabric.fabricctl(name, "purge") == "nothing to do\n"
    # charon takes its own routes, in table 220, away a moment after its SAs.
    wait_until(lambda: whole(fabric) == scene.before, "every node is as it was", SOON)
    assert not any(xfrm(node) for node in fabric.nodes.values())


def xfrm(node: FabricNode) -> str:
    """The kernel's SAs, and its policies but for those of charon's own sockets."""
    ip = node.namespace.ip
    return ip("xfrm", "state") + ip("xfrm", "policy", "list", "nosock")
