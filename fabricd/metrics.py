"""What Prometheus sees. An object, not module globals: one a daemon, with its own registry.

Numbers that only grow are counted here as things happen; everything about peers and records is
read from the status document at each scrape, so that a peer that is gone leaves no series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabricd import __version__

Status = Mapping[str, Any]


class Metrics:
    """The counters and histograms, and the collector of everything else."""

    def __init__(self) -> None:
        # A second series for each counter, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the package's
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "fabricd_reconcile_passes", "Passes of the reconcile loop.", registry=self.registry
        )
        self.duration = Histogram(
            "fabricd_reconcile_duration_seconds",
            "How long a pass took, from observation to the last action.",
            registry=self.registry,
        )
        self.convergence = Histogram(
            "fabricd_convergence_seconds",
            "From a record's change seen to its tunnel installed.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.actions = Counter(
            "fabricd_actions",
            "Actions carried out on kernel and charon.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.repairs = Counter(
            "fabricd_drift_repairs",
            "Objects put right that somebody else had changed or removed.",
            ["kind"],
            registry=self.registry,
        )
        build = Info("fabricd_build", "The running version.", registry=self.registry)
        build.info({"version": __version__})
        # fabricd_process_start_time_seconds, …_resident_memory_bytes, …_cpu_seconds_total and more.
        ProcessCollector(namespace="fabricd", registry=self.registry)

    def of(self, status: Status) -> Collector:
        """Everything, with what a status document says."""
        return _Everything(self.registry, status)


class _Everything(Collector):
    def __init__(self, counted: Collector, status: Status) -> None:
        self._counted = counted
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        yield from _from_status(self._status)


def _from_status(status: Status) -> Iterator[Metric]:
    yield _gauge(
        "source_synced",
        "Whether the source of records answers and has said all it knows.",
        int(status["synced"]),
    )
    yield _gauge(
        "source_last_event_timestamp_seconds",
        "When the source last said something.",
        status["source"]["last_event"],
    )
    available = GaugeMetricFamily(
        "fabricd_part_available", "Whether kernel and charon answer.", labels=["part"]
    )
    for part in ("kernel", "charon"):
        available.add_metric([part], int(status[part]["ok"]))
    yield available
    yield GaugeMetricFamily("fabricd_pods", "Pods attached.", value=status["pods"])
    records = GaugeMetricFamily("fabricd_records", "Records in force.", labels=["kind"])
    for kind, number in status["records"].items():
        records.add_metric([kind], number)
    yield records
    rejected = len({item["key"] for item in status["rejected"]})
    yield _gauge("records_rejected", "Records that are wrong.", rejected)
    yield _gauge("records_held", "Records whose sudden loss is held.", len(status["held"]))
    yield _gauge("peers", "Nodes that this one peers with.", len(status["peers"]))
    yield from _peers(status["peers"])
    expiry = GaugeMetricFamily(
        "fabricd_certificate_expiry_timestamp_seconds",
        "When a certificate ends.",
        labels=["subject"],
    )
    for subject, when in status["certificates"].items():
        expiry.add_metric([subject], when)
    yield expiry


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fabricd_{name}", text, value=value)


def _peers(peers: list[Mapping[str, Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "fabricd_tunnel_up",
        "Whether every CHILD_SA that the peer needs is INSTALLED.",
        labels=["peer"],
    )
    established = GaugeMetricFamily(
        "fabricd_tunnel_established_timestamp_seconds",
        "When the IKE_SA with the peer was established.",
        labels=["peer"],
    )
    totals = {
        "bytes_in": _counter("tunnel_receive_bytes", "Bytes of plain text received."),
        "bytes_out": _counter("tunnel_transmit_bytes", "Bytes of plain text sent."),
        "rekeys": _counter("tunnel_rekeys", "Rekeyings of the peer's SAs."),
        "initiations": _counter("tunnel_initiations", "Attempts of this node to initiate."),
    }
    for peer in peers:
        labels = [peer["name"]]
        up.add_metric(labels, int(peer["up"]))
        if peer["established"] is not None:
            established.add_metric(labels, peer["established"])
        for field, family in totals.items():
            family.add_metric(labels, peer[field])
    yield up
    yield established
    yield from totals.values()


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"fabricd_{name}", text, labels=["peer"])
