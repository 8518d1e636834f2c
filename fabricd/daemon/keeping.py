"""The last good records, kept on disk as they change.

What is in the file, and how it is written, is `daemon.snapshot`'s.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from fabricd.core.rib import Rib
from fabricd.daemon.pacing import SETTLE
from fabricd.daemon.parts import MachinePart
from fabricd.daemon.report import Report
from fabricd.daemon.wakeup import Wakeup

PAUSE: Final = 0.0005
"""Seconds for each record between two writings: what one costs grows with them."""

RETRY: Final = 30.0
"""Seconds until another attempt to write."""

log = structlog.get_logger()


class Keeper:
    """Says in the report what is wrong with the disk."""

    def __init__(self, machine: MachinePart, rib: Rib, report: Report) -> None:
        self._machine = machine
        self._rib = rib
        self._report = report
        self._wakeup = Wakeup()

    def changed(self, why: str) -> None:
        """There may be something to write."""
        self._wakeup.poke(why)

    def load(self) -> None:
        """Give the Rib what was kept, if it can be read."""
        try:
            self._rib.restore(self._machine.load_records())
        except (OSError, ValueError) as error:
            self._report.snapshot_fault = str(error)
            log.warning("snapshot of the last good records can't be read", error=str(error))

    async def run(self) -> None:
        """Keep them, for ever."""
        report, saved = self._report, self._rib.versions()
        while True:
            await self._wakeup.wait(RETRY if report.snapshot_fault else float("inf"))
            await trio.sleep(SETTLE + PAUSE * len(saved))
            versions = self._rib.versions()
            if versions == saved:
                continue
            try:
                await self._machine.save_records(versions)
                saved, report.snapshot_fault = versions, ""
            except OSError as error:
                if str(error) != report.snapshot_fault:
                    log.warning("the last good records can't be kept", error=str(error))
                report.snapshot_fault = str(error)
