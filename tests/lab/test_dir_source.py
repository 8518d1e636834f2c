"""The same fabric from a directory of files on each node, without any etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import PATHS
from lab.fabric import Fabric
from lab.topology import RECORDS, Record
from tests.lab.observe import (
    get,
    or_else,
    own_fabric,
    wait_converged,
    wait_peers,
    wait_status,
    whole,
)
from tests.lab.pings import no_ping_lost

NODES = ("node1", "edge2", "edge3")


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with own_fabric() as it:
        for name, node in it.nodes.items():
            config = node.config.read_text()
            of_etcd = f'type = "etcd"\nendpoints = ["{it.etcd.endpoint}"]\n'
            assert of_etcd in config
            node.config.write_text(
                config.replace(of_etcd, f'type = "dir"\npath = "{it.run / name}"\n')
            )
            node.charon.start()
        for name, record in RECORDS.items():
            drop_in(it, f"nodes/{name}", record)
            it.records[name] = record
        it.start_birds()
        it.start_daemons()
        wait_converged(it)
        it.birds["node2"].wait_learned("2.0.0.0/8")
        yield it


def drop_in(fabric: Fabric, key: str, value: Record) -> None:
    """Put a record into every node's directory, as careful programs do: whole or not at all."""
    for path in paths(fabric, key):
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        half.write_text(json.dumps(value))
        half.rename(path)


def take_out(fabric: Fabric, key: str) -> None:
    for path in paths(fabric, key):
        path.unlink()


def paths(fabric: Fabric, key: str) -> list[Path]:
    return [fabric.run / name / f"{key}.json" for name in NODES]


def mend(fabric: Fabric) -> None:
    for path in paths(fabric, "communities/app2"):
        path.unlink(missing_ok=True)
    drop_in(fabric, "nodes/edge3", RECORDS["edge3"])


def test_pods_talk_both_ways(fabric: Fabric) -> None:
    for one, other in PATHS.values():
        assert fabric.ping(one, other) == fabric.ping(other, one) == 0
    for name in NODES:
        assert get(fabric, name, "/readyz") == (200, "ok\n")
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"


def test_files_dropped_in_and_taken_out_are_obeyed_and_disturb_nobody_else(
    fabric: Fabric,
) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c3"):
        drop_in(fabric, "nodes/edge3", {**RECORDS["edge3"], "community": ""})
        wait_peers(fabric, "edge2", "node1")
        assert fabric.ping(*PATHS["c2"], 1) == 1

        drop_in(fabric, "communities/app2", {"members": ["edge2", "edge3"]})
        wait_peers(fabric, "edge2", "node1", "edge3")
        wait_peers(fabric, "edge3", "node1", "edge2")
        assert fabric.ping(*PATHS["c2"]) == 0

        take_out(fabric, "communities/app2")
        wait_peers(fabric, "edge2", "node1")
        drop_in(fabric, "nodes/edge3", RECORDS["edge3"])
        wait_converged(fabric)
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1"):
        take_out(fabric, "nodes/edge3")
        wait_peers(fabric, "edge2", "node1")
        wait_peers(fabric, "node1", "edge2")
        wait_peers(fabric, "edge3")
        drop_in(fabric, "nodes/edge3", RECORDS["edge3"])
        wait_converged(fabric)
    after = whole(fabric)
    for name in NODES:
        assert after[name]["kernel"] == before[name]["kernel"]
        assert after[name]["charon"] == before[name]["charon"]


def test_a_wrong_file_is_told_of_and_the_good_version_stays_in_force(fabric: Fabric) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        for path in paths(fabric, "nodes/edge3"):
            path.write_text('{"role": "edge", "sub')
        for name in NODES:
            seen = wait_status(fabric, name, "rejects it", lambda seen: seen["rejected"])
            [item] = seen["rejected"]
            assert item["key"].endswith("nodes/edge3")
            assert "an earlier version stays in force" in item["reason"]
        assert whole(fabric) == before
        drop_in(fabric, "nodes/edge3", RECORDS["edge3"])
        for name in NODES:
            wait_status(fabric, name, "has no rejected record", lambda seen: not seen["rejected"])
    assert whole(fabric) == before
