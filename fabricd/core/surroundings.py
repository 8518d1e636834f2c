"""What the desired state depends on beside the records: facts about the node and its credentials.

Read off observed states here, so that `core.desired` stays a function of values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Final

from fabricd.core.ownership import DEAD_END, owns_address, owns_link
from fabricd.model import Address, Prefix, address

if TYPE_CHECKING:  # a config file is read without the whole of it
    from fabricd.core.state import KernelState

USERSPACE_LINK: Final = "ipsec0"
"""The tun device of strongSwan's `kernel-libipsec` plugin (kernel_libipsec_router.c)."""

USERSPACE_MTU: Final = 1400
"""Octets: what it has unless told otherwise (TUN_DEFAULT_MTU, libstrongswan tun_device.c)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node proves itself with, as far as the desired state depends on it."""

    authorities: frozenset[str]
    """Names of the CA certificates that charon has to trust."""
    key: str
    """Identifier of the private key."""
    digest: str
    """Changes with the certificate, the CA set, and the template of a connection."""
    crls: tuple[tuple[str, int], ...] = ()
    """Revocation lists that charon has to know: issuer and number, sorted."""
    retired: frozenset[str] = frozenset()
    """Private keys that were loaded for earlier certificates and serve no more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the node that are not in any record."""

    name: str
    """This node's."""
    networks: tuple[Prefix, ...]
    """All edge pods live in these."""
    bridge: str
    """Name of the pods' bridge on an edge."""
    tunnel_link: str | None = DEAD_END
    """Where routes to peers lead: the dead end with the kernel's ESP, charon's tun device else.
    None: neither can be had."""
    local_addresses: tuple[Address, ...] = ()
    """The node's own addresses: a gateway takes the source of its routes from among them."""
    identity: Identity | None = None
    """None: credentials can't be used, so charon is left as it is."""
    outside: tuple[Prefix, ...] = ()
    """What is reached outside the tunnels whatever a record says: the networks that the node is
    connected to, and its store."""
    underlays: tuple[tuple[Address, int], ...] = ()
    """Addresses of links that lead out of the node, each with its link's MTU."""
    userspace_mtu: int = 0
    """The MTU of charon's tun device, where packets go through it."""
    mtu: int | None = None
    """Of pods, if that is told."""
    masquerade: bool = True
    """Pods' traffic that leaves the fabric takes this node's address."""
    hour: int = 0
    """Hours since the epoch: what is due by the clock depends on it."""
    unfit: tuple[tuple[str, int], ...] = ()
    """Gateways that this edge finds less fit than others, and how much (`core.fitness`)."""
    doubted: tuple[tuple[str, str], ...] = ()
    """Peers whose certificates did not cover what their records claim: perhaps they have others by
    now. Each with a text that changes when it is time to ask anew."""


def local_addresses(state: KernelState) -> tuple[Address, ...]:
    """The node's addresses, without prefix lengths, sorted. Not those that we have put there:
    a route that takes one as its source goes with it.
    """
    return tuple(
        sorted(
            address(item.address.partition("/")[0])
            for item in state.addresses.values()
            if not owns_address(state, item)
        )
    )


def connected(state: KernelState, bridge: str) -> tuple[Prefix, ...]:
    """The networks that the node is connected to by links and addresses that are not ours, but for
    the pods' bridge, whoever made it.
    """
    found = {
        ip_interface(item.address).network
        for item in state.addresses.values()
        if item.link not in {"lo", bridge} and not owns_address(state, item)
    }
    return tuple(
        sorted(
            Prefix(str(net))
            for net in found
            # An address alone is no network: the local table has it, and kube-proxy has thousands.
            if not net.is_link_local and net.prefixlen < net.max_prefixlen
        )
    )


def seen_in(around: Surroundings, kernel: KernelState, userspace_esp: bool | None) -> Surroundings:
    """`around` with what the kernel shows; `userspace_esp`: as for `tunnel_link`."""
    link = tunnel_link(kernel, userspace_esp)
    return replace(
        around,
        tunnel_link=link,
        local_addresses=local_addresses(kernel),
        outside=tuple(sorted({*around.outside, *connected(kernel, around.bridge)})),
        underlays=underlays(kernel, around.bridge),
        userspace_mtu=_userspace_mtu(kernel, link, userspace_esp),
    )


def _userspace_mtu(kernel: KernelState, link: str | None, userspace_esp: bool | None) -> int:
    """Kept while charon, and its device with it, is away: pods' MTU must not come and go."""
    if link == USERSPACE_LINK:
        return kernel.links[link].mtu
    return USERSPACE_MTU if userspace_esp else 0


def underlays(state: KernelState, bridge: str) -> tuple[tuple[Address, int], ...]:
    """Addresses of the links that lead out of the node, each with its link's MTU."""
    found = []
    for item in state.addresses.values():
        link = state.links.get(item.link)
        if link is None or not link.up or not link.mtu or owns_link(link):
            continue
        if link.name not in {"lo", bridge, USERSPACE_LINK} and not item.address.startswith("fe80:"):
            found.append((address(item.address.partition("/")[0]), link.mtu))
    return tuple(sorted(found))


def tunnel_link(state: KernelState, userspace_esp: bool | None) -> str | None:
    """Where the routes to peers have to lead; None when another link has the dead end's name,
    out of which clear text could go anywhere.

    charon's `kernel-libipsec` decrypts and encrypts between sockets and a tun device that it
    makes itself; without that device, or with the kernel's own ESP, they lead to the dead end.
    `userspace_esp` is None as long as charon has not been asked: then the device tells.
    """
    device = state.links.get(USERSPACE_LINK)
    if userspace_esp is not False and device is not None and device.kind == "tun":
        return USERSPACE_LINK
    dead_end = state.links.get(DEAD_END)
    return DEAD_END if dead_end is None or owns_link(dead_end) else None
