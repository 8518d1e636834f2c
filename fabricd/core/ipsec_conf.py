"""ipsec.conf: text to connections. strongSwan's ipsec.conf(5).

A section begins at the start of a line (`conn NAME`, `config setup`, `ca NAME`), its parameters
are indented, `key=value`; a value in double quotes keeps its blanks; `#` begins a comment. `also`
takes over another section's parameters, `%default` holds for all. What a connection means to a
fabric is `core.migration`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

DEFAULT: Final = "%default"

MAX_DEPTH: Final = 10
"""Files that include one another."""

Include = Callable[[str, str], Mapping[str, str]]
"""Texts by file, for a pattern that a file (the second one) includes."""

_SECTION: Final = re.compile(r"(conn|ca|config)\s+(\S+)")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9_-]+)\s*=\s*(.*)")
_UNCOMMENTED: Final = re.compile(r'((?:"[^"]*"|(?<=@)#|[^"#])*)(?:#.*)?')
"""What stands before a comment: `#` begins one outside of quotes, but for a key's id, `@#…`."""


class ConfError(ValueError):
    """A file that is no ipsec.conf, with its place."""


@dataclass(frozen=True, slots=True)
class Conn:
    """A connection with all that `also` and `%default` give it."""

    name: str
    file: str
    values: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.file}: conn {self.name}"


@dataclass
class Conf:
    """What stands in the files, in order."""

    conns: list[Conn] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Sections that are no connections: `ipsec.conf: config setup`."""


@dataclass
class _Section:
    file: str
    values: dict[str, str] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)


def parse(text: str, file: str, include: Include) -> Conf:
    """Read a file's text. Raises ConfError; what `include` raises passes."""
    sections: dict[str, _Section] = {}
    conf = Conf()
    current: _Section | None = None
    for where, name, line in _lines(text, file, include, 0):
        match name:
            case "conn":
                # One that comes again adds to the one before.
                current = sections.setdefault(line, _Section(where.rpartition(":")[0]))
            case "ca" | "config":
                current = _Section(where)
                conf.others.append(f"{where.rpartition(':')[0]}: {name} {line}")
            case "also":
                _within(current, where).also.append(line)
            case _:
                _within(current, where).values[name] = line
    names = [name for name in sections if name != DEFAULT]
    conf.conns = [Conn(name, sections[name].file, _whole(name, sections)) for name in names]
    return conf


def _within(section: _Section | None, where: str) -> _Section:
    if section is None:
        raise ConfError(f"{where}: a parameter outside of a section")
    return section


def _lines(text: str, file: str, include: Include, depth: int) -> Iterator[tuple[str, str, str]]:
    """Place, keyword or key, and name or value of each line that says something."""
    if depth > MAX_DEPTH:
        raise ConfError(f"{file}: files include one another without an end")
    for number, raw in enumerate(text.splitlines(), 1):
        where = f"{file}:{number}"
        uncommented = _UNCOMMENTED.fullmatch(raw)
        if uncommented is None:
            raise ConfError(f"{where}: a quote is not closed")
        line = uncommented[1].strip()
        if not line or line.startswith("version "):
            continue
        if line.startswith("include "):
            for name, included in include(line.split(None, 1)[1].strip('"'), file).items():
                yield from _lines(included, name, include, depth + 1)
        elif not raw[0].isspace() and (section := _SECTION.fullmatch(line)):
            yield where, section[1], section[2]
        elif raw[0].isspace() and (parameter := _PARAMETER.fullmatch(line)):
            yield where, parameter[1].lower(), parameter[2].strip().strip('"')
        else:
            raise ConfError(f"{where}: neither a section nor an indented key=value: {line[:60]}")


def _whole(
    name: str, sections: Mapping[str, _Section], around: tuple[str, ...] = ()
) -> dict[str, str]:
    """A section's parameters: its own before those of `also`, those before `%default`'s."""
    section = sections[name]
    found: dict[str, str] = {}
    if not around and DEFAULT in sections and name != DEFAULT:
        found |= _whole(DEFAULT, sections, (name,))
    for other in section.also:
        if other in (*around, name):
            raise ConfError(f"{section.file}: conn {name}: also={other} leads back to itself")
        if other not in sections:
            raise ConfError(f"{section.file}: conn {name}: also={other}: there is no such conn")
        found |= _whole(other, sections, (*around, name))
    return found | section.values
