"""Debian's Prometheus watches edge2 by the rules that we ship: silent while the fabric is well.
When something really breaks the right alert fires, and it alone, until that is mended.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.fabric import Fabric
from lab.process import LabError, command, wait_until
from lab.topology import RECORDS
from tests.lab.observe import SOON, get, look_again, own_fabric, wait_converged
from tests.lab.prometheus import Prometheus
from tests.monitoring import alerts, queries


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with own_fabric() as it:
        it.start_services()
        for name, record in RECORDS.items():
            it.put_record(name, record)
        it.start_daemons()
        wait_converged(it)
        yield it


@pytest.fixture(scope="module")
def prometheus(fabric: Fabric) -> Prometheus:
    watching = Prometheus(fabric.nodes["edge2"], fabric.run)
    watching.start()
    return watching


def test_promtool_finds_no_fault_in_the_metrics_of_any_node(fabric: Fabric) -> None:
    for name in fabric.nodes:
        code, text = get(fabric, name, "/metrics")
        assert code == 200
        assert command("promtool", "check", "metrics", stdin=text) == ""


def test_a_healthy_fabric_raises_no_alert(fabric: Fabric, prometheus: Prometheus) -> None:
    wait_until(
        lambda: prometheus.query('sum_over_time(up{job="fabricd", instance="edge2"}[5m]) >= 5'),
        "fabricd was scraped five times",
        SOON,
    )
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    assert sorted(rule["name"] for rule in rules) == sorted(rule["alert"] for rule in alerts())
    assert prometheus.query('count_over_time(ALERTS{alertstate="firing"}[5m])') == []
    up = prometheus.query("fabricd_tunnel_up == 1")
    assert {series["metric"]["peer"] for series in up} == {"node1", "edge3"}


def test_a_peer_dies_and_comes_back(fabric: Fabric, prometheus: Prometheus) -> None:
    charon = fabric.nodes["edge3"].charon
    charon.kill()
    try:
        alert = prometheus.wait_alert("FabricdTunnelDown", instance="edge2", peer="edge3")
        assert alert["annotations"]["summary"] == "edge2: the tunnel to edge3 is down"
        assert alert["annotations"]["runbook_url"] == "docs/runbooks/FabricdTunnelDown.md"
    finally:
        charon.start()
    prometheus.wait_silence()


def test_its_own_charon_dies_which_is_one_alert_and_not_one_a_peer(
    fabric: Fabric, prometheus: Prometheus
) -> None:
    charon = fabric.nodes["edge2"].charon
    charon.kill()
    try:
        prometheus.wait_alert("FabricdNoTunnelUp", instance="edge2")
    finally:
        charon.start()
    prometheus.wait_silence()
    wait_converged(fabric)


def test_the_store_is_away(fabric: Fabric, prometheus: Prometheus) -> None:
    fabric.etcd.kill()
    try:
        prometheus.wait_alert("FabricdStoreNotSynced", instance="edge2")
    finally:
        fabric.etcd.start()
    prometheus.wait_silence()


def test_a_record_is_wrong(fabric: Fabric, prometheus: Prometheus) -> None:
    fabric.etcd.put("/fabric/nodes/edge9", {"role": "edge"})
    try:
        alert = prometheus.wait_alert("FabricdRecordsRejected")
        assert alert["annotations"]["summary"] == "1 records are wrong and not in force"
    finally:
        fabric.etcd.delete("/fabric/nodes/edge9")
    prometheus.wait_silence()


def test_most_records_vanish(fabric: Fabric, prometheus: Prometheus) -> None:
    fabric.etcd.delete("/fabric/nodes/", "--prefix")
    try:
        prometheus.wait_alert("FabricdRecordsHeld")
    finally:
        for name, record in RECORDS.items():
            fabric.put_record(name, record)
    prometheus.wait_silence()
    wait_converged(fabric)


def test_the_daemon_is_killed(fabric: Fabric, prometheus: Prometheus) -> None:
    fabric.kill_fabricd("edge2")
    try:
        prometheus.wait_alert("FabricdDown", instance="edge2")
    finally:
        fabric.start_fabricd("edge2")
    prometheus.wait_silence()
    wait_converged(fabric)


def test_the_daemon_starts_without_its_key(fabric: Fabric, prometheus: Prometheus) -> None:
    config = tomllib.loads(fabric.nodes["edge2"].config.read_text(encoding="utf-8"))
    key = Path(config["ike"]["key"])
    away = key.with_suffix(".away")
    fabric.stop_fabricd("edge2")
    key.rename(away)
    try:
        fabric.start_fabricd("edge2")
        prometheus.wait_alert("FabricdNoCredentials", instance="edge2")
    finally:
        away.rename(key)
    look_again(fabric, "edge2")
    prometheus.wait_silence()
    wait_converged(fabric)


# What counts events of the last minutes falls silent only minutes after the last: from here on,
# nobody waits for that.


def test_the_daemon_may_not_change_the_kernel(fabric: Fabric, prometheus: Prometheus) -> None:
    edge2 = fabric.nodes["edge2"]
    fabric.stop_fabricd("edge2")
    edge2.namespace.ip("rule", "delete", "priority", "198")
    edge2.fabricd = edge2.namespace.popen(
        *("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"),
        *(*fabric.programs["fabricd"], "--config", edge2.config),
        name="edge2-fabricd",
    )
    try:
        prometheus.wait_alert("FabricdActionsFailing", instance="edge2", kind="rule.add")
    finally:
        fabric.stop_fabricd("edge2")
        fabric.start_fabricd("edge2")
    wait_converged(fabric)


def test_somebody_keeps_removing_a_rule(fabric: Fabric, prometheus: Prometheus) -> None:
    edge2 = fabric.namespaces["edge2"]
    wanted = {"alertname": "FabricdDriftRepeated", "instance": "edge2", "kind": "rule"}
    # Drift is what happens to a state that was reached.
    wait_converged(fabric)
    assert fabric.fabricctl("edge2", "plan") == "nothing to do\n"

    def removed_once_more() -> bool:
        if edge2.ip("rule", "show", "priority", "198"):
            edge2.ip("rule", "delete", "priority", "198")
        return any(wanted.items() <= alert["labels"].items() for alert in prometheus.firing())

    wait_until(removed_once_more, f"{wanted} fires", 3 * SOON)
    wait_converged(fabric)


def test_every_panel_of_the_dashboard_has_something_to_show(prometheus: Prometheus) -> None:
    """Whatever there is to count has happened by now."""

    def empty() -> list[str]:
        return [title for title, expr in queries() if not prometheus.query(expr)]

    with suppress(LabError):
        wait_until(lambda: not empty(), "everything was scraped", SOON)
    assert empty() == []
