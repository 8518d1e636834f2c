"""How documents are printed: as a table, with more columns, as JSON or as YAML.

A document is what `json` can take. What is in it and which columns it has is the command's.
PyYAML is loaded where it is used: most calls do without.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from unicodedata import category, east_asian_width

import click

from fabricd.cli.options import printable

Cell = str | tuple[str, str]
"""Text, or text and its colour: `red`. Colours are for terminals only."""

Document = Mapping[str, Any]

GAP: Final = "  "
"""Between two columns of a table."""

NARROW: Final = 10
"""No column is folded to less, however narrow the terminal is."""


def emit(document: Document, form: str, as_text: Callable[[bool], str]) -> None:
    """Print a document on stdout; `as_text(wide)` makes the table."""
    click.echo(render(document, form, as_text))


def render(
    document: Document, form: str, as_text: Callable[[bool], str], *, one_line: bool = False
) -> str:
    """The document in one of `options.FORMS`, without the newline at its end; `one_line`: JSON is
    not spread over several.
    """
    match form:
        case "json":
            return _json(document, None if one_line else 2)
        case "yaml":
            return _yaml(document)
    return as_text(form == "wide")


def _json(document: Document, indent: int | None) -> str:
    """JSON that reads as it was written, but for what a terminal would obey or hide."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _yaml(document: Document) -> str:
    """YAML that does the same: where something can't be shown, it is all ASCII."""
    import yaml  # noqa: PLC0415  # see above

    text = ""
    for as_written in (True, False):
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=as_written, width=100)
        if text.replace("\n", "").isprintable():
            break
    return text.rstrip("\n")


# ---------------------------------------------------------------- tables


def on_terminal() -> bool:
    """Whether stdout is a terminal that does more than take lines."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str = "", *, bold: bool = False) -> str:
    """`text` in a colour where there are colours, and somebody wants them (no-color.org)."""
    if not on_terminal() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour or None, bold=bold or None)


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: Sequence[str] = ()
) -> str:
    """Aligned columns with a line of headers; those named in `numbers` are aligned right.

    A row may be shorter than the headers. On a terminal it is as wide as that, long cells folded,
    in colour; elsewhere cells are as they are.
    """
    cells = [[_cell(cell) for cell in (*row, *[""] * (len(headers) - len(row)))] for row in rows]
    widths = [
        max(map(_width, (header, *(row[at][0] for row in cells))))
        for at, header in enumerate(headers)
    ]
    if sys.stdout.isatty():
        _fit(widths, shutil.get_terminal_size().columns)
    right = [header in numbers for header in headers]
    text = [_line([(header, "") for header in headers], widths, right, bold=True)]
    for row in cells:
        folded = [_fold(text, width) for (text, _), width in zip(row, widths, strict=True)]
        for at in range(max(map(len, folded))):
            part = [lines[at] if at < len(lines) else "" for lines in folded]
            colours = (colour for _, colour in row)
            text.append(_line(list(zip(part, colours, strict=True)), widths, right))
    return "\n".join(text)


def _cell(cell: Cell) -> tuple[str, str]:
    text, colour = (cell, "") if isinstance(cell, str) else cell
    return printable(text), colour


def _line(
    cells: Sequence[tuple[str, str]],
    widths: Sequence[int],
    right: Sequence[bool],
    *,
    bold: bool = False,
) -> str:
    line = ""
    for (text, colour), width, to_right in zip(cells, widths, right, strict=True):
        space = " " * (width - _width(text))
        shown = coloured(text, colour, bold=bold) if text and (colour or bold) else text
        line += f"{space}{shown}{GAP}" if to_right else f"{shown}{space}{GAP}"
    return line.rstrip()


def _fit(widths: list[int], columns: int) -> None:
    """Take from the widest until all fit."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > columns and max(widths) > NARROW:
        widths[widths.index(max(widths))] -= 1


def _fold(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken at spaces where that is possible."""
    lines, line = [], ""
    for char in text:
        if _width(line + char) > width:
            head, space, tail = (line, " ", "") if char == " " else line.rpartition(" ")
            lines.append(head if space else line)
            line = tail if space else ""
            if char == " ":
                continue
        line += char
    return [*lines, line]


def _width(text: str) -> int:
    """Columns of a terminal (Unicode, UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if category(c) in {"Mn", "Me"} else 1 + (east_asian_width(c) in "WF") for c in text
    )


# ---------------------------------------------------------------- numbers


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
