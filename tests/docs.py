"""The documentation, as tests read it: its pages, their blocks of code, and the commands there.

A block of Markdown is fenced or indented. In one marked `sh`, or not marked, each line is a
command; in one marked `console`, those behind a prompt (`edge2# `), and what follows is what they
print.
Everything else (`toml`, `json`, pictures in characters) has no commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parents[1]

PROMPT: Final = re.compile(r"([a-z0-9]+)?[#$] ")

PROGRAMS: Final = ("fabricctl", "fabricd")


@dataclass(frozen=True)
class Block:
    """A block of code, or code inside a sentence (`info` is `inline`)."""

    page: str
    """Its path in the checkout."""
    line: int
    info: str
    heading: str
    """The one that it stands under."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command that a reader is told to type, without redirections and comments."""

    block: Block
    host: str
    """Where, if the prompt says so."""
    line: str
    """The whole line of shell."""

    def __str__(self) -> str:
        return f"{self.block}: {self.line}"


def pages() -> list[str]:
    """All pages, by their paths in the checkout."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def blocks(page: str) -> Iterator[Block]:
    """Its code, in order."""
    heading, title = "", False
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text("utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "inline":
            if title:
                heading = token.content
            for child in token.children or ():
                if child.type == "code_inline":
                    yield Block(page, line, "inline", heading, child.content)
        elif token.type in {"fence", "code_block"}:
            yield Block(page, line, token.info.strip(), heading, token.content)
        title = token.type == "heading_open"


def commands(block: Block) -> Iterator[Command]:
    """What it tells its reader to type, a whole line of shell each."""
    if block.info not in {"", "sh", "console"}:
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        prompt = PROMPT.match(line)
        if block.info == "console" and prompt is None:
            continue
        text = line[prompt.end() :] if prompt else line
        yield Command(block, (prompt and prompt[1]) or "", " ".join(text.split()))


def calls(line: str, programs: tuple[str, ...] = PROGRAMS) -> Iterator[list[str]]:
    """The words of each call of one of our programs in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>()")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # not shell: a sentence with an apostrophe
        return
    call: list[str] = []
    for word in [*words, ";"]:
        if re.fullmatch(r"[;|&<>()]+", word):
            if call and call[0] in programs:
                yield call
            call = []
        else:
            call.append(word)
