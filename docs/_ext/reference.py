"""Reference text from the code itself: the config's keys and the metrics, as Markdown.

Text in, text out, so that tests read it too; `fabricd_docs` puts it into pages. The status document
that gives every metric a sample is that of the metrics' own tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from sphinx.pycode import ModuleAnalyzer

from fabricd import config
from fabricd.metrics import Metrics
from tests.unit.test_metrics import peer, status

# ---------------------------------------------------------------- config


@dataclass(frozen=True)
class Key:
    """A key of the config file."""

    section: str
    name: str
    kind: str
    """In words: `a path`."""
    default: str
    """In TOML; empty: there is none."""
    text: str


def sections() -> dict[str, str]:
    """The config's sections, and what each is about."""
    return {name: kind.__doc__ or "" for name, kind in config.SECTIONS.items()}


def keys(section: str) -> list[Key]:
    """The keys of a section in their order. KeyError: a key, or the section, has no text."""
    kind = config.SECTIONS[section]
    texts = ModuleAnalyzer.for_module(config.__name__).find_attr_docs()
    return [
        Key(
            section,
            field.name,
            words_of(field.type),
            toml(field.default),
            " ".join(texts[kind.__name__, field.name]).strip(),
        )
        for field in msgspec.structs.fields(kind)
    ]


def words_of(annotation: Any) -> str:
    """A type for people."""
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(annotation))
    several = tuple in {get_origin(each) for each in (annotation, *get_args(annotation))}
    plain = str(annotation)
    words = {"Path": "path", "str": "string", "bool": "boolean", "float": "number", "int": "number"}
    what = next(word for name, word in words.items() if name in plain)
    return f"list of {what}s" if several else what


def toml(value: Any) -> str:
    """A default as it would stand in the file; empty for None and for nothing."""
    match value:
        case None | "" | ():
            return ""
        case bool():
            return str(value).lower()
        case str() | Path():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
    return str(value)


def keys_markdown(section: str) -> Iterator[str]:
    """A section's keys as a definition list."""
    for key in keys(section):
        default = f" Default: `{key.default}`." if key.default else ""
        yield from (f"`{key.name}` ({key.kind})", f": {key.text}{default}", "")


# ---------------------------------------------------------------- metrics


@dataclass(frozen=True)
class Family:
    """A metric."""

    name: str
    """As its samples are called, without what Prometheus adds to a histogram's."""
    kind: str
    labels: tuple[str, ...]
    text: str


def families() -> list[Family]:
    """All that the daemon exports, by name; but what every process has."""
    metrics = Metrics()
    metrics.actions.labels("", "").inc()
    metrics.repairs.labels("").inc()
    found = []
    for metric in metrics.of(status(peer("edge2"))).collect():
        if metric.name.startswith("fabricd_process_"):
            continue
        sample = metric.samples[0]  # without one, nobody could tell its labels
        name = metric.name if metric.type == "histogram" else sample.name
        labels = tuple(label for label in sample.labels if label != "le")
        kind = "gauge" if metric.type == "info" else metric.type
        found.append(Family(name, kind, labels, metric.documentation))
    return sorted(found, key=lambda family: family.name)


def metrics_markdown() -> Iterator[str]:
    """The metrics as a table."""
    yield from ("| metric | type | is |", "| --- | --- | --- |")
    for family in families():
        labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
        yield f"| `{family.name}{labels}` | {family.kind} | {family.text} |"
