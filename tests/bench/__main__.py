"""`python -m tests.bench`: ratios against what is measured in the same run, on the same machine.

Each row is a figure of fabricd divided by a floor: the least that any program must do for the
same result. Prints a table and writes `.cache/bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import convergence
from tests.bench.row import Row

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="per row (%(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / ".cache" / "bench.json")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("the bench makes network namespaces: run it as root", file=sys.stderr)
        return 2
    rows = list(convergence.rows(arguments.rounds))
    show(rows)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "kernel": platform.release()}
    document = {"machine": machine, "rows": [row.document() for row in rows]}
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def show(rows: list[Row]) -> None:
    table = Table(title="fabricd against the floor, same run", title_justify="left")
    for name in ("row", "fabricd", "floor", "ratio", "aim", ""):
        table.add_column(name, justify="left" if name in {"row", ""} else "right")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    sys.exit(main())
