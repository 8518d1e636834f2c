"""What the pages say is there is there: commands and their options, make's targets, files, links,
and the fields, keys and metrics that the reference names.

Whether the commands do what the pages say is for tests/lab/test_docs.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

import reference
from fabricd.cli.main import fabricctl
from fabricd.core.records import decode
from fabricd.model import Community, Node
from tests.docs import ROOT, blocks, calls, commands, pages
from tests.unit.test_metrics import BEYOND, CONTRACT

PAGES = pages()


def told(page: str) -> list[tuple[str, list[str], bool]]:
    """Where, the words of a call of one of our programs, and whether it is to be typed as it is
    rather than named in a sentence.
    """
    found = []
    for block in blocks(page):
        if block.info == "inline":
            found += [(str(block), words, False) for words in calls(block.text)]
        for command in commands(block):
            found += [(str(command), words, True) for words in calls(command.line)]
    return found


# ---------------------------------------------------------------- commands


class WrongCommand(Exception):
    """A call that fabricctl would refuse."""


def check(words: list[str], *, whole: bool) -> None:
    """Raise WrongCommand for a call with a command or an option that is not there, or with a word
    that its option does not take; `whole`: also for one that lacks an argument.
    """
    command: click.Command = fabricctl
    context = click.Context(command, info_name=words[0])
    rest = words[1:]
    while True:
        if "…" in rest:
            rest, whole = [word for word in rest if word != "…"], False
        try:
            given, rest, _ = command.make_parser(context).parse_args(rest)
        except click.UsageError as error:
            if whole or not re.search("requires an argument|Missing", error.message):
                raise WrongCommand(error.message) from error
            return
        _check_values(command, given, whole=whole)
        if not isinstance(command, click.Group) or not rest:
            break
        name, rest = rest[0], rest[1:]
        found = command.get_command(context, name)
        if found is None:
            raise WrongCommand(f"no such command: {name}")
        command, context = found, click.Context(found, parent=context, info_name=name)
    if whole and isinstance(command, click.Group):
        raise WrongCommand(f"{words}: what is to be done?")
    if rest:
        raise WrongCommand(f"too many words: {rest}")


def _check_values(command: click.Command, given: dict[str, object], *, whole: bool) -> None:
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            unknown = set(value.split("|")) - set(parameter.type.choices)
            if unknown:
                raise WrongCommand(f"{parameter.opts}: {unknown}")
        if whole and parameter.required and parameter.value_is_missing(value):
            raise WrongCommand(f"{parameter.name} is missing")


@pytest.mark.parametrize("page", PAGES)
def test_fabricctl_has_every_command_and_option_that_a_page_names(page: str) -> None:
    for where, words, whole in told(page):
        if words[0] == "fabricctl" and len(words) > 1:
            try:
                check(words, whole=whole)
            except WrongCommand as error:
                pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fabricctl nod list", "no such command: nod"),
        ("fabricctl node show edge2", "no such command: show"),
        ("fabricctl status --follow", "No such option"),
        ("fabricctl status -o xml", "xml"),
        ("fabricctl why 2.2.2.2", "destination is missing"),
        ("fabricctl why 2.2.2.2 2.2.2.34 2.2.2.66", "too many words"),
        ("fabricctl node", "what is to be done"),
        ("fabricctl plan --records", "requires an argument"),
    ],
)
def test_a_wrong_command_is_found(line: str, reason: str) -> None:
    (words,) = calls(line)
    with pytest.raises(WrongCommand, match=re.escape(reason)):
        check(words, whole=True)


def test_fabricd_has_every_option_that_a_page_names() -> None:
    said = subprocess.run(
        [Path(sys.executable).with_name("fabricd"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    there = set(re.findall(r"--[a-z-]+", said))
    named = {
        word
        for page in PAGES
        for _, words, _ in told(page)
        if words[0] == "fabricd"
        for word in words[1:]
        if word.startswith("--")
    }
    assert "--check-config" in named
    assert named <= there
    # and its man page leaves none out
    page = (ROOT / "docs/reference/fabricd.md").read_text(encoding="utf-8")
    assert there - {"--help"} == set(re.findall(r"^`(--[a-z-]+)", page, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_make_has_every_target_that_a_page_names(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for block in blocks(page):
        lines = [block.text] if block.info == "inline" else [c.line for c in commands(block)]
        for line in lines:
            for words in calls(line, ("make",)):
                assert {word for word in words[1:] if "=" not in word} <= targets, f"{block}"


# ---------------------------------------------------------------- files and links


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    for block in blocks(page):
        if block.info == "inline":
            names = [block.text]
        else:
            names = re.findall(r"(?<![\w/.])(?:contrib|systemd|tests|docs)/[\w./-]+", block.text)
        for name in names:
            if re.fullmatch(r"(contrib|systemd|tests|docs|fabricd)/[\w./-]+", name):
                assert (ROOT / name).exists(), f"{block}: {name}"
            elif re.fullmatch(r"[a-z]+/[a-z_]+\.py", name):
                assert (ROOT / "fabricd" / name).exists(), f"{block}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere_for_those_who_read_the_markdown(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page}: {target}"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- (\d+): \[.*\]\((.*\.md)\)$", index, re.MULTILINE)
    assert [name for _, name in listed] == sorted(path.name for path in folder.glob("0*.md"))
    assert all(name.startswith(f"{number}-") for number, name in listed)


def slug(heading: str) -> str:
    """As GitHub makes an anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# ---------------------------------------------------------------- the reference


