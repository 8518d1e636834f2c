"""What a fabric consists of: addresses, records, configs, pods. The first proof of concept's, one
with two gateways, and one with an edge behind NAT.

Values only; `lab.fabric` makes them real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Layout:
    """Which nodes and pods there are."""

    underlay: Mapping[str, str]
    """Addresses on the underlay, by node."""
    records: Mapping[str, Record]
    """The node records, by node: the nodes that run fabricd."""
    blocks: Mapping[str, str]
    """The cluster's nodes, with what Calico's IPAM gave to each."""
    pods: tuple[Pod, ...]
    store: str
    """The node of the cluster that holds etcd."""
    behind_nat: Mapping[str, str] = field(default_factory=dict)
    """Edges that have no address on the underlay: that of the router each sits behind."""

    def pod(self, text: str) -> Pod:
        """By name or address; raises LabError."""
        for candidate in self.pods:
            if text in {candidate.name, candidate.ip}:
                return candidate
        raise LabError(f"{text} is no pod; there are {', '.join(each.name for each in self.pods)}")


POOLS = ("10.233.64.0/18", "2.0.0.0/8")
"""Calico's IPPools: the cluster's pods, and the fabric's networks."""

# ---------------------------------------------------------------- the first proof of concept

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

BLOCKS = {"node1": "10.233.96.0/24", "node2": "10.233.90.0/24"}

PODS = (
    Pod("pod-node1", "node1", "10.233.96.2/24", "10.233.96.1", "cni0"),
    Pod("pod-node2", "node2", "10.233.90.3/24", "10.233.90.1", "cni0"),
    Pod("pod-edge2", "edge2", "2.2.2.2/27", "2.2.2.1", "br-edge"),
    Pod("pod-edge3", "edge3", "2.2.2.34/27", "2.2.2.33", "br-edge"),
)

FIRST = Layout(UNDERLAY, RECORDS, BLOCKS, PODS, store="node1")

# ---------------------------------------------------------------- several gateways

_NODE3 = "10.20.8.143"

TWO_GATEWAYS = Layout(
    underlay={**UNDERLAY, "node3": _NODE3},
    records={**RECORDS, "node2": {**RECORDS["node1"], "endpoint": UNDERLAY["node2"]}},
    blocks={**BLOCKS, "node3": "10.233.91.0/24"},
    pods=(*PODS, Pod("pod-node3", "node3", "10.233.91.3/24", "10.233.91.1", "cni0")),
    store="node3",
)
"""node2 is a gateway to the same cluster, and node3 stands for the rest of it. By rendezvous hash
edge2 belongs to node2, and edge3 to node1.
"""

# ---------------------------------------------------------------- nodes that move

MOVING = Layout(
    underlay=UNDERLAY,
    records={
        **RECORDS,
        "node1": {**RECORDS["node1"], "endpoint": "10.20.8.241"},
        "edge4": {"role": "edge", "subnets": ["2.2.2.64/27"], "community": "app1"},
    },
    blocks=BLOCKS,
    pods=(*PODS, Pod("pod-edge4", "edge4", "2.2.2.66/27", "2.2.2.65", "br-edge")),
    store="node2",
    behind_nat={"edge4": "10.20.8.60"},
)
"""edge4 sits behind NAT. node1 has an address for the edges beside the one that its cluster knows,
so that the one can change without the other.
"""


def communities(record: Record) -> set[str]:
    community = record.get("community", "")
    listed = community.split(";") if isinstance(community, str) else community
    return {token.strip() for token in listed if token.strip()}
