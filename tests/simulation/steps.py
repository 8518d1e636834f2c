"""What the steps of a scenario do to a world. Each ends by itself; what lasts is undone in time.

A step that finds nothing to act upon does nothing: so any of them can be left out.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any, Final

import trio

from fabricd.core.ownership import owns_conn
from tests.simulation.pki import credentials
from tests.simulation.scenario import GHOSTS
from tests.simulation.world import World

Record = dict[str, Any] | str


def nothing(world: World) -> None:
    """A step that was left out."""


# ---------------------------------------------------------------- records


def encode(record: Record) -> bytes:
    return record.encode() if isinstance(record, str) else json.dumps(record).encode()


def put(world: World, name: str, record: Record) -> None:
    _commit(world, (f"nodes/{name}", encode(record)))


def put_many(world: World, records: dict[str, Record]) -> None:
    _commit(world, *((f"nodes/{name}", encode(record)) for name, record in records.items()))


def delete(world: World, name: str) -> None:
    _commit(world, (f"nodes/{name}", None))


def delete_all(world: World) -> None:
    _commit(world, *((key, None) for key in sorted(world.records.now)))


def community(world: World, name: str, members: list[str]) -> None:
    _commit(world, (f"communities/{name}", encode({"members": sorted(set(members))})))


def ghost(world: World, key: str) -> None:
    _commit(world, (key, GHOSTS[key]))


def _commit(world: World, *changes: tuple[str, bytes | None]) -> None:
    if world.records.up:  # who writes needs an answer
        world.records.commit(*changes)


# ---------------------------------------------------------------- the store


def store_down(world: World, seconds: float) -> None:
    world.records.set_up(up=False)
    world.later(seconds, lambda: world.records.set_up(up=True))


def store_cut(world: World, name: str, seconds: float) -> None:
    def cut(now: bool) -> None:
        world.nodes[name].store_cut = now
        world.settle_clients()

    cut(True)
    world.later(seconds, lambda: cut(False))


def store_late(world: World, name: str, latency: float) -> None:
    world.nodes[name].store_latency = latency
    world.settle_clients()


def store_doubt(world: World) -> None:
    for client in world.records.clients:
        client.doubt = True
    world.records.tell()


def store_repeat(world: World) -> None:
    for client in world.records.clients:
        client.repeat = True
    world.records.tell()


def store_compact(world: World) -> None:
    world.records.compact()


def store_wipe(world: World) -> None:
    world.records.wipe()


def store_restore(world: World, back: int) -> None:
    past = sorted(world.records.past, reverse=True)[back : back + 1]
    if past:
        world.records.restore(past[0])


# ---------------------------------------------------------------- notifications


def mood(world: World, name: str, how: str, seconds: float) -> None:
    world.nodes[name].mood.how = how
    world.later(seconds, lambda: setattr(world.nodes[name].mood, "how", "prompt"))


def overrun(world: World, name: str) -> None:
    world.nodes[name].kernel.overrun()


# ---------------------------------------------------------------- charon and the network


def charon_kill(world: World, name: str, seconds: float) -> None:
    world.nodes[name].stop_charon(told=False)
    world.later(seconds, world.nodes[name].start_charon)


def charon_stop(world: World, name: str, seconds: float) -> None:
    world.nodes[name].stop_charon(told=True)
    world.later(seconds, world.nodes[name].start_charon)


def charon_hang(world: World, name: str, seconds: float) -> None:
    charon = world.nodes[name].charon
    charon.freeze()
    world.later(seconds, charon.thaw)


def charon_refuses(world: World, name: str, kind: str, seconds: float) -> None:
    refused = world.nodes[name].charon.refused
    refused[kind] = "refused"
    world.later(seconds, refused.clear)


def unload(world: World, name: str, number: int) -> None:
    """`swanctl --unload-conn` by hand."""
    charon = world.nodes[name].charon
    if charon.process is not None:
        conns = sorted(filter(owns_conn, charon.process.conns))[number : number + 1]
        for conn in conns:
            del charon.process.conns[conn], charon.process.set_ups[conn]
            charon.hands += 1


def forget_sa(world: World, name: str, number: int) -> None:
    """One side loses it: the other is half-open."""
    for half in world.ours(name)[number : number + 1]:
        world.nodes[name].charon.forget(half)


def end_sa(world: World, name: str, number: int) -> None:
    """`swanctl --terminate --ike` by hand."""
    for half in world.ours(name)[number : number + 1]:
        world.nodes[name].charon.end(half)


def end_child(world: World, name: str, number: int) -> None:
    """`swanctl --terminate --child` by hand."""
    charon = world.nodes[name].charon
    children = [(half, child) for half in world.ours(name) for child in half.children]
    for half, child in children[number : number + 1]:
        world.nursery.start_soon(charon.end_child, half, child)


def rekey(world: World, name: str, number: int) -> None:
    charon = world.nodes[name].charon
    children = [(half, child) for half in world.ours(name) for child in half.children]
    for half, child in children[number : number + 1]:
        charon.rekey_child(half, child)


def cut(world: World, one: str, other: str, seconds: float) -> None:
    _cut(world, {frozenset({one, other})}, seconds)


def alone(world: World, name: str, seconds: float) -> None:
    _cut(world, {frozenset({name, other}) for other in world.nodes if other != name}, seconds)


def _cut(world: World, pairs: set[frozenset[str]], seconds: float) -> None:
    world.network.cut |= pairs
    world.network.look()

    def heal() -> None:
        world.network.cut -= pairs
        world.network.look()

    world.later(seconds, heal)


# ---------------------------------------------------------------- the node


def clock(world: World, name: str, seconds: float) -> None:
    world.nodes[name].clock_offset += seconds


def kill(world: World, name: str, down_for: float) -> None:
    world.nodes[name].kill(down_for)


def kill_after(world: World, name: str, actions: int, down_for: float) -> None:
    node = world.nodes[name]
    node.kill_after, node.down_for = actions, down_for


def hup(world: World, name: str) -> None:
    life = world.nodes[name].life
    if life is not None:
        life.machine.signal.send_nowait(signal.SIGHUP)


def renew(world: World, name: str) -> None:
    node = world.nodes[name]
    node.issue += 1
    node.disk.credentials = credentials(name, node.issue)
    node.disk.change()


def disk_full(world: World, name: str, seconds: float) -> None:
    disk = world.nodes[name].disk
    disk.full = True
    world.later(seconds, lambda: setattr(disk, "full", False))


def disk_damaged(world: World, name: str) -> None:
    world.nodes[name].disk.unreadable = "it is not a snapshot"


def kernel_away(world: World, name: str, seconds: float) -> None:
    kernel = world.nodes[name].kernel
    kernel.away = True
    world.later(seconds, lambda: setattr(kernel, "away", False))


def kernel_refuses(world: World, name: str, kind: str, seconds: float) -> None:
    refused = world.nodes[name].kernel.refused
    refused[kind] = "ENOBUFS"
    world.later(seconds, refused.clear)


def by_hand(world: World, name: str, command: str) -> None:
    world.nodes[name].kernel.by_hand(command)
    world.judge.hands(world.nodes[name])


STEPS: Final[dict[str, Callable[..., None]]] = {
    function.__name__: function
    for function in (
        *(nothing, put, put_many, delete, delete_all, community, ghost),
        *(store_down, store_cut, store_late, store_doubt, store_repeat, store_compact),
        *(store_wipe, store_restore, mood, overrun, charon_kill, charon_stop, charon_hang),
        *(charon_refuses, unload, forget_sa, end_sa, end_child, rekey, cut, alone, clock, kill),
        *(kill_after, hup, renew, disk_full, disk_damaged, kernel_away, kernel_refuses, by_hand),
    )
}


async def carry_out(world: World, name: str, args: tuple[Any, ...]) -> None:
    STEPS[name](world, *args)
    await trio.lowlevel.checkpoint()
