"""Debian's Prometheus, as it would watch a node: inside the node's namespace, every 2 seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from lab.fabric import FabricNode
from lab.process import CommandError, Process, command, wait_until
from tests.lab.observe import SOON
from tests.monitoring import RULES

PORT = 9090


class Prometheus:
    """Scrapes one node's fabricd, which it calls by the node's name, and judges by our rules."""

    def __init__(self, node: FabricNode, run: Path) -> None:
        self._namespace = node.namespace
        self._data = run / "prometheus"
        rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule["for"] = "1s"  # the patience of the real ones is tried by promtool
        target = {"targets": ["127.0.0.1:9815"], "labels": {"instance": node.name}}
        config = {
            "global": {
                "scrape_interval": "2s",
                "scrape_timeout": "2s",
                "evaluation_interval": "1s",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "fabricd", "static_configs": [target]}],
        }
        self._data.mkdir()
        (self._data / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        self._config = self._data / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        command("promtool", "check", "config", self._config)
        self.process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it serves. It is recorded in the run directory."""
        self.process = self._namespace.popen(
            *("prometheus", "--config.file", self._config, "--log.level", "warn"),
            *("--storage.tsdb.path", self._data / "tsdb"),
            *("--web.listen-address", f"127.0.0.1:{PORT}"),
            name="prometheus",
        )
        wait_until(lambda: self._get("/-/ready"), "prometheus is ready", SOON, watch=[self.process])

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an expression is now: `[{"metric": labels, "value": [time, "1"]}]`."""
        answer = json.loads(self._get(f"/api/v1/query?{urlencode({'query': expr})}"))
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The rules, as it has them."""
        groups = json.loads(self._get("/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> list[dict[str, Any]]:
        """The alerts that fire: `[{"labels": …, "annotations": …}]`."""
        alerts = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return [alert for alert in alerts if alert["state"] == "firing"]

    def wait_alert(self, name: str, **labels: str) -> dict[str, Any]:
        """Wait until exactly one alert fires, this one, with these labels; return it."""
        wanted = {"alertname": name, **labels}

        def fires() -> dict[str, Any]:
            match self.firing():
                case [alert] if wanted.items() <= alert["labels"].items():
                    return alert
                case others:
                    labels_of_all = [alert["labels"] for alert in others]
                    raise CommandError(("alerts",), "firing", str(labels_of_all), "")

        return wait_until(fires, f"only {wanted} fires", 2 * SOON)

    def wait_silence(self) -> None:
        """Wait until no alert fires."""
        wait_until(lambda: not self.firing(), "no alert fires", 2 * SOON)

    def _get(self, path: str) -> str:
        script = (
            f'exec 3<>/dev/tcp/127.0.0.1/{PORT}; printf "GET %s HTTP/1.0\\r\\n\\r\\n" "$0" >&3; '
            "cat <&3"
        )
        answer = self._namespace.run("bash", "-c", script, path).replace("\r\n", "\n")
        head, _, body = answer.partition("\n\n")
        if " 200 " not in head.partition("\n")[0]:
            raise CommandError(("GET", path), head.partition("\n")[0], body, "")
        return body
