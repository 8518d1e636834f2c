"""One step on the way between two pods, and what was found there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class Verdict(StrEnum):
    """What a hop does to the traffic."""

    OK = "ok"
    WARNING = "warning"
    """The traffic passes, but something should be done."""
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A step; its name is for programs, the rest for people."""

    name: str
    verdict: Verdict
    detail: str
    do: str = ""
    """What to do about it."""

    @classmethod
    def ok(cls, name: str, detail: str) -> Self:
        """Nothing is wrong here."""
        return cls(name, Verdict.OK, detail)

    @classmethod
    def warn(cls, name: str, detail: str, do: str) -> Self:
        """The traffic passes."""
        return cls(name, Verdict.WARNING, detail, do)

    @classmethod
    def broken(cls, name: str, detail: str, do: str) -> Self:
        """The traffic stops here."""
        return cls(name, Verdict.BROKEN, detail, do)

    @classmethod
    def unknown(cls, name: str, detail: str, do: str = "") -> Self:
        """It could not be looked at."""
        return cls(name, Verdict.UNKNOWN, detail, do)

    def document(self) -> dict[str, Any]:
        """`ok` is true where traffic passes, false where it stops, null where nobody knows."""
        passes = {Verdict.BROKEN: False, Verdict.UNKNOWN: None}.get(self.verdict, True)
        return {
            "name": self.name,
            "ok": passes,
            "verdict": self.verdict.value,
            "detail": self.detail,
            "do": self.do,
        }
