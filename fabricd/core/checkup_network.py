"""A machine's kernel and network, judged: what the kernel can, and what is in the fabric's way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Final

from fabricd.core.hop import Hop
from fabricd.core.machine import Machine
from fabricd.core.ownership import owns_address
from fabricd.core.surroundings import USERSPACE_LINK
from fabricd.model import family, network

LEAST_MTU: Final = 1364
"""IPv6's least MTU, 1280 (RFC 8200, 5), with ESP in tunnel mode (RFC 4303; AES-GCM, RFC 4106), in
UDP (RFC 3948) over IPv6."""

MARKS_SINCE: Final = (5, 18)
"""IFA_PROTO, by which fabricd knows its addresses."""

NEEDED: Final = {
    "bridge": ("pods are connected to one", "modprobe bridge"),
    "policy routing": ("the fabric's routes stand in a table of their own", "another kernel"),
}
"""What nothing goes without: what for, and what helps."""

WANTED: Final = {
    "nftables": ("fabricd can't masquerade", "apt install nftables; modprobe nf_tables"),
}
"""What most goes without."""


def kernel_rows(machine: Machine) -> Iterator[Hop]:
    """What it is, and what was tried. ESP is charon's affair as well: `core.checkup_charon`."""
    yield _kernel(machine.release)
    if machine.trials_fault:
        yield Hop.unknown("features", f"can't be tried: {machine.trials_fault}", "run this as root")
        return
    for name, (purpose, helps) in {**NEEDED, **WANTED}.items():
        refused = machine.trials.get(name, "")
        if not refused:
            yield Hop.ok(name, "works")
        else:
            judge = Hop.broken if name in NEEDED else Hop.warn
            yield judge(name, f"{refused}: {purpose}", helps)


def _kernel(release: str) -> Hop:
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers >= MARKS_SINCE:
        return Hop.ok("kernel", f"Linux {release}")
    return Hop.warn(
        "kernel",
        f"Linux {release} keeps no protocol with an address: on a bridge that somebody else made, "
        "fabricd's addresses look like anybody's",
        f"Linux {'.'.join(map(str, MARKS_SINCE))} or later",
    )


def network_rows(machine: Machine) -> Iterator[Hop]:
    """Addresses, switches, MTU."""
    yield _networks(machine)
    yield _forwarding(machine)
    yield _reverse_path(machine)
    yield _mtu(machine)


def _networks(machine: Machine) -> Hop:
    """What a node is connected to does not go into a tunnel, whatever the records say."""
    kernel, overlaps = machine.kernel, []
    if kernel is None:
        return Hop.unknown("networks", f"the kernel was not asked: {machine.kernel_fault}")
    own = [network(subnet) for subnet in (machine.record.subnets if machine.record else ())]
    for item in kernel.addresses.values():
        net = ip_interface(item.address).network
        if item.link in {"lo", machine.bridge, USERSPACE_LINK} or owns_address(kernel, item):
            continue
        if any(net.prefixlen >= mine.prefixlen and net.overlaps(mine) for mine in own):
            continue  # where a gateway's own pods are
        overlaps += [
            f"{item.link} has {item.address}, in {fabric}"
            for fabric in machine.networks
            if family(fabric) == net.version and network(fabric).overlaps(net)
        ]
    if overlaps:
        return Hop.broken(
            "networks",
            f"{'; '.join(overlaps)}: nothing there goes into a tunnel",
            "choose other networks for the fabric, [fabric] networks",
        )
    return Hop.ok("networks", f"no link of this node's is in {', '.join(machine.networks)}")


def _forwarding(machine: Machine) -> Hop:
    name, switch = "forwarding", "net.ipv4.ip_forward"
    if machine.switches.get("net/ipv4/ip_forward") == "1":
        return Hop.ok(name, f"{switch} = 1")
    if machine.writable:
        return Hop.ok(name, f"{switch} = 0: fabricd switches it on")
    return Hop.broken(
        name,
        f"{switch} = 0, and /proc/sys can't be written here",
        f"sysctl -w {switch}=1, on the node itself if this is a container",
    )


def _reverse_path(machine: Machine) -> Hop:
    name = "rp_filter"
    strict = [
        link
        for link in sorted({*machine.links_out, machine.bridge})
        # The higher of the two counts (ip-sysctl.rst).
        if max(machine.switches.get(f"net/ipv4/conf/{of}/{name}", "0") for of in ("all", link))
        == "1"
    ]
    if not strict:
        return Hop.ok(name, "not strict")
    return Hop.warn(
        name,
        f"strict on {', '.join(strict)}: what comes in by another link than its answer would take "
        "is dropped without a word",
        f"sysctl -w net.ipv4.conf.all.{name}=2, where a node has several ways out",
    )


def _mtu(machine: Machine) -> Hop:
    if not machine.links_out:
        return Hop.unknown("MTU", "no way to another node is known", "ip route")
    said = ", ".join(f"{link} {mtu}" for link, mtu in sorted(machine.links_out.items()))
    if min(machine.links_out.values()) >= LEAST_MTU:
        return Hop.ok("MTU", said)
    return Hop.warn(
        "MTU",
        f"{said}: a packet of 1280 octets, IPv6's least, does not fit into a tunnel there",
        f"{LEAST_MTU} or more on the underlay",
    )
