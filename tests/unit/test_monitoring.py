"""Alerts, their runbooks and the dashboard say what fabricd says, in a form that Prometheus and
Grafana take. That they are right about a real fabric is for tests/lab/test_prometheus.py.
"""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from fabricd.cli.main import COMMANDS
from fabricd.metrics import Metrics
from lab.process import command
from tests.monitoring import (
    DASHBOARD,
    PROMETHEUS_OWN,
    RULES,
    RUNBOOKS,
    alerts,
    dashboard,
    metric_names,
    panels,
    queries,
)
from tests.unit.test_metrics import peer, scrape, status

NAMES = sorted({rule["alert"] for rule in alerts()})


def exported() -> set[str]:
    """The names of all samples that the daemon exports."""
    metrics = Metrics()
    metrics.actions.labels("route.set", "done").inc()
    metrics.repairs.labels("route").inc()
    types, _ = scrape(metrics, status(peer("edge3")))
    return {f"fabricd_{name}" for name in types}


# ---------------------------------------------------------------- alerts


def test_promtool_takes_the_rules_and_the_example_config() -> None:
    command("promtool", "check", "rules", RULES)
    command("promtool", "check", "config", RULES.with_name("prometheus.yml"))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    scenarios = RULES.with_name("fabricd.rules.test.yml")
    command("promtool", "test", "rules", scenarios)
    text = scenarios.read_text(encoding="utf-8")
    fired = set(re.findall(r'alertname="(\w+)", alertstate="firing"', text))
    assert fired == set(NAMES)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert metric_names(rule["expr"]) <= exported() | PROMETHEUS_OWN


def test_names_are_found_wherever_they_stand() -> None:
    expr = (
        'sum by (le) (rate(a_bucket{x="y_z"}[5m])) > 3 unless on (job) max without (p) (b:c) == 0'
    )
    assert metric_names(expr) == {"a_bucket", "b:c"}
    assert metric_names("time() - d_seconds offset 5m or vector(0)") == {"d_seconds"}


# ---------------------------------------------------------------- runbooks


def test_there_is_a_page_for_each_alert_and_the_index_leads_to_it() -> None:
    pages = sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "index")
    assert pages == NAMES
    index = (RUNBOOKS / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \|", index, re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_answers_the_four_questions(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == [
        f"# {name}",
        "## What it means",
        "## How to look",
        "## What to do",
        "## When to ignore it",
    ]
    assert set(re.findall(r"fabricctl ([a-z]+)", text)) <= set(COMMANDS)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOKS / target).exists()


# ---------------------------------------------------------------- dashboard


def test_the_dashboard_asks_for_nothing_that_fabricd_does_not_export() -> None:
    asked = {name for _, expr in queries() for name in metric_names(expr)}
    assert asked <= exported() | PROMETHEUS_OWN
    # and leaves nothing out, but what any process has
    beside = {n for n in exported() if re.search(r"_(count|sum)$|^fabricd_process_", n)}
    assert exported() - beside <= asked


def test_promtool_takes_its_queries(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": expr} for i, (_, expr) in enumerate(queries())]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in command("promtool", "check", "rules", path)


def test_every_panel_explains_itself_and_asks_the_chosen_data_source() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {item["name"]: item for item in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "peer"]
    assert variables["datasource"]["type"] == "datasource"
    text = DASHBOARD.read_text(encoding="utf-8")
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"fabricd", "${datasource}"}
    assert "://" not in text


def test_panels_lie_side_by_side() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    squares = [
        {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        for place in (panel["gridPos"] for panel in everything)
    ]
    assert all(x < 24 for square in squares for x, _ in square)
    assert all(one.isdisjoint(other) for one, other in combinations(squares, 2))
