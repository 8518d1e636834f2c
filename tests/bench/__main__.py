"""`python -m tests.bench`: ratios against what is measured in the same run, on the same machine.

Each row is a figure of fabricd divided by a floor: the least that any program must do for the
same result; or by what people use today. Prints a table and writes `.cache/bench.json`.

With `--plots` it measures how costs grow instead, and draws that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    burst,
    byhand,
    cold,
    convergence,
    gateway,
    growth,
    memory,
    passes,
    plots,
    pods,
    programs,
    sweep,
    throughput,
)
from tests.bench.row import Row

ROOT = Path(__file__).parents[2]

GROUPS: dict[str, Callable[[int | None], Iterator[Row]]] = {
    "tunnels": convergence.rows,
    "gateway": gateway.rows,
    "passes": passes.rows,
    "cold": cold.rows,
    "sweep": sweep.rows,
    "byhand": byhand.rows,
    "burst": burst.rows,
    "memory": memory.rows,
    "programs": programs.rows,
    "pods": pods.rows,
    "throughput": throughput.rows,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--rows", type=_groups, metavar="NAME,…", help=f"all, or some of {', '.join(GROUPS)}"
    )
    parser.add_argument("--rounds", type=int, help="of each row, instead of each row's own number")
    parser.add_argument("--json", type=Path, default=ROOT / ".cache" / "bench.json")
    parser.add_argument(
        "--plots",
        type=Path,
        nargs="?",
        const=plots.FOLDER,
        metavar="DIR",
        help="how costs grow, drawn into DIR (docs/performance)",
    )
    parser.add_argument(
        "--most", type=int, default=sys.maxsize, help="the largest size that plots measure"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("the bench makes network namespaces: run it as root", file=sys.stderr)
        return 2
    folder = arguments.plots and arguments.plots.absolute()
    os.chdir(ROOT)  # programs of the bench are started as modules
    if folder is not None:
        for path in plots.save(folder, growth.charts(arguments.rounds, arguments.most)):
            print(f"bench: {path}", file=sys.stderr)
    rows: list[Row] = []
    for group in arguments.rows or ([] if folder else GROUPS):
        print(f"bench: {group}", file=sys.stderr)
        rows += GROUPS[group](arguments.rounds)
        write(arguments.json, rows)  # so that nothing is lost when a later one fails
    if rows:
        show(rows)
    return 0


def _groups(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(unknown)}")
    return names


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
    }
    document = {"machine": machine, "rows": [row.document() for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show(rows: list[Row]) -> None:
    table = Table(title="fabricd against the floor, same run", title_justify="left")
    for name in ("row", "fabricd", "floor", "ratio", "aim", ""):
        table.add_column(name, justify="left" if name in {"row", ""} else "right")
    for row in rows:
        table.add_row(*row.cells())
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", style="dim", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
