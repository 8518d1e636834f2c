"""How tables look, what of a document reaches a terminal, and how numbers are said to people."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable

import pytest
import yaml

from fabricd.cli.output import Cell, duration, octets, render, table

# ---------------------------------------------------------------- tables


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have stdout be a terminal of so many columns, without colours."""

    def be(columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
        monkeypatch.setenv("NO_COLOR", "1")

    return be


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    rows: list[tuple[Cell, ...]] = [
        ("edge3", "1.5 KiB", "well"),
        ("a", ("12 B", "red"), ""),
        ("short",),
    ]
    assert table(("NAME", "IN", "REASON"), rows, numbers=("IN",)) == (
        "NAME        IN  REASON\nedge3  1.5 KiB  well\na         12 B\nshort"
    )


def test_columns_are_aligned_whatever_the_script() -> None:
    # A wide character takes two columns, a combining one none.
    rows = [("\u7ec41", "x"), ("e\u0301dge", "x"), ("ab", "x")]
    assert table(("N", "M"), rows).splitlines()[1:] == [
        "\u7ec41   x",
        "e\u0301dge  x",
        "ab    x",
    ]


def test_elsewhere_than_on_a_terminal_nothing_is_folded() -> None:
    assert table(("A",), [("word " * 500,)]).splitlines()[1] == ("word " * 500).rstrip()


def test_on_a_terminal_what_is_too_long_is_folded_at_spaces(
    terminal: Callable[[int], None],
) -> None:
    terminal(36)
    rows = [("edge3", "the peer does not answer: 10.20.8.12"), ("edge4", "x" * 50)]
    text = table(("PEER", "REASON"), rows)
    assert text == (
        "PEER   REASON\n"
        "edge3  the peer does not answer:\n"
        "       10.20.8.12\n"
        "edge4  xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
        "       xxxxxxxxxxxxxxxxxxxxx"
    )
    assert max(map(len, text.splitlines())) <= 36


def test_a_terminal_that_is_very_narrow_loses_nothing(terminal: Callable[[int], None]) -> None:
    terminal(5)
    text = table(("ALPHA", "BETA"), [("abcdefghijklmnop", "qrstuvwxyz0123456789")])
    lines = text.splitlines()[1:]
    assert "".join(line[:10].strip() for line in lines) == "abcdefghijklmnop"
    assert "".join(line[12:].strip() for line in lines) == "qrstuvwxyz0123456789"


# ---------------------------------------------------------------- documents

HOSTILE = "\x1b[2J\x9b2J\x07\u202e\u2066gpj\x00\x7f\u7ec4\U0001f600\U000e0041"
"""Terminal sequences, and characters that turn or hide what is beside them."""


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_document_comes_back_as_it_was_and_nothing_in_it_is_obeyed(form: str) -> None:
    document = {"name": HOSTILE, HOSTILE: ["a\nb", {"deep": HOSTILE}], "plain": "\u7ec41"}
    text = render(document, form, lambda _: "")
    assert all(line.isprintable() for line in text.splitlines())
    read = json.loads if form == "json" else yaml.safe_load
    assert read(text) == document


def test_what_is_harmless_is_shown_as_it_was_written() -> None:
    for form in ("json", "yaml"):
        assert "\u7ec41" in render({"plain": "\u7ec41"}, form, lambda _: "")


def test_json_in_one_line() -> None:
    text = render({"a": ["b\nc", 1]}, "json", lambda _: "", one_line=True)
    assert text == '{"a": ["b\\nc", 1]}'


def test_nothing_in_a_table_is_obeyed() -> None:
    assert all(line.isprintable() for line in table(("A",), [(HOSTILE,)]).splitlines())


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_octets(count: int, text: str) -> None:
    assert octets(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (192, "3m12s"),
        (3605, "1h"),
        (7260, "2h1m"),
        (86400 * 5 + 3600 * 4 + 59, "5d4h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
