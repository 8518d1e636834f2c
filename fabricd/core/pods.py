"""Pods: from what was attached to the links that should be there.

A pod is attached by name (`daemon.pods`), and stays so until it is detached or its network
namespace is gone. How veth pairs are made is the kernel's side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2s
from ipaddress import ip_network
from typing import Final

from fabricd.core.desired import DesiredState
from fabricd.core.ownership import LINK_ALIAS
from fabricd.core.state import Link, Pod
from fabricd.model import Address, Prefix, first_host

PORT_PREFIX: Final = "pod"


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """What was asked for: this namespace has an interface in the fabric."""

    name: str
    netns: str
    """Path of the network namespace."""
    ifname: str
    addresses: tuple[str, ...]
    """With the prefix lengths of the subnets that they are from."""


@dataclass(frozen=True, slots=True)
class Pods:
    """What is attached to this node."""

    attached: tuple[Attachment, ...] = ()
    leaving: frozenset[str] = frozenset()
    """Names of those that are being detached."""
    all_known: bool = True
    """False: some file about one can't be read."""


NO_PODS: Final = Pods()


def port_name(pod: str) -> str:
    """The name of a pod's end on the bridge: 13 characters, where 15 is the most (IFNAMSIZ)."""
    return PORT_PREFIX + blake2s(pod.encode(), digest_size=5).hexdigest()


def hardware_address(address: str) -> str:
    """The MAC of the interface that has this address: always the same, so that who has spoken to
    its last holder need not learn anew. Locally administered (IEEE 802, 8.4: the second bit).
    """
    octets = bytes([0x0A]) + blake2s(address.encode(), digest_size=5).digest()
    return ":".join(f"{octet:02x}" for octet in octets)


def gateway(address: str) -> Address:
    """Where the holder of an address of a node's subnet finds the way out: the bridge."""
    return first_host(network_of(address))


def network_of(address: str) -> Prefix:
    """The subnet of an address with prefix length."""
    return Prefix(str(ip_network(address, strict=False)))


def pod_of(attachment: Attachment, bridge: str, mtu: int) -> Pod:
    """What the kernel should hold of an attachment."""
    return Pod(
        name=attachment.name,
        netns=attachment.netns,
        ifname=attachment.ifname,
        addresses=attachment.addresses,
        port=port_name(attachment.name),
        bridge=bridge,
        mtu=mtu,
        gateways=tuple(gateway(address) for address in attachment.addresses),
    )


def with_pods(wanted: DesiredState, pods: Pods, bridge: str) -> DesiredState:
    """The desired state with the pods that are attached."""
    if pods == NO_PODS:
        return wanted
    links = {item.name: pod_of(item, bridge, wanted.pod_mtu) for item in pods.attached}
    return replace(
        wanted,
        kernel=replace(wanted.kernel, pods=links),
        kept_ports=not pods.all_known,
        left_ports=frozenset(map(port_name, pods.leaving)),
    )


def asked(pods: Pods, bridge: str) -> dict[str, Pod]:
    """What to look for in the kernel, by name."""
    return {item.name: pod_of(item, bridge, mtu=0) for item in pods.attached}


def is_port(link: Link) -> bool:
    """Whether a link is the end of a pod's pair that we made."""
    return link.kind == "veth" and link.alias == LINK_ALIAS and link.name.startswith(PORT_PREFIX)


def differences(want: Pod, found: Pod | None) -> str:
    """What is wrong with a pod's link, in words."""
    if found is None:
        return "it is missing"
    faults = []
    if found.bridge != want.bridge:
        faults.append(f"it is off the bridge {want.bridge}")
    if not found.up:
        faults.append("it is down")
    if missing := [a for a in want.addresses if a not in found.addresses]:
        faults.append(f"it lacks {', '.join(missing)}")
    if missing_ways := [g for g in want.gateways if g not in found.gateways]:
        faults.append(f"it lacks the default route via {', '.join(missing_ways)}")
    if found.mtu != want.mtu:
        faults.append(f"its MTU is {found.mtu or 'not the same at both ends'}, not {want.mtu}")
    return ", ".join(faults) or "it is another"


def ports(pods: Mapping[str, Pod]) -> frozenset[str]:
    """The names of the ends on the bridge."""
    return frozenset(pod.port for pod in pods.values())
