"""The node's status in the store, written when its essence has changed, and no more often than so.

Times and counters are in the document; only a change of its essence is worth a write.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
import trio

from fabricd.core.essence import essence
from fabricd.daemon.abridged import abridged
from fabricd.daemon.aside import Aside
from fabricd.daemon.pacing import SETTLE
from fabricd.daemon.report import Report
from fabricd.daemon.serve import encode
from fabricd.daemon.wakeup import Wakeup
from fabricd.errors import Unavailable
from fabricd.sources import Store

PAUSE: Final = 1.0
"""Seconds between two writes, at least."""

RETRY: Final = 5.0
"""Seconds until another attempt, half of that to half as much again."""

log = structlog.get_logger()


class Publisher:
    """Remembers what the store was told last."""

    def __init__(
        self,
        store: Store,
        key: str,
        report: Report,
        synced: Callable[[], bool],
        aside: Aside,
        rng: random.Random,
    ) -> None:
        """`key`: where the status goes; `synced`: whether the store answers otherwise; `aside` as
        the function of that name.
        """
        self._store = store
        self._key = key
        self._report = report
        self._synced = synced
        self._aside = aside
        self._rng = rng
        self._wakeup = Wakeup()
        self._published: Any = None

    def seen(self, status: Mapping[str, Any]) -> None:
        """The status is like this now (`Report.glance`)."""
        if essence(status) != self._published:
            self._wakeup.poke("changed")

    async def run(self) -> None:
        """Keep it published, for ever."""
        reported = ""
        while True:
            await self._wakeup.wait(float("inf"))
            await trio.sleep(SETTLE)
            # Where the document is read, it is published.
            if essence(self._report.glance(publish_fault="")) == self._published:
                self._report.publish_fault = ""
                continue
            status = await self._report.whole(publish_fault="")
            news = essence(status)
            try:
                await self._store.publish(self._key, await self._aside(_encoded, status))
                self._published, self._report.publish_fault, reported = news, "", ""
            except Unavailable as error:
                if error.reason != reported:
                    log.warning("status can't be published", reason=error.reason)
                    reported = error.reason
                self._published = None  # it may have been taken, or be put back by a lease
                # Of a store that is away enough is said.
                self._report.publish_fault = error.reason if self._synced() else ""
                self._wakeup.poke("again")
                await trio.sleep(RETRY * self._rng.uniform(0.5, 1.5))
            await trio.sleep(PAUSE)


def _encoded(status: Mapping[str, Any]) -> bytes:
    return encode(abridged(status))
