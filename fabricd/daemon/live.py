"""The status page kept up to date: a stream of server-sent events for each page that is open.

Something is sent when the essence of the status, or what was done last, has changed, at most once
in `PAUSE`, and of the page only the parts that have changed since. Nothing is queued: who is slow
gets the state as it is then. The format is that of HTML's "Server-sent events" (9.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import trio

from fabricd.core.essence import essence
from fabricd.daemon.aside import Aside, aside
from fabricd.daemon.page import parts, title
from fabricd.daemon.recent import Recent
from fabricd.daemon.web import Send

EVENTS: Final = "text/event-stream; charset=utf-8"

PAUSE: Final = 1.0
"""Seconds from one event of a stream to the next, at least."""

ALIVE: Final = 15.0
"""Seconds of quiet after which a stream says that it is alive: to proxies, to the page, and to find
out whether anybody is there."""

Status = Callable[[], Awaitable[Mapping[str, Any]]]

RETRY: Final = 2000
"""Milliseconds after which a browser tries again."""

HEARTBEAT: Final = b"event: alive\ndata: yes\n\n"
"""No comment, as a script is not told of those."""


class Live:
    """One for all streams."""

    def __init__(self, status: Status, recent: Recent, aside: Aside = aside) -> None:
        """`status` gives the status document as of now; `aside` as the function of that name."""
        self._status = status
        self._recent = recent
        self._aside = aside
        self._looking = trio.Lock()
        self._poked = trio.Event()
        self._stale = True
        self._essence: Any = None
        self._number = 0
        """Of the essence: grows with every change of it that was looked at."""
        self._title = ""
        self._parts: Mapping[str, str] = {}

    def poke(self) -> None:
        """There may be something new; costs nothing while no page is open."""
        self._stale = True
        if self._poked.statistics().tasks_waiting:
            self._poked.set()
            self._poked = trio.Event()

    async def write(self, send: Send) -> None:
        """Tell one page, for as long as it is there."""
        await send(b"retry: %d\n\n" % RETRY)
        await self._look(afresh=True)  # the page itself may be younger than what others were told
        seen, sent = -1, dict[str, str]()
        said = trio.current_time()
        while True:
            await self._look()
            if self._number != seen:
                changed = {key: html for key, html in self._parts.items() if sent.get(key) != html}
                seen, sent = self._number, dict(self._parts)
                said = trio.current_time()
                await send(_event("parts", {"title": self._title, "parts": changed}))
            elif trio.current_time() >= said + ALIVE:
                said = trio.current_time()
                await send(HEARTBEAT)
            await trio.sleep(PAUSE)
            if not self._stale and self._number == seen:
                with trio.move_on_at(said + ALIVE):
                    await self._poked.wait()

    async def _look(self, *, afresh: bool = False) -> None:
        """Render what has changed, once for all streams; `afresh`: even if nothing has."""
        async with self._looking:
            if not (self._stale or afresh):
                return
            self._stale = False
            status, recent = await self._status(), tuple(self._recent)
            news = essence(status), next(iter(recent), None)
            if news == self._essence and not afresh:
                return
            made = await self._aside(parts, status, recent)
            self._title = title(status)
            self._parts = {key: str(html) for key, html in made.items()}
            if news != self._essence:
                self._essence = news
                self._number += 1


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    """JSON has no line ends of its own, and so is one line of data."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
