"""What the pages can ask Sphinx for beside Markdown: directives for reference text that comes from
the code, drawings that follow the page's colours, and commands under their whole names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

import reference

BEFORE_CONTENTS = 400
"""Priority of what has to be done before Sphinx collects a page's titles (500)."""


# ---------------------------------------------------------------- directives


class _Generated(SphinxDirective):
    """Markdown, parsed as if it stood in the page. The directive's own content is for those who
    read the page as Markdown: it says where the same can be read.
    """

    has_content = True

    def parsed(self, lines: Iterable[str], into: nodes.Element) -> nodes.Element:
        self.state.nested_parse(StringList(list(lines), "generated"), self.content_offset, into)
        return into


class ConfigReference(_Generated):
    """A section for each section of the config file, with its keys."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name, text in reference.sections().items():
            section = nodes.section(ids=[f"config-{name}"], names=[name])
            section += nodes.title("", f"[{name}]")
            self.parsed([text, "", *reference.keys_markdown(name)], section)
            found.append(section)
        return found


class MetricsReference(_Generated):
    """The metrics as a table."""

    def run(self) -> list[nodes.Node]:
        return list(self.parsed(reference.metrics_markdown(), nodes.container()).children)


# ---------------------------------------------------------------- commands, by sphinx-click


def name_commands_in_full(_app: Sphinx, document: nodes.document) -> None:
    """`fabricctl node put`, where sphinx-click has `put` in a section of `node`."""
    for section in document.findall(nodes.section):
        title, name = section[0], section["names"][0]
        if isinstance(title, nodes.title) and name.endswith(f" {title.astext()}"):
            title.children = [nodes.Text(name)]


def drop_config(_app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Every command has `--config`; it is enough that the program does."""
    starts = [number for number, line in enumerate(lines) if line.startswith(".. option::")]
    for start, end in reversed(list(zip(starts, [*starts[1:], len(lines)], strict=True))):
        if context.parent is not None and "--config" in lines[start]:
            del lines[start:end]


def drop_nameless(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Of an argument that `--help` doesn't show either, sphinx-click makes an option without a
    name.
    """
    starts = [number for number, line in enumerate(lines) if line.strip() == ".. option::"]
    for start in reversed(starts):
        del lines[start : start + 3]


# ---------------------------------------------------------------- what a builder needs


class InlineDrawings(SphinxPostTransform):
    """Put an SVG of ours into the HTML page itself: only there do its colours follow the page,
    light or dark. Elsewhere, and in the Markdown, it is an image.
    """

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.env.srcdir, image["uri"])
            if path.suffix == ".svg":
                drawing = path.read_text(encoding="utf-8").partition("?>\n")[2]
                image.replace_self(nodes.raw("", drawing, format="html"))


class WordsForLinks(SphinxPostTransform):
    """Nobody can follow a link to another page in a man page."""

    default_priority = 900
    builders = ("man",)

    def run(self, **_: Any) -> None:
        for reference_node in list(self.document.findall(nodes.reference)):
            reference_node.replace_self(reference_node.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """As Sphinx calls it."""
    app.add_directive("config-reference", ConfigReference)
    app.add_directive("metrics-reference", MetricsReference)
    app.add_post_transform(InlineDrawings)
    app.add_post_transform(WordsForLinks)
    app.connect("doctree-read", name_commands_in_full, BEFORE_CONTENTS)
    app.connect("sphinx-click-process-options", drop_config)
    app.connect("sphinx-click-process-arguments", drop_nameless)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
