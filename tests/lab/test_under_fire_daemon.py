"""fabricd under fire, on a whole fabric: killed a hundred times at any moment, and without room on
its disk.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS
from tests.lab.observe import (
    SOON,
    Log,
    kernel,
    or_else,
    revive,
    sas,
    status,
    wait_converged,
    wait_peers,
    wait_status,
)
from tests.lab.under_fire import (
    NODES,
    change_is_obeyed,
    pods_talk_again,
    states,
    under_fire,
    unharmed,
    warnings,
)

ROUNDS = 34
"""In each of which the daemons of three nodes are killed."""

APART = {**RECORDS["edge3"], "community": ""}
"""So that edge2 and edge3 are no peers."""

FULL = "the last good records on disk: [Errno 28] No space left on device"


fabric = pytest.fixture(scope="module")(under_fire)


# ---------------------------------------------------------------- a hundred deaths


def test_killed_a_hundred_times_at_any_moment_it_leaves_nothing_behind(fabric: Fabric) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"SEED={seed}")  # shown when it fails
    rng = random.Random(seed)
    wait_until(lambda: saved(fabric), "the records are on disk", SOON)
    rubbish, before, ids = files(fabric), states(fabric), kept(fabric)
    logs = [Log(fabric, name) for name in NODES]
    with or_else(lambda: revive(fabric)), unharmed(fabric, "c1", "c3"):
        longest = 1.2 * seconds_to_start(fabric)
        put = [APART, RECORDS["edge3"]]
        for number in range(ROUNDS):
            # Each other start finds that the record is another one meanwhile.
            fabric.put_record("edge3", put[number // 2 % 2])
            for name in NODES:
                fabric.spawn_fabricd(name)
            moments = [(rng.uniform(0, longest), name) for name in NODES]
            began = time.monotonic()
            for moment, name in sorted([*moments, (rng.uniform(0, longest), "")]):
                # Nothing is awaited: the moment is the fault.
                time.sleep(max(0.0, began + moment - time.monotonic()))
                if name:
                    fabric.kill_fabricd(name)
                else:
                    fabric.put_record("edge3", put[(number + 1) // 2 % 2])
        fabric.put_record("edge3", RECORDS["edge3"])
        for name in NODES:
            fabric.spawn_fabricd(name)
        wait_until(lambda: states(fabric) == before, "everything is as it was", 2 * SOON)
        pods_talk_again(fabric)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
    assert kept(fabric) == ids, "what no record has changed was never made anew"
    wait_until(lambda: files(fabric) == rubbish, "no file is left behind", SOON)
    assert not [log for log in logs if log.lines("action failed")]


def seconds_to_start(fabric: Fabric) -> float:
    """From the start of all daemons until there is nothing to do."""
    for name in NODES:
        fabric.kill_fabricd(name)
    began = time.monotonic()
    for name in NODES:
        fabric.spawn_fabricd(name)
    wait_converged(fabric)
    took = time.monotonic() - began
    for name in NODES:
        fabric.kill_fabricd(name)
    return took


def kept(fabric: Fabric) -> dict[str, Any]:
    """What belongs to no tunnel between edges, with the ids that a thing made anew would not
    have: SAs, and the nodes' links.
    """
    return {
        name: (
            {
                sa: kids
                for sa, kids in sas(node.charon).items()
                if name == "node1" or sa.startswith("fabric-node1 ")
            },
            kernel(node.namespace)["links"],
        )
        for name, node in fabric.nodes.items()
    }


def saved(fabric: Fabric) -> bool:
    """Whether each node has its records on disk, and is not about to write them."""
    folders = [fabric.run / f"{name}.state" for name in NODES]
    return all(
        folder.exists() and [path.name for path in folder.iterdir()] == ["records.json"]
        for folder in folders
    )


def files(fabric: Fabric) -> dict[str, list[str]]:
    """What daemons keep on disk, by folder."""
    folders = [*fabric.run.glob("*.state"), *fabric.run.glob("*.leases"), fabric.run]
    return {
        folder.name: sorted(
            path.name
            for path in folder.iterdir()
            if path.name != "pings" and path.suffix not in {".log", ".pid"}
        )
        for folder in folders
    }


# ---------------------------------------------------------------- no room


@contextmanager
def full_disk(fabric: Fabric, name: str) -> Iterator[Path]:
    """A node's daemon is started anew with its `state_dir` on a disk that something fills, which no
    other process sees. Yields the file that fills it.
    """
    node, folder = fabric.nodes[name], fabric.run / f"{name}.state"
    script = (
        'mount -t tmpfs -o size=64k none "$0"; head -c 1M /dev/zero 2>/dev/null >"$0/ballast";'
        'exec "$@"'
    )
    fabric.stop_fabricd(name)
    argv = ("sh", "-c", script, folder, *fabric.programs["fabricd"], "--config", node.config)
    node.fabricd = node.namespace.popen(*argv, name=f"{name}-fabricd")
    try:
        wait_until(lambda: fabric.ask(name, "/status"), f"{name}'s fabricd answers", SOON)
        yield Path(f"/proc/{node.fabricd.pid}/root{folder}/ballast")
    finally:
        fabric.stop_fabricd(name)
        fabric.start_fabricd(name)


def test_without_room_on_its_disk_it_says_so_and_works_on(fabric: Fabric) -> None:
    before, log = states(fabric), Log(fabric, "edge2")
    with (
        or_else(lambda: fabric.put_record("edge3", RECORDS["edge3"])),
        unharmed(fabric, "c1", "c3"),
    ):
        with full_disk(fabric, "edge2") as ballast:
            seen = wait_status(fabric, "edge2", "says so", lambda seen: FULL in seen["warnings"])
            assert FULL in fabric.fabricctl("edge2", "status")
            said = log.wait("the last good records can't be kept")
            assert said["error"] == "[Errno 28] No space left on device"
            assert seen["synced"]
            change_is_obeyed(fabric, "while-full")
            fabric.put_record("edge3", APART)
            wait_peers(fabric, "edge2", "node1")
            fabric.put_record("edge3", RECORDS["edge3"])
            pods_talk_again(fabric)
            assert FULL in status(fabric, "edge2")["warnings"]
            wait_until(
                lambda: [path.name for path in ballast.parent.iterdir()] == ["ballast"],
                "of what it has tried nothing is left",
                SOON,
            )

            ballast.unlink()
            change_is_obeyed(fabric, "room-again")
            wait_status(fabric, "edge2", "has room", lambda seen: FULL not in warnings(seen))
            assert '"nodes/edge3"' in (ballast.parent / "records.json").read_text()
        pods_talk_again(fabric)
    wait_until(lambda: states(fabric) == before, "everything is as it was", SOON)