def table(page: str, heading: str) -> dict[str, str]:
    """First and last cell of the rows under a heading; a cell of several names is several rows."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1]
    section = section.split("\n## ", 1)[0]
    rows: dict[str, str] = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        cells = line.split(" | ")
        rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[-1].strip("`"))
    return rows


def test_the_records_page_has_every_field_of_a_node_and_no_other() -> None:
    named = table("docs/records.md", "Node")
    known = {field.name for field in fields(Node)} - {"name"}
    assert {"communities" if name == "community" else name for name in named} == known
    value = "{" + ",".join(f'"{name}": null' for name in named) + "}"
    assert not decode("nodes/edge2", value.encode(), "CN={name}").warnings


def test_the_records_page_has_the_defaults() -> None:
    named = table("docs/records.md", "Node")
    node = decode("nodes/edge2", b'{"subnets": ["2.2.2.0/27"]}', "CN={name}").record
    assert isinstance(node, Node)
    assert named["role"] == node.role
    assert named["priority"] == str(node.priority)
    assert named["drained"] == str(node.drained).lower()
    assert (named["endpoint"], node.endpoint) == ("absent", None)
    assert (named["community"], node.communities) == ("none", frozenset())


def test_the_records_of_the_page_are_right() -> None:
    examples = [
        (heading, block.text.encode())
        for block in blocks("docs/records.md")
        if block.info == "" and (heading := block.heading) in {"Node", "Community"}
    ]
    kinds = {"Node": ("nodes/edge2", Node), "Community": ("communities/app1", Community)}
    assert [heading for heading, _ in examples] == list(kinds)
    for heading, value in examples:
        key, kind = kinds[heading]
        found = decode(key, value, "CN={name}")
        assert isinstance(found.record, kind)
        assert not found.warnings


def test_every_key_of_the_config_has_a_text() -> None:
    assert all(reference.sections().values())
    everything = [key for section in reference.sections() for key in reference.keys(section)]
    assert all(key.text.endswith(".") for key in everything)
    words = {(key.section, key.name): (key.kind, key.default) for key in everything}
    assert words["node", "name"] == ("string", "")
    assert words["store", "endpoints"] == ("list of strings", '["http://127.0.0.1:2379"]')
    assert words["store", "hold_share"] == ("number", "0.5")
    assert words["ike", "key"] == ("path", '"/etc/fabricd/pki/node.key"')
    assert words["ike", "crl"] == ("list of paths", "")
    assert words["kernel", "masquerade"] == ("boolean", "true")
    assert words["calico", "ipip_mode"][0] == '`"Always"` or `"CrossSubnet"` or `"Never"`'


def test_the_example_config_has_every_key() -> None:
    example = (ROOT / "contrib/fabricd.toml").read_text(encoding="utf-8")
    for name in reference.sections():
        (section,) = re.findall(
            rf"^#? ?\[{name}\]\n(.*?)(?=^(?:# )?\[|\Z)", example, re.MULTILINE | re.DOTALL
        )
        there = set(re.findall(r"^#? ?([a-z_]+) = ", section, re.MULTILINE))
        missing = {key.name for key in reference.keys(name)} - there
        # for Calico it shows what differs from [store]'s keys, and the page has the rest
        assert not missing or name == "calico", f"[{name}]: {missing}"


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    families = {family.name.removeprefix("fabricd_"): family for family in reference.families()}
    for name, (kind, labels) in CONTRACT.items():
        family = families[re.sub("_(count|sum|bucket)$", "", name)]
        assert family.kind == kind
        assert set(family.labels) == labels - {"le"}
    contract = {re.sub("_(count|sum|bucket)$", "", name) for name in CONTRACT}
    assert families.keys() == contract | BEYOND
