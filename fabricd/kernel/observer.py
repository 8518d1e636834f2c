"""What the kernel holds, by full dumps: never by what was put there.

Reads only. What should be there is nobody's business here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import MappingProxyType
from typing import Final

from fabricd.core.state import IfAddress, KernelState, Link, Route, Rule, Sysctl
from fabricd.kernel import codec, routes
from fabricd.kernel.netlink import Netlink

PROC_SYS: Final = Path("/proc/sys")
"""proc_sys(5). Its `net` is that of the calling thread's network namespace."""

_FAMILIES: Final = (AF_INET, AF_INET6)


@dataclass(frozen=True, slots=True)
class Interface:
    """A link, and the number by which the kernel calls it."""

    index: int
    link: Link


async def read_state(
    netlink: Netlink, interfaces: Mapping[str, Interface], sysctls: Sequence[str]
) -> KernelState:
    """Everything in `core.state.KernelState`, the links among it taken from `interfaces`."""
    names = {interface.index: name for name, interface in interfaces.items()}
    return KernelState(
        links=MappingProxyType({name: interface.link for name, interface in interfaces.items()}),
        addresses=MappingProxyType(
            {(item.link, item.address): item for item in await read_addresses(netlink, names)}
        ),
        routes=MappingProxyType({route.key: route for route in await read_routes(netlink, names)}),
        rules=MappingProxyType(
            {(rule.family, rule.priority): rule for rule in await read_rules(netlink)}
        ),
        sysctls=MappingProxyType(read_sysctls(sysctls)),
    )


async def read_interfaces(netlink: Netlink) -> dict[str, Interface]:
    """All links, by name."""
    decoded = [codec.decode_link(data) for data in await netlink.dump(codec.dump_links())]
    return {item[1].name: Interface(*item) for item in decoded if item is not None}


async def read_addresses(netlink: Netlink, names: Mapping[int, str]) -> list[IfAddress]:
    """All addresses on the links named."""
    found = []
    for family in _FAMILIES:
        for data in await netlink.dump(codec.dump_addresses(family)):
            index, address, protocol = codec.decode_address(data)
            if index in names:  # else its link came after the dump of links: an event will tell
                found.append(IfAddress(names[index], address, protocol))
    return found


async def read_routes(netlink: Netlink, names: Mapping[int, str]) -> list[Route]:
    """Our routes, of all tables."""
    found: list[Route] = []
    for family in _FAMILIES:
        dumped = await netlink.dump(routes.dump(family))
        found += [routes.decode(data, names) for data in dumped if routes.is_ours(data)]
    return found


async def read_rules(netlink: Netlink) -> list[Rule]:
    """Our rules."""
    found = []
    for family in _FAMILIES:
        for data in await netlink.dump(codec.dump_rules(family)):
            rule = codec.decode_rule(data)
            if rule is not None:
                found.append(rule)
    return found


def read_sysctls(names: Sequence[str]) -> dict[str, Sysctl]:
    """The switches that can be read, by name; columns are parted by one space."""
    found = {}
    for name in names:
        try:
            text = (PROC_SYS / name).read_text()
        except OSError:  # not in this kernel: setting it will say so
            continue
        found[name] = Sysctl(name, " ".join(text.split()))
    return found
