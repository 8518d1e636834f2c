"""The exposition, as Prometheus reads it: names, types and labels as the contract lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fabricd import __version__
from fabricd.metrics import Metrics

CONTRACT = {
    "build_info": ("gauge", {"version"}),
    "source_synced": ("gauge", set()),
    "source_last_event_timestamp_seconds": ("gauge", set()),
    "records": ("gauge", {"kind"}),
    "records_rejected": ("gauge", set()),
    "peers": ("gauge", set()),
    "tunnel_up": ("gauge", {"peer"}),
    "tunnel_receive_bytes_total": ("counter", {"peer"}),
    "tunnel_transmit_bytes_total": ("counter", {"peer"}),
    "tunnel_established_timestamp_seconds": ("gauge", {"peer"}),
    "tunnel_rekeys_total": ("counter", {"peer"}),
    "tunnel_initiations_total": ("counter", {"peer"}),
    "drift_repairs_total": ("counter", {"kind"}),
    "reconcile_passes_total": ("counter", set()),
    "reconcile_duration_seconds_count": ("histogram", set()),
    "reconcile_duration_seconds_sum": ("histogram", set()),
    "reconcile_duration_seconds_bucket": ("histogram", {"le"}),
    "convergence_seconds_count": ("histogram", set()),
    "convergence_seconds_sum": ("histogram", set()),
    "convergence_seconds_bucket": ("histogram", {"le"}),
    "actions_total": ("counter", {"kind", "outcome"}),
    "certificate_expiry_timestamp_seconds": ("gauge", {"subject"}),
}

BEYOND = {"records_held", "part_available", "pods"}
"""Series that the contract asks for without a name, or not at all."""

EXPIRY = {"CN=edge2,O=StrongSwan,C=CN": 1.8e9}


def peer(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "up": True,
        "established": 1.7e9,
        "bytes_in": 1000,
        "bytes_out": 2000,
        "rekeys": 3,
        "initiations": 4,
        **more,
    }


def status(*peers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "synced": True,
        "source": {"last_event": 1.75e9},
        "kernel": {"ok": True, "reason": ""},
        "charon": {"ok": False, "reason": "away"},
        "records": {"node": 3, "community": 1},
        "pods": 2,
        "rejected": [],
        "held": [],
        "peers": list(peers),
        "certificates": EXPIRY,
        **more,
    }


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics, said: Mapping[str, Any]) -> tuple[dict[str, str], Series]:
    """Types by the name of the sample, and values by name and labels; without `fabricd_`."""
    types: dict[str, str] = {}
    values: Series = {}
    for family in text_string_to_metric_families(generate_latest(metrics.of(said)).decode()):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("fabricd_")
            name = sample.name.removeprefix("fabricd_")
            types[name] = family.type
            values[name, tuple(sorted(sample.labels.items()))] = sample.value
    return types, values


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    metrics = Metrics()
    metrics.actions.labels("route.set", "done").inc()
    metrics.repairs.labels("route").inc()
    types, values = scrape(metrics, status(peer("edge3")))
    found = {
        name: (types[name], {label for label, _ in labels})
        for name, labels in values
        if not name.endswith("_created") and name not in BEYOND and not name.startswith("process_")
    }
    assert found == CONTRACT


def test_everything_that_the_status_says() -> None:
    _, values = scrape(Metrics(), status(peer("edge3"), peer("cloud1", up=False)))
    assert values["build_info", (("version", __version__),)] == 1
    assert values["source_synced", ()] == 1
    assert values["source_last_event_timestamp_seconds", ()] == 1.75e9
    assert values["part_available", (("part", "kernel"),)] == 1
    assert values["part_available", (("part", "charon"),)] == 0
    assert values["process_start_time_seconds", ()] > 1.7e9
    assert values["records", (("kind", "node"),)] == 3
    assert values["records", (("kind", "community"),)] == 1
    assert values["peers", ()] == 2
    edge3, cloud1 = (("peer", "edge3"),), (("peer", "cloud1"),)
    assert (values["tunnel_up", edge3], values["tunnel_up", cloud1]) == (1, 0)
    assert values["tunnel_receive_bytes_total", edge3] == 1000
    assert values["tunnel_transmit_bytes_total", edge3] == 2000
    assert values["tunnel_established_timestamp_seconds", edge3] == 1.7e9
    assert values["tunnel_rekeys_total", edge3] == 3
    assert values["tunnel_initiations_total", edge3] == 4
    [(subject, when)] = EXPIRY.items()
    assert values["certificate_expiry_timestamp_seconds", (("subject", subject),)] == when


def test_a_record_with_two_faults_is_one_record() -> None:
    rejected = [
        {"key": "/fabric/nodes/edge3", "field": "subnets", "reason": "is required"},
        {"key": "/fabric/nodes/edge3", "field": "role", "reason": "no"},
        {"key": "/fabric/nodes/edge4", "field": "", "reason": "not JSON"},
    ]
    held = ["/fabric/nodes/edge5"]
    _, values = scrape(Metrics(), status(rejected=rejected, held=held, synced=False))
    assert values["records_rejected", ()] == 2
    assert values["records_held", ()] == 1
    assert values["source_synced", ()] == 0


def test_a_peer_that_is_gone_leaves_no_series() -> None:
    peers = [peer("edge3"), peer("edge4")]
    metrics = Metrics()
    _, before = scrape(metrics, status(*peers))
    peers.pop()
    _, after = scrape(metrics, status(*peers))
    assert {labels for _, labels in before if ("peer", "edge4") in labels}
    assert not {labels for _, labels in after if ("peer", "edge4") in labels}
    assert {labels for _, labels in after if ("peer", "edge3") in labels}


def test_a_peer_without_an_ike_sa_has_no_time_of_establishment() -> None:
    _, values = scrape(Metrics(), status(peer("edge3", up=False, established=None)))
    assert values["tunnel_up", (("peer", "edge3"),)] == 0
    assert ("tunnel_established_timestamp_seconds", (("peer", "edge3"),)) not in values


def test_no_id_in_a_label() -> None:
    metrics = Metrics()
    metrics.actions.labels("ike.terminate", "done").inc()
    metrics.repairs.labels("child").inc()
    _, values = scrape(metrics, status(peer("edge3")))
    names = {label for _, labels in values for label, _ in labels}
    assert names == {"version", "kind", "peer", "outcome", "le", "subject", "part"}


def test_two_daemons_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.passes.inc()
    assert scrape(one, status())[1]["reconcile_passes_total", ()] == 1
    assert scrape(other, status())[1]["reconcile_passes_total", ()] == 0
