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
    """None: the aim is on the value itself."""
    aim: float
    unit: str

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor is not None else None

    @property
    def met(self) -> bool:
        return (self.value if self.ratio is None else self.ratio) <= self.aim

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "floor": self.floor,
            "unit": self.unit,
            "ratio": self.ratio,
            "aim": self.aim,
            "met": self.met,
        }

    def cells(self) -> tuple[str, ...]:
        """For the table: row, fabricd, floor, ratio, aim, verdict."""
        floor = f"{self.floor:.1f} {self.unit}" if self.floor is not None else ""
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        aim = f"≤ {self.aim:g}" + ("" if self.ratio is not None else f" {self.unit}")
        verdict = "ok" if self.met else "missed"
        return self.name, f"{self.value:.1f} {self.unit}", floor, ratio, aim, verdict
