"""What the fabric of the first proof of concept consists of: addresses, records, configs, pods.

Values only; `lab.fabric` makes them real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.process import LabError

Record = Mapping[str, Any]

CONFIG = """\
[node]
name = "{name}"
[store]
type = "etcd"
endpoints = ["{etcd}"]
state_dir = "{run}/{name}.state"
[ike]
socket = "{vici}"
ca = ["{run}/{name}.pki/ca.crt"]
cert = "{run}/{name}.pki/node.crt"
key = "{run}/{name}.pki/node.key"
[kernel]
bridge = "br-edge"
[fabric]
networks = ["2.0.0.0/8"]
[http]
listen = "127.0.0.1:9815"
[control]
socket = "{run}/{name}.sock"
"""


@dataclass(frozen=True)
class Pod:
    """A pod: a namespace behind a bridge of its node."""

    name: str
    node: str
    address: str
    """With prefix length."""
    gateway: str
    bridge: str

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


UNDERLAY = {
    "node1": "10.20.8.141",
    "node2": "10.20.8.142",
    "edge2": "10.20.8.4",
    "edge3": "10.20.8.12",
}

RECORDS: Mapping[str, Record] = {
    "node1": {"role": "cloud", "endpoint": UNDERLAY["node1"], "subnets": ["10.233.0.0/16"]},
    "edge2": {
        "role": "edge",
        "endpoint": UNDERLAY["edge2"],
        "subnets": ["2.2.2.0/27"],
        "community": "app1",
    },
    "edge3": {
        "role": "edge",
        "endpoint": UNDERLAY["edge3"],
        "subnets": ["2.2.2.32/27"],
        "community": "app1",
    },
}
"""The node records, by node: the nodes that run fabricd."""

POOLS = ("10.233.64.0/18", "2.0.0.0/8")
"""Calico's IPPools: the cluster's pods, and the fabric's networks."""

BLOCKS = {"node1": "10.233.96.0/24", "node2": "10.233.90.0/24"}
"""The cluster's nodes, with what Calico's IPAM gave to each."""

PODS = (
    Pod("pod-node1", "node1", "10.233.96.2/24", "10.233.96.1", "cni0"),
    Pod("pod-node2", "node2", "10.233.90.3/24", "10.233.90.1", "cni0"),
    Pod("pod-edge2", "edge2", "2.2.2.2/27", "2.2.2.1", "br-edge"),
    Pod("pod-edge3", "edge3", "2.2.2.34/27", "2.2.2.33", "br-edge"),
)


def find_pod(text: str) -> Pod:
    for candidate in PODS:
        if text in {candidate.name, candidate.ip}:
            return candidate
    raise LabError(f"{text} is no pod; there are {', '.join(each.name for each in PODS)}")


def communities(record: Record) -> set[str]:
    community = record.get("community", "")
    listed = community.split(";") if isinstance(community, str) else community
    return {token.strip() for token in listed if token.strip()}
