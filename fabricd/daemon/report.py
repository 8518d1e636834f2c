"""The status document as of now, made from what the parts of one daemon know.

What is in it is `daemon.status`'s; who asks for it, and where it goes, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabricd.config import Config
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.peers import Peers
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.status import About, document, overview

Place = Callable[[str, str], str]
"""Where a fault of a record is, in the source's own terms (`sources.Store.place`)."""


class Report:
    """What others tell it is written into its fields."""

    def __init__(
        self,
        config: Config,
        place: Place,
        reconciler: Reconciler,
        initiator: Initiator,
        wall_clock: Callable[[], float],
    ) -> None:
        """`wall_clock` gives Unix seconds."""
        self._config = config
        self._place = place
        self._reconciler = reconciler
        self._now = wall_clock
        self.peers = Peers(reconciler, initiator)
        self.last_event = 0.0
        """When the source last said something, Unix seconds; 0 if never."""
        self.snapshot_fault = ""
        """Why the last good records can't be read from disk or kept there, if so."""
        self.publish_fault = ""
        """Why the store, which answers, does not take the status, if so."""

    async def whole(self, publish_fault: str | None = None) -> dict[str, Any]:
        """The document, while others have their turn. `publish_fault`: as if that were so."""
        about = self._about(publish_fault)
        return document(about, self._reconciler, await self.peers.rows_slowly(about.now))

    def glance(self, publish_fault: str | None = None) -> dict[str, Any]:
        """As much of it as `essence` looks at, at once."""
        return document(self._about(publish_fault), self._reconciler, self.peers.brief())

    def overview(self) -> dict[str, Any]:
        """What is in it of the node itself: cheap, as it is asked for often."""
        return overview(self._about(), self._reconciler)

    def _about(self, publish_fault: str | None = None) -> About:
        """What the rest is added to."""
        return About(
            node=self._config.node.name,
            source=self._config.store.type,
            place=self._place,
            prefix=self._config.store.prefix,
            last_event=self.last_event,
            snapshot_fault=self.snapshot_fault,
            now=self._now(),
            publish_fault=self.publish_fault if publish_fault is None else publish_fault,
        )
