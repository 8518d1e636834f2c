"""The table of faults names tests that are there, all those under fire, and words that are said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

import reference
from tests.docs import ROOT
from tests.monitoring import alerts

PAGE = "docs/faults.md"

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> Iterator[list[str]]:
    """The cells of each row that is about a fault."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.split(" | ")]
        if TEST.search(line):
            yield cells


ROWS = list(rows())


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node.name for node in ast.walk(tree) if isinstance(node, functions))
    return frozenset(name for name in found if name.startswith("test_"))


@cache
def said() -> str:
    """Every string in fabricd's code, those within f-strings too."""
    trees = (ast.parse(path.read_text("utf-8")) for path in (ROOT / "fabricd").rglob("*.py"))
    constants = (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return "\n".join(n.value for n in constants if isinstance(n.value, str))


def is_known(words: str) -> bool:
    """Whether an operator can meet these words: an alert, a metric, or what fabricd says."""
    if words.startswith("Fabricd"):
        return words in {rule["alert"] for rule in alerts()}
    if words.startswith("fabricd_"):
        return words.removeprefix("fabricd_").removesuffix("_total") in METRICS
    if words.startswith("fabricctl "):
        return True  # tests/unit/test_docs.py
    return all(piece.strip(" ;,.") in said() for piece in words.split("…"))


METRICS = {
    family.name.removeprefix("fabricd_").removesuffix("_total") for family in reference.families()
}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_names_a_test_that_is_there_and_words_that_are_said(row: list[str]) -> None:
    fault, seen, traffic, test = row
    assert fault
    assert seen
    assert traffic
    match = TEST.fullmatch(test)
    assert match, test
    assert match[2] in names_in(match[1]), test
    assert not [words for words in re.findall(r"`([^`]+)`", seen) if not is_known(words)]


def test_every_test_under_fire_is_in_the_table() -> None:
    named = {(match[1], match[2]) for row in ROWS for match in TEST.finditer(row[3])}
    files = sorted((ROOT / "tests/lab").glob("test_under_fire*.py"))
    assert files
    there = {
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in names_in(str(file.relative_to(ROOT)))
    }
    assert there <= named


def test_the_tests_of_the_lead_are_there() -> None:
    lead = (ROOT / PAGE).read_text(encoding="utf-8").partition("\n| ")[0]
    for match in TEST.finditer(lead):
        assert match[2] in names_in(match[1])


def test_words_that_nobody_says_are_found() -> None:
    assert not is_known("the store is sulking")
    assert not is_known("FabricdSulking")
    assert not is_known("fabricd_sulking_total")
