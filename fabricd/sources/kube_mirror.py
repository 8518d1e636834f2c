"""One kind of objects, kept as the records that they hold: list, watch, go on, list again.

    list ──► watch ──► ended in time, and the server knew where we were ──► watch
     ▲         │ broken
     │         ▼
     └── no ── is the store at least where we were? ── yes ──► watch

May not know of the other kinds, nor of patience with an outage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from fabricd.core.events import Delete, Put
from fabricd.sources.kube_client import KubeClient
from fabricd.sources.kube_watch import Resource, list_all, version_now, watch
from fabricd.sources.store import HistoryGone

WATCH: Final = 15
"""Seconds of one watch. Whatever sits between us and the server, its silence is noticed this long
plus a moment after it began, and no proxy takes the stream for idle."""


class Mirror:
    """The records that the objects of one kind hold.

    `put_of` gives an object's record, None if it has none; `key_of` the record's key.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[Any],
        key_of: Callable[[Any], str],
        put_of: Callable[[Any], Put | None],
        seconds: int = WATCH,
    ) -> None:
        self._client = client
        self._resource = resource
        self._key_of = key_of
        self._put_of = put_of
        self._seconds = seconds
        self._version: str | None = None
        self.puts: dict[str, Put] = {}
        """By key, as they stood at the version that is known."""

    async def list(self) -> dict[str, Put]:
        """The records as they are now, whether they are followed or not."""
        return (await self._list())[0]

    def forget(self) -> bool:
        """The next thing to do is to list everything. False: it was so already."""
        known, self._version = self._version is not None, None
        return known

    async def follow(
        self, opened: Callable[[bool], None], changed: Callable[[Put | Delete], None]
    ) -> NoReturn:
        """List or go on, then watch, until that breaks.

        `opened`: from here on `puts` is true; its argument tells whether it was listed anew.
        `changed`: this has changed in `puts`. Raises Unavailable.
        """
        known = self._version is None
        try:
            while True:
                if not known:
                    await self._check_history()
                known = await self._watch(opened, changed)
        except HistoryGone:
            self._version = None
            raise

    async def _watch(
        self, opened: Callable[[bool], None], changed: Callable[[Put | Delete], None]
    ) -> bool:
        """One watch; whether the server has shown that it knew the version."""
        listed, version = None, self._version
        if version is None:
            listed, version = await self._list()

        def taken() -> None:
            if listed is not None:
                self.puts, self._version = listed, version
            opened(listed is not None)

        def deliver(found: Any | None, at: str, gone: bool) -> None:
            self._version = at or self._version
            if found is None:
                return
            key, put = self._key_of(found), None if gone else self._put_of(found)
            if put is None:
                if self.puts.pop(key, None) is not None:
                    changed(Delete(key))
            elif self.puts.get(key) != put:
                self.puts[key] = put
                changed(put)

        return await watch(
            self._client, self._resource, version, self._seconds, opened=taken, deliver=deliver
        )

    async def _check_history(self) -> None:
        """Raise HistoryGone when the store is behind what was seen of it: restored from a backup.

        A watch from a version of the future is taken, and silent. Versions are compared as the
        numbers that they are (Kubernetes: KEP 5504); where they are none, history is in doubt.
        """
        now, then = await version_now(self._client, self._resource), self._version or ""
        if not (now.isdecimal() and then.isdecimal() and int(now) >= int(then)):
            raise HistoryGone("store", f"it went back from version {then} to {now}")

    async def _list(self) -> tuple[dict[str, Put], str]:
        objects, version = await list_all(self._client, self._resource)
        puts = filter(None, map(self._put_of, objects))
        return {put.key: put for put in puts}, version
