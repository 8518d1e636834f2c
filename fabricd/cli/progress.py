"""What takes its time says so, on stderr and to people alone; nothing is left of it afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE: Final = 0.5
"""Seconds after which somebody wonders."""

BEAT: Final = 1.0
"""Seconds from one redrawing to the next."""


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show `what`, and for how long, while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    shower = threading.Thread(target=_show, args=(what, over), daemon=True)
    shower.start()
    try:
        yield
    finally:
        over.set()
        shower.join()


def _show(what: str, over: threading.Event) -> None:
    seconds = 0.0
    wait = PATIENCE
    while not over.wait(wait):
        seconds += wait
        sys.stderr.write(f"\r{what} … {seconds:.0f} s")
        sys.stderr.flush()
        wait = BEAT
    if seconds:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
