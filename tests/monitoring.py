"""The alert rules and the dashboard, as tests read them. What they stand on is fabricd's metrics
and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
RULES: Final = ROOT / "contrib/prometheus/fabricd.rules.yml"
DASHBOARD: Final = ROOT / "contrib/grafana/fabricd.json"
RUNBOOKS: Final = ROOT / "docs/runbooks"

PROMETHEUS_OWN: Final = {"up", "ALERTS"}
"""Metrics that Prometheus makes itself."""

VARIABLES: Final = {"$instance": ".*", "$peer": ".*", "$__rate_interval": "5m"}
"""The dashboard's variables, and what stands for "All"."""


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that show something: no headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Title of the panel and expression of each of its queries, with the variables put in."""
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in VARIABLES.items():
                expr = expr.replace(name, value)
            yield panel["title"], expr


def metric_names(expr: str) -> set[str]:
    """The metrics that a PromQL expression names: what stands before a selector, a range or an
    operator, and is neither a function nor an operator itself.
    """
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\b(by|without|on)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]", "", bare)
    names = set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare))
    return names - {"unless", "or", "and", "by", "without", "on", "offset"}
