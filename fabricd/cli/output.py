"""How documents are printed: as a table, with more columns, as JSON or as YAML.

A document is what `json` can take. What is in it and which columns it has is the command's.
rich and PyYAML are loaded where they are used: most calls need one of them or neither.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from fabricd.cli.options import printable

Cell = str | tuple[str, str]
"""Text, or text and a style in rich's words: `red`. Styles are for terminals only."""

Document = Mapping[str, Any]

UNBOUNDED: Final = 1 << 16
"""Columns of what is no terminal: a table is never wrapped for another program."""


def emit(document: Document, form: str, as_text: Callable[[bool], str]) -> None:
    """Print a document on stdout; `as_text(wide)` makes the table."""
    click.echo(render(document, form, as_text))


def render(document: Document, form: str, as_text: Callable[[bool], str]) -> str:
    """The document in one of `options.FORMS`, without the newline at its end."""
    match form:
        case "json":
            return _json(document)
        case "yaml":
            import yaml  # noqa: PLC0415  # see above

            text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
            return text.rstrip("\n")
    return as_text(form == "wide")


def _json(document: Document) -> str:
    """JSON that reads as it was written, but for what a terminal would obey (C1 controls)."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: Sequence[str] = ()
) -> str:
    """Aligned columns with a line of headers; those named in `numbers` are aligned right.

    On a terminal as wide as that is, long cells folded, in colour; as they are elsewhere.
    """
    from rich.console import Console  # noqa: PLC0415  # see above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    console = Console(
        force_terminal=terminal,
        width=None if terminal else UNBOUNDED,
        legacy_windows=False,
    )
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        grid.add_column(
            Text(header), justify="right" if header in numbers else "left", overflow="fold"
        )
    for row in rows:
        cells = ((cell, "") if isinstance(cell, str) else cell for cell in row)
        grid.add_row(*(Text(printable(text), style) for text, style in cells))
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def octets(count: int) -> str:
    """A number of octets for people: `512 B`, `1.5 KiB`."""
    if count < 1024:
        return f"{count} B"
    size, unit = float(count), 0
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    while round(size, 1) >= 1024 and unit < len(units) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {units[unit]}"


def duration(seconds: float | None) -> str:
    """An age for people, in its two largest units: `42s`, `3m12s`, `5d4h`; `-` for None."""
    if seconds is None:
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= length or parts or unit == "s":
            parts.append(f"{rest // length}{unit}")
        rest %= length
    return "".join(part for part in parts[:2] if not part.startswith("0")) or "0s"
