"""One watch on a range of keys, until it breaks: a worker thread reads the stream, because
gRPC can't wake a trio task for each response, and trio judges what it reads.

May not know what the keys are, nor what to do after the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from queue import SimpleQueue
from typing import Any, Final, NoReturn

import grpc
import trio

from fabricd.errors import Unavailable
from fabricd.sources.etcd_client import EtcdClient, Stream
from fabricd.sources.etcd_proto import WATCH, WATCH_PROGRESS
from fabricd.sources.store import HistoryGone

PROGRESS_EVERY: Final = 5.0
"""Seconds between questions whether the watch is alive: a server can answer pings and do
nothing else, and a proxy in between answers them itself."""

SILENCE: Final = 15.0
"""Seconds without a response after which it is not."""


async def watch(
    client: EtcdClient,
    first: bytes,
    end: bytes,
    revision: int,
    *,
    opened: Callable[[], None],
    deliver: Callable[[Sequence[Any]], None],
) -> NoReturn:
    """Watch the keys `first <= key < end` from a revision on.

    `opened` is called when the server has taken the watch, `deliver` for each transaction
    with its mvccpb.Event messages. Raises Unavailable when the watch breaks or is refused,
    HistoryGone when the revision was compacted or lies in a future that this store never had.
    """
    requests: SimpleQueue[Any] = SimpleQueue()
    create = WATCH.request()
    create.create_request.key = first
    create.create_request.range_end = end
    create.create_request.start_revision = revision
    requests.put(create)
    async with client.stream(WATCH, iter(requests.get, None)) as stream:
        try:
            failure = await _follow(stream, requests, revision, opened, deliver)
        finally:
            stream.call.cancel()  # ends the thread that reads …
            requests.put(None)  # … and gRPC's own that writes
    raise failure


async def _follow(
    stream: Stream,
    requests: SimpleQueue[Any],
    revision: int,
    opened: Callable[[], None],
    deliver: Callable[[Sequence[Any]], None],
) -> Unavailable:
    """Returns how the watch ended: no exception has to find its way out of the nursery."""
    send, responses = trio.open_memory_channel[Any](0)
    failure: Unavailable | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, stream, send)
        nursery.start_soon(_ask_for_progress, requests)
        try:
            with trio.move_on_after(SILENCE) as silence:
                async for response in responses:
                    if isinstance(response, grpc.RpcError):
                        failure = stream.broke(response)
                    else:
                        failure = _judge(stream, response, revision)
                    if failure is not None:
                        break
                    silence.deadline = trio.current_time() + SILENCE
                    if response.created:
                        opened()
                    for _, events in groupby(response.events, lambda e: e.kv.mod_revision):
                        deliver(tuple(events))
        finally:
            stream.call.cancel()
        if failure is None:
            silent = f"no sign of life for {SILENCE:g} s"
            failure = stream.broke(silent if silence.cancelled_caught else "ended the watch")
        nursery.cancel_scope.cancel()
    return failure


def _judge(stream: Stream, response: Any, revision: int) -> Unavailable | None:
    """What is wrong with a response, if anything is."""
    if response.compact_revision:
        return HistoryGone("store", f"history before {response.compact_revision} is compacted")
    if response.canceled:
        return stream.refused(f"the watch was refused: {response.cancel_reason or 'no reason'}")
    # A store that lost its data answers to a watch from the future, and then with silence.
    if response.header.revision < revision - 1:
        return HistoryGone(
            "store", f"it went back from revision {revision - 1} to {response.header.revision}"
        )
    return None


async def _read(stream: Stream, send: trio.MemorySendChannel[Any]) -> None:
    def pump() -> None:
        try:
            for response in stream.call:
                trio.from_thread.run(send.send, response)
        except grpc.RpcError as error:
            trio.from_thread.run(send.send, error)
        except trio.BrokenResourceError:
            return  # nobody listens any more

    with send:
        await trio.to_thread.run_sync(pump, limiter=trio.CapacityLimiter(1))


async def _ask_for_progress(requests: SimpleQueue[Any]) -> NoReturn:
    while True:
        await trio.sleep(PROGRESS_EVERY)
        requests.put(WATCH_PROGRESS)
