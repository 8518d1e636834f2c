"""`python -m tests.bench.plots [DIR]`: draws DIR's charts anew from the numbers that are there.

`growth.json` has the numbers, and the pictures follow from them: `records.svg` and so on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.chart import Chart, svg

FOLDER: Final = Path(__file__).parents[2] / "docs/performance"
NUMBERS: Final = "growth.json"

Charts = Mapping[str, Chart]
"""By the name of the picture's file."""


def load(folder: Path) -> Charts:
    """Raises OSError if there are none, msgspec.DecodeError if they are no charts."""
    return msgspec.json.decode((folder / NUMBERS).read_bytes(), type=dict[str, Chart])


def save(folder: Path, charts: Iterable[tuple[str, Chart]]) -> Iterator[Path]:
    """Numbers and pictures, each chart as soon as it is there; yields the pictures' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Chart] = {}
    for name, chart in charts:
        found[name] = chart
        numbers = msgspec.json.format(msgspec.json.encode(found), indent=1)
        (folder / NUMBERS).write_bytes(numbers + b"\n")
        path = folder / f"{name}.svg"
        path.write_text(svg(chart), encoding="utf-8")
        yield path


if __name__ == "__main__":
    where = Path(*sys.argv[1:2]) if sys.argv[1:] else FOLDER
    for picture in save(where, load(where).items()):
        print(picture)
