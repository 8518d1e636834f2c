"""What the kernel holds, by full dumps: never by what was put there.

Reads only. What should be there is nobody's business here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fabricd.core.state import IfAddress, KernelState, Route, RouteKey, Rule, Sysctl
from fabricd.kernel import codec, links, routes
from fabricd.kernel.links import Interface
from fabricd.kernel.netlink import HEADER, Netlink
from fabricd.kernel.reading import read_each
from fabricd.model import Prefix

PROC_SYS: Final = Path("/proc/sys")
"""proc_sys(5). Its `net` is that of the calling thread's network namespace."""


class OurRoutes:
    """Our routes, of all tables, read again and again.

    Of a route that stays as it is the kernel says the same bytes in every dump, and there are
    thousands: what was read of them is kept until the next look.
    """

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._names: Mapping[int, str] = {}
        self._known: dict[bytes, Route] = {}
        """What was seen last, by what the kernel says of it."""
        self.last: Mapping[RouteKey, Route] = {}
        """What was seen last."""

    async def read(self, interfaces: Mapping[str, Interface]) -> Mapping[RouteKey, Route]:
        """All that there are now; `interfaces` gives the links' names."""
        names = names_by_index(interfaces)
        known = self._known if names == self._names else {}
        said: dict[bytes, Route] = {}

        def decode(data: bytes) -> Route:
            body = data[HEADER.size :]  # before it is a number of the dump's own
            route = said[body] = known.get(body) or routes.decode(data, names)
            return route

        found: list[Route] = []
        for family in codec.FAMILIES.values():
            dumped = await self._netlink.dump(routes.dump(family))
            found += read_each(decode, filter(routes.is_ours, dumped))
        self._names, self._known = names, said
        self.last = MappingProxyType({route.key: route for route in found})
        return self.last


def names_by_index(interfaces: Mapping[str, Interface]) -> dict[int, str]:
    """The links' names, by their numbers."""
    return {interface.index: name for name, interface in interfaces.items()}


async def read_state(
    netlink: Netlink,
    ours: OurRoutes,
    interfaces: Mapping[str, Interface],
    sysctls: Sequence[str],
) -> KernelState:
    """Everything in `core.state.KernelState`, the links among it taken from `interfaces`."""
    names = names_by_index(interfaces)
    return KernelState(
        links=MappingProxyType({name: interface.link for name, interface in interfaces.items()}),
        addresses=MappingProxyType(
            {(item.link, item.address): item for item in await read_addresses(netlink, names)}
        ),
        routes=await ours.read(interfaces),
        learned=await read_learned(netlink),
        rules=MappingProxyType(
            {(rule.family, rule.priority): rule for rule in await read_rules(netlink)}
        ),
        sysctls=MappingProxyType(read_sysctls(sysctls)),
    )


async def read_interfaces(netlink: Netlink) -> dict[str, Interface]:
    """All links, by name."""
    decoded = read_each(links.decode, await netlink.dump(links.dump()))
    return {item.link.name: item for item in decoded if item is not None}


async def read_addresses(netlink: Netlink, names: Mapping[int, str]) -> list[IfAddress]:
    """All addresses on the links named."""
    found = []
    for family in codec.FAMILIES.values():
        dumped = await netlink.dump(codec.dump_addresses(family))
        for index, address, protocol in read_each(codec.decode_address, dumped):
            if index in names:  # else its link came after the dump of links: an event will tell
                found.append(IfAddress(names[index], address, protocol))
    return found


async def read_learned(netlink: Netlink) -> frozenset[Prefix]:
    """Where BIRD's unicast routes in the main table lead."""
    found: set[Prefix] = set()
    for family in codec.FAMILIES.values():
        dumped = await netlink.dump(routes.dump_learned(family))
        found.update(read_each(routes.destination, filter(routes.is_learned, dumped)))
    return frozenset(found)


async def read_rules(netlink: Netlink) -> list[Rule]:
    """Our rules."""
    found: list[Rule] = []
    for family in codec.FAMILIES.values():
        dumped = await netlink.dump(codec.dump_rules(family))
        found += filter(None, read_each(codec.decode_rule, dumped))
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
