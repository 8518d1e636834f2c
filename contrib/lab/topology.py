"""What a fabric consists of: addresses, records, configs, pods. The first proof of concept's, some
with two gateways, one with several subnets, and one with an edge behind NAT.

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
networks = {networks}
[http]
listen = "127.0.0.1:9815"
[control]
socket = "{run}/{name}.sock"
[cni]
data_dir = "{run}/{name}.leases"
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
    second: Mapping[str, str] = field(default_factory=dict)
    """Nodes' addresses on the underlay beside their first, of the other family."""
    networks: tuple[str, ...] = ("2.0.0.0/8",)
    """The edges' pods live in these."""

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

_MANY = {f"edge{number}": number for number in range(2, 8)}

MANY_EDGES = Layout(
    underlay={
        **{name: address for name, address in TWO_GATEWAYS.underlay.items() if "node" in name},
        **{name: f"10.20.8.{number}" for name, number in _MANY.items()},
    },
    records={
        "node1": {**TWO_GATEWAYS.records["node1"], "priority": 200},
        "node2": TWO_GATEWAYS.records["node2"],
        **{
            name: {
                "role": "edge",
                "endpoint": f"10.20.8.{number}",
                "subnets": [f"2.2.{number}.0/27"],
            }
            for name, number in _MANY.items()
        },
    },
    blocks=TWO_GATEWAYS.blocks,
    pods=tuple(
        Pod(f"pod-{name}", name, f"2.2.{number}.2/27", f"2.2.{number}.1", "br-edge")
        for name, number in _MANY.items()
    )
    + tuple(pod for pod in TWO_GATEWAYS.pods if pod.bridge == "cni0"),
    store="node3",
)
"""The same with more edges, which have nothing to do with one another and belong to node1."""

SUBNETS = Layout(
    underlay=UNDERLAY,
    records={**RECORDS, "node1": {**RECORDS["node1"], "subnets": ["10.233.0.0/18", POOLS[0]]}},
    blocks=BLOCKS,
    pods=PODS,
    store="node2",
)
"""node1 leads to two subnets: the cluster's services and its pods."""

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


# ---------------------------------------------------------------- pods that come and go

ATTACHED = Layout(
    underlay=UNDERLAY,
    records={
        **RECORDS,
        "edge2": {**RECORDS["edge2"], "subnets": ["2.2.4.0/24"]},
        "edge3": {**RECORDS["edge3"], "subnets": ["2.2.5.0/24"]},
    },
    blocks=BLOCKS,
    pods=PODS[:2],
    store="node1",
)
"""The edges have room for hundreds of pods, and none yet: fabricd attaches them."""


# ---------------------------------------------------------------- IPv6

_SIX = {name: f"fd00:20:8::{address.rpartition('.')[2]}" for name, address in UNDERLAY.items()}

IPV6_ALONE = Layout(
    underlay={name: _SIX[name] for name in ("node1", "edge2", "edge3")},
    records={
        "node1": {"role": "cloud", "endpoint": _SIX["node1"], "subnets": ["fd00:c::/48"]},
        "edge2": {
            "role": "edge",
            "endpoint": _SIX["edge2"],
            "subnets": ["fd00:2:0:1::/64"],
            "community": "app1",
        },
        "edge3": {
            "role": "edge",
            "endpoint": _SIX["edge3"],
            "subnets": ["fd00:2:0:2::/64"],
            "community": "app1",
        },
    },
    blocks={},
    pods=(),
    store="node1",
    networks=("fd00:2::/32",),
)
"""Nobody has an IPv4 address."""

BOTH_FAMILIES = Layout(
    underlay={
        **{name: UNDERLAY[name] for name in ("node1", "edge2", "edge3")},
        "edge4": "10.20.8.13",
    },
    second={"edge2": _SIX["edge2"], "edge4": "fd00:20:8::13"},
    records={
        "node1": {
            "role": "cloud",
            "endpoint": UNDERLAY["node1"],
            "subnets": ["10.233.0.0/16", "fd00:c::/48"],
        },
        "edge2": {
            "role": "edge",
            "endpoint": UNDERLAY["edge2"],
            "subnets": ["2.2.4.0/24", "fd00:2:0:1::/64"],
            "community": "app1;app2",
        },
        "edge3": {
            "role": "edge",
            "endpoint": UNDERLAY["edge3"],
            "subnets": ["2.2.5.0/24"],
            "community": "app1",
        },
        "edge4": {
            "role": "edge",
            "endpoint": "fd00:20:8::13",
            "subnets": ["2.2.6.0/24", "fd00:2:0:3::/64"],
            "community": "app2",
        },
    },
    blocks={},
    pods=(),
    store="node1",
    networks=("2.0.0.0/8", "fd00:2::/32"),
)
"""edge3 has IPv4 alone, the others both. edge2 reaches edge4 by IPv6, all else goes by IPv4: the
family outside says nothing of the one inside.
"""


def communities(record: Record) -> set[str]:
    community = record.get("community", "")
    listed = community.split(";") if isinstance(community, str) else community
    return {token.strip() for token in listed if token.strip()}
