"""The site and the man pages: they build without a warning, and ask nobody on the network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import picture
import reference
from fabricd.cli.main import fabricctl
from tests.docs import ROOT, pages

Build = Callable[[str], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Run one of Sphinx's builders, as the Makefile does; warnings are errors."""
    work = tmp_path_factory.mktemp("docs")
    made: set[str] = set()

    def run(builder: str) -> Path:
        if builder not in made:
            argv = (*("-q", "-W", "--keep-going", "-d", work / "doctrees", "-b", builder),)
            done = subprocess.run(
                [sys.executable, "-m", "sphinx", *argv, ROOT / "docs", work / builder],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            made.add(builder)
        return work / builder

    return run


class Assets(HTMLParser):
    """What a browser fetches for a page by itself, and the text of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag != "a":
            self.found += [value for name in ("src", "href") if (value := values.get(name))]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Assets:
    parser = Assets()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


# ---------------------------------------------------------------- the site


def test_the_site_builds_and_has_every_page(build: Build) -> None:
    site = build("html")
    for page in pages():
        if page != "README.md":
            assert (site / page.removeprefix("docs/")).with_suffix(".html").exists(), page


def test_the_site_fetches_nothing_from_elsewhere(build: Build) -> None:
    for page in build("html").rglob("*.html"):
        assert not [name for name in read(page).found if re.match("(https?:)?//", name)], page
    for style in build("html").rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), style


def test_the_picture_is_what_graph_draws_and_stands_in_the_page(build: Build) -> None:
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.picture(), "make docs"
    concepts = build("html") / "concepts.html"
    text = concepts.read_text(encoding="utf-8")
    assert text.count('<svg xmlns="http://www.w3.org/2000/svg" class="fabric"') == 1
    assert "<title>edge2 to edge3 (app1): up</title>" in text


def test_the_reference_is_there(build: Build) -> None:
    site = build("html") / "reference"
    config = "".join(read(site / "config.html").text)
    for section in reference.sections():
        assert f"[{section}]" in config
        for key in reference.keys(section):
            assert f"{key.name} (" in config
    metrics = "".join(read(site / "metrics.html").text)
    for family in reference.families():
        assert family.name in metrics
        assert family.text in metrics


# ---------------------------------------------------------------- man pages


def manual(build: Build, page: str) -> str:
    """A man page as man(1) shows it, without a complaint of groff's."""
    done = subprocess.run(
        ["groff", "-K", "utf8", "-man", "-T", "utf8", "-P-cbou", "-ww", build("man") / page],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return " ".join(done.stdout.split())


def commands(group: click.Group, name: str) -> list[str]:
    """All commands under a group, by their whole names."""
    found = []
    context = click.Context(group)
    for part in group.list_commands(context):
        command = group.get_command(context, part)
        found.append(f"{name} {part}")
        if isinstance(command, click.Group):
            found += commands(command, f"{name} {part}")
    return found


def test_there_is_a_man_page_for_each_program_and_for_the_config(build: Build) -> None:
    assert sorted(path.name for path in build("man").iterdir()) == [
        *("fabricctl.1", "fabricd.8", "fabricd.toml.5"),
    ]
    assert "fabricd - keep one node's part of an IPsec fabric" in manual(build, "fabricd.8")
    assert "--check-config Check the config file and exit." in manual(build, "fabricd.8")
    assert "[store] Where the records come from" in manual(build, "fabricd.toml.5")


def test_the_man_page_has_every_command(build: Build) -> None:
    text = manual(build, "fabricctl.1")
    everything = commands(fabricctl, "fabricctl")
    assert "fabricctl pki sign" in everything
    assert not [name for name in everything if f"{name} [OPTIONS]" not in text]
