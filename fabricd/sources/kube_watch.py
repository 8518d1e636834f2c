"""One list and one watch of one kind of objects, as Kubernetes defines them ("API concepts":
efficient detection of changes, retrieving large result sets in chunks).

May not know what the objects mean, nor what to do after the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

import msgspec
import trio
from msgspec import Raw, Struct

from fabricd.core.unreadable import UNREADABLE
from fabricd.sources.kube_client import KubeClient, Refused, Status
from fabricd.sources.kube_http import Connection
from fabricd.sources.pruned import pruned
from fabricd.sources.store import HistoryGone

PAGE: Final = 500
"""Objects in one response."""

GRACE: Final = 5.0
"""Seconds that a server may be late in ending a watch as it was told to."""

T = TypeVar("T")
U = TypeVar("U")


class _ListMeta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(Struct, Generic[T], frozen=True):
    metadata: _ListMeta
    items: list[T] | None = None


class _Frame(Struct, frozen=True):
    """A line of a watch."""

    type: str
    object: Raw


class _Version(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Versioned(Struct, frozen=True):
    """An object of which only the version counts: a bookmark has little else."""

    metadata: _Version


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind of objects: its path in the API, and the shape they are read into."""

    path: str
    kind: type[T]

    def page(self, body: bytes) -> _Page[T]:
        """Raises msgspec.MsgspecError."""
        page: Any = msgspec.json.decode(body, type=_Page[self.kind])  # type: ignore[name-defined]
        return page  # type: ignore[no-any-return]


async def list_all(client: KubeClient, resource: Resource[T]) -> tuple[list[T], str]:
    """All objects at one version, and that version. Raises Unavailable."""
    try:
        return await _list(client, resource, PAGE)
    except Refused as error:
        if error.code != HTTPStatus.GONE:
            raise
    # The version of the first page is forgotten already. The server offers to go on at another
    # one, but then what was deleted in between may be listed: all at once it is, then.
    return await _list(client, resource, None)


async def version_now(client: KubeClient, resource: Resource[T]) -> str:
    """The store's version now, as the API server knows it. Raises Unavailable."""
    page = _page(client, resource, await client.call("GET", resource.path, {"limit": 1}))
    return page.metadata.resource_version


async def watch(
    client: KubeClient,
    resource: Resource[T],
    version: str,
    seconds: int,
    *,
    opened: Callable[[], None],
    deliver: Callable[[T | None, str, bool], None],
) -> bool:
    """Follow what happens after a version, for so many seconds.

    `opened` is called when the server has taken the watch; `deliver` for each object with its
    version and whether it is gone, and with None for a version at which nothing changed.
    Returns when the server ends the watch in time: whether it has shown that it knows the
    version. Raises Unavailable when the watch breaks, is refused or is silent beyond its end, and
    HistoryGone when the server does not know the version any more.
    """
    query: dict[str, str | int] = {
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": seconds,
    }
    known = False
    try:
        async with client.stream(resource.path, query) as answer:
            opened()
            with trio.move_on_after(seconds + GRACE):
                lines = _Lines(answer)
                while (line := await lines.next()) is not None:
                    deliver(*_read(client, resource, line))
                    known = True
                return known
    except Refused as error:
        if error.code == HTTPStatus.GONE:
            raise HistoryGone("store", error.reason) from error
        raise
    raise client.failure(resource.path, f"silent for {GRACE:g} s after the end of the watch")


async def _list(
    client: KubeClient, resource: Resource[T], limit: int | None
) -> tuple[list[T], str]:
    objects: list[T] = []
    query: dict[str, str | int] = {} if limit is None else {"limit": limit}
    while True:
        page = _page(client, resource, await client.call("GET", resource.path, query))
        objects += page.items or ()
        if not page.metadata.continue_:
            return objects, page.metadata.resource_version
        query["continue"] = page.metadata.continue_


def _page(client: KubeClient, resource: Resource[T], body: bytes) -> _Page[T]:
    try:
        return _not_too_deep(resource.page, body)
    except UNREADABLE as error:
        raise client.failure(resource.path, f"the answer is no list: {error}") from error


def _read(client: KubeClient, resource: Resource[T], line: bytes) -> tuple[T | None, str, bool]:
    """What a line of a watch says, as `deliver` takes it."""
    try:
        return _not_too_deep(partial(_said, client, resource), line)
    except UNREADABLE as error:
        raise client.failure(resource.path, f"the watch speaks nonsense: {error}") from error


def _not_too_deep(read: Callable[[bytes], U], data: bytes) -> U:
    """What `read` makes of it, without what is nested too deep for that."""
    try:
        return read(data)
    except RecursionError:
        return read(pruned(data))


def _said(client: KubeClient, resource: Resource[T], line: bytes) -> tuple[T | None, str, bool]:
    """Raises as msgspec does, and HistoryGone."""
    frame = msgspec.json.decode(line, type=_Frame)
    if frame.type == "ERROR":
        status = msgspec.json.decode(frame.object, type=Status)
        said = f"{status.code}: {status.message or 'an error in the watch'}"
        raise HistoryGone("store", client.failure(resource.path, said).reason)
    version = msgspec.json.decode(frame.object, type=_Versioned).metadata.resource_version
    if frame.type == "BOOKMARK":
        return None, version, False
    found = msgspec.json.decode(frame.object, type=resource.kind)
    return found, version, frame.type == "DELETED"


class _Lines:
    """A body's lines."""

    def __init__(self, answer: Connection) -> None:
        self._answer = answer
        self._rest = bytearray()

    async def next(self) -> bytes | None:
        """The next line that is not empty; None at the end."""
        searched = 0
        while True:
            end = self._rest.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._rest[:end]).strip()
                del self._rest[: end + 1]
                searched = 0
                if line:
                    return line
                continue
            searched = len(self._rest)
            piece = await self._answer.read()
            if not piece:
                rest, self._rest = bytes(self._rest).strip(), bytearray()
                return rest or None
            self._rest += piece
