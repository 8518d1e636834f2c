"""One row of the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure, what it is held against, and the aim."""

    name: str
    value: float
    floor: float | None
    """None: there is nothing to compare it with."""
    aim: float
    unit: str
    absolute: bool = False
    """The aim is on the value itself, though there is a floor to compare it with."""
    least: bool = False
    """The aim is the least that is enough, not the most that is allowed."""
    note: str = ""
    """How it was come by, where that is not obvious."""

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None

    @property
    def met(self) -> bool:
        judged = self.value if self.ratio is None or self.absolute else self.ratio
        return judged >= self.aim if self.least else judged <= self.aim

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "floor": self.floor,
            "unit": self.unit,
            "ratio": self.ratio,
            "aim": self.aim,
            "aim_is": ("at least " if self.least else "at most ")
            + ("value" if self.ratio is None or self.absolute else "ratio"),
            "met": self.met,
            "note": self.note,
        }

    def cells(self) -> tuple[str, ...]:
        """For the table: row, fabricd, floor, ratio, aim, verdict."""
        floor = f"{_short(self.floor)} {self.unit}" if self.floor is not None else ""
        ratio = f"{self.ratio:.{2 if self.ratio >= 0.1 else 4}f}" if self.ratio is not None else ""
        unit = f" {self.unit}" if self.ratio is None or self.absolute else ""
        aim = f"{'≥' if self.least else '≤'} {self.aim:g}{unit}"
        verdict = "ok" if self.met else "missed"
        return self.name, f"{_short(self.value)} {self.unit}", floor, ratio, aim, verdict


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 or value == int(value) else f"{value:.2f}"
