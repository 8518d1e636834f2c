"""One surface that takes input from outside, and what may come of any input: a value, or one of the
errors that its documentation names; in bounded time, and with no more words than are fitting.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

PATIENCE: Final = 20
"""Seconds for one input, on a machine that is busy; each should take milliseconds."""

WORDS: Final = 64 * 1024
"""Bytes that may be said about any input …"""
TIMES: Final = 64
"""… and for each byte of it."""


@dataclass(frozen=True)
class Target:
    """A surface. `seeds` are valid samples, `words` what samples are made of."""

    name: str
    feed: Callable[[bytes], object]
    """Takes an input; what it returns is what would be shown of it."""
    seeds: Callable[[], Iterable[bytes]]
    rejections: tuple[type[Exception], ...] = ()
    words: tuple[bytes, ...] = ()

    def check(self, data: bytes) -> None:
        """Feed an input. Raises what must not come out."""
        try:
            said = self.feed(data)
        except self.rejections as error:
            said = str(error)
        length = len(said) if isinstance(said, str | bytes) else len(repr(said))
        limit = WORDS + TIMES * len(data)
        assert length <= limit, f"{length} bytes are said of {len(data)}"


class Hang(BaseException):
    """An input that takes too long: no `except Exception` on the way may take it for another."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise Hang when it takes longer than `PATIENCE`. In the main thread only."""

    def hang(number: int, frame: FrameType | None) -> NoReturn:
        raise Hang(f"more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
