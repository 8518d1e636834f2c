"""strongSwan's settings as files have them: strongswan.conf(5).

Sections in braces, `key = value` until the end of the line, comments, `include` with patterns.
A section that comes again adds to the one before, a key that comes again replaces it. References
between sections (`a : b { … }`) are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Final

DEFAULT: Final = Path("/etc/strongswan.conf")

MAX_DEPTH: Final = 10
"""Files that include one another (settings_parser.y has the same limit)."""

_TOKEN: Final = re.compile(
    r"""\s*(?: \#[^\n]*
      | include [ \t]+ (?P<include> "[^"]*" | [^\s\#]+ )
      | (?P<close> \} )
      | (?P<section> [^\s{}=\#:"]+ ) \s* (?: : [^{}=\n]* )? \{
      | (?P<key> [^\s{}=\#:"]+ ) [ \t]* = [ \t]* (?P<value> "(?:[^"\\]|\\.)*" | [^\n\#}]* )
    )""",
    re.VERBOSE,
)


def charons_settings(file: Path) -> dict[str, str]:
    """Settings of charon, by their names without `charon.`; those for `charon-systemd` come first.

    Raises OSError, and ValueError for a file that is none, with its place.
    """
    found = dict(read(file))
    result: dict[str, str] = {}
    for program in ("charon", "charon-systemd"):  # strongSwan falls back on the first one
        prefix = f"{program}."
        result |= {
            name.removeprefix(prefix): value
            for name, value in found.items()
            if name.startswith(prefix)
        }
    return result


def read(file: Path, depth: int = 0, within: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Each key with its value, in order; `within`: the sections around an `include`.

    Raises as `charons_settings` does.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{file}: files include one another without an end")
    text, place, sections = file.read_text(encoding="utf-8", errors="replace"), 0, list(within)
    while text[place:].strip():
        token = _TOKEN.match(text, place)
        if token is None or (token["close"] and len(sections) == len(within)):
            start = len(text) - len(text[place:].lstrip())
            line = text.count("\n", 0, start) + 1
            raise ValueError(f"{file}:{line}: not as strongswan.conf(5) has it")
        place = token.end()
        if token["include"]:
            # Without a match there is nothing to include; a relative one is beside the file.
            pattern = file.parent / token["include"].strip('"')
            for path in sorted(glob(str(pattern))):  # noqa: PTH207 - Path's takes no absolute ones
                yield from read(Path(path), depth + 1, tuple(sections))
        elif token["section"]:
            sections.append(token["section"])
        elif token["close"]:
            sections.pop()
        elif token["key"]:
            yield ".".join([*sections, token["key"]]), token["value"].strip().strip('"')
    if len(sections) > len(within):
        raise ValueError(f"{file}: section {sections[-1]} is not closed")
