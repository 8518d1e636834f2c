"""Pods' veth pairs: what is found of them, and how they are made and put right.

What others do inside a pod's namespace is told by the kernel (`Kernel.watch`), so that not every
look at the node has to enter every namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from fabricd.core.ownership import LINK_ALIAS, ROUTE_PROTOCOL
from fabricd.core.pods import hardware_address, is_port
from fabricd.core.state import IfAddress, Link, Pod
from fabricd.kernel import codec, links, observer, routes
from fabricd.kernel.links import Interface
from fabricd.kernel.netlink import Netlink, Refusal, Request
from fabricd.kernel.netns import Namespace, Opener
from fabricd.kernel.trusted import Trusted
from fabricd.model import family
from fabricd.opener.namespaces import is_gone


@dataclass(frozen=True, slots=True)
class _Inside:
    """A pod's interface, as its namespace shows it."""

    link: Link
    addresses: frozenset[str]
    gateways: frozenset[str]


class PodLinks:
    """The veth pairs of one node."""

    def __init__(
        self,
        netlink: Netlink,
        refresh: Callable[[], Awaitable[Mapping[str, Interface]]],
        opener: Opener,
    ) -> None:
        """`netlink` is the node's own; `refresh` lists its links anew."""
        self._netlink = netlink
        self._opener = opener
        self._refresh = refresh
        self._seen = Trusted[str, tuple[int, _Inside | None]]()
        """By pod: index of its port when its namespace was looked at, and what was seen."""
        self._netns_ids: dict[int, str] = {}
        """Pods by the number that the kernel has for their namespaces."""
        self.told = False
        """The kernel tells of changes in other namespaces."""

    # ------------------------------------------------------------ looking

    async def observe(
        self, wanted: Mapping[str, Pod], interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, Pod], frozenset[str]]:
        """What there is of these pods; and those whose namespaces are gone, ports and all."""
        found: dict[str, Pod] = {}
        departed: set[str] = set()
        names = {interface.index: name for name, interface in interfaces.items()}
        ids: dict[int, str] = {}
        self._seen.keep(wanted.keys())
        for name, pod in wanted.items():
            port = interfaces.get(pod.port)
            if port is None or not is_port(port.link):
                if is_gone(pod.netns):
                    departed.add(name)
                continue
            if port.netns_id is not None:
                ids[port.netns_id] = self._netns_ids[port.netns_id] = name
            inside = await self._look_inside(pod, port)
            if inside is not None:
                found[name] = _as_found(pod, port.link, names.get(port.master, ""), inside)
        self._netns_ids = ids
        return found, frozenset(departed)

    def heard(self, netns_id: int) -> str | None:
        """Something has changed in a namespace: the pod that it is, if it is one of ours."""
        name = self._netns_ids.get(netns_id)
        if name is not None:
            self._seen.doubt(name)
        return name

    def forget(self) -> None:
        """Look into every namespace again: changes may have been missed."""
        self._seen.doubt_all()

    async def _look_inside(self, pod: Pod, port: Interface) -> _Inside | None:
        if not self.told:
            self._seen.doubt(pod.name)
        index, seen = await self._seen.of(pod.name, lambda: self._enter(pod, port))
        if index != port.index:  # another pair by now
            self._seen.doubt(pod.name)
            _, seen = await self._seen.of(pod.name, lambda: self._enter(pod, port))
        return seen

    async def _enter(self, pod: Pod, port: Interface) -> tuple[int, _Inside | None]:
        seen: _Inside | None
        try:
            async with self._opener.entered(pod.netns) as there:
                seen = await _read(there.netlink, pod, port.index)
        except FileNotFoundError:
            # Its name is gone, the pair is not: somebody lives there still, and is left alone.
            link = Link(pod.ifname, "veth", up=True, mtu=port.link.mtu)
            seen = _Inside(link, frozenset(pod.addresses), frozenset(pod.gateways))
        except OSError:
            seen = None  # to put it right will tell why it can't be done
        return port.index, seen

    # ------------------------------------------------------------ putting right

    async def set(self, pod: Pod) -> Refusal | None:
        """Make a pod's pair, or put right what is wrong with it."""
        self._seen.doubt(pod.name)
        refusal: Refusal | None = None
        try:
            # Whoever is cancelled must not leave half of it behind; the kernel is quick.
            with trio.CancelScope(shield=True):
                async with self._opener.entered(pod.netns) as there:
                    refusal = await self._set(pod, there)
        except OSError as error:
            refusal = Refusal(error.errno or errno.EIO, f"{pod.netns}: {error.strerror or error}")
        return refusal

    async def _set(self, pod: Pod, there: Namespace) -> Refusal | None:
        interfaces = await self._refresh()
        bridge = interfaces.get(pod.bridge)
        if bridge is None:
            return Refusal(errno.ENODEV, f"there is no bridge {pod.bridge}")
        port = interfaces.get(pod.port)
        if port is not None and not is_port(port.link):
            return Refusal(errno.EEXIST, f"another link is named {pod.port}: remove or rename that")
        inside = (await observer.read_interfaces(there.netlink)).get(pod.ifname)
        if port is not None and (inside is None or inside.other_end != port.index):
            await self._send(links.remove(port.index))  # its other end is somewhere else
            port = None
        if port is None:
            if inside is not None:
                text = f"the namespace has another interface {pod.ifname}: remove it, or name one"
                return Refusal(errno.EEXIST, text)
            refusal = await self._create(pod, bridge.index, there.descriptor)
        else:
            link = Link(pod.port, "veth", up=True, mtu=pod.mtu)
            refusal = await self._send(links.change(port.index, link, bridge.index))
        if refusal is not None:
            return refusal
        return await _configure(there.netlink, pod)

    async def _create(self, pod: Pod, bridge: int, descriptor: int) -> Refusal | None:
        """Both ends at once, or none: the requests are one datagram, which the kernel works
        through before anybody can end us.
        """
        port = Link(pod.port, "veth", up=True, alias=LINK_ALIAS, mtu=pod.mtu)
        peer = Link(pod.ifname, "veth", up=True, mtu=pod.mtu)
        address = hardware_address(pod.addresses[0])
        made, marked = await self._netlink.send(
            [links.create_pair(port, bridge, peer, descriptor, address), links.finish(port)]
        )
        if made is None and marked is not None:
            await self._send(links.discard(pod.port))
        return made or marked

    async def _send(self, request: Request) -> Refusal | None:
        (refusal,) = await self._netlink.send([request])
        return refusal


def _as_found(want: Pod, port: Link, master: str, inside: _Inside) -> Pod:
    return Pod(
        name=want.name,
        netns=want.netns,
        ifname=want.ifname,
        addresses=tuple(a for a in want.addresses if a in inside.addresses),
        port=want.port,
        bridge=master,
        mtu=port.mtu if port.mtu == inside.link.mtu else 0,
        gateways=tuple(g for g in want.gateways if g in inside.gateways),
        up=port.up and inside.link.up,
    )


async def _read(netlink: Netlink, pod: Pod, port: int) -> _Inside | None:
    """None: the pod's interface is not the other end of this port."""
    interface = (await observer.read_interfaces(netlink)).get(pod.ifname)
    if interface is None or interface.other_end != port:
        return None
    names = {interface.index: pod.ifname}
    addresses = await observer.read_addresses(netlink, names)
    gateways: set[str] = set()
    for number in {family(text) for text in pod.addresses}:
        for data in await netlink.dump(routes.dump_all(codec.FAMILIES[number])):
            gateway = routes.default_gateway(data, interface.index)
            if gateway is not None:
                gateways.add(gateway)
    found = frozenset(item.address for item in addresses)
    return _Inside(interface.link, found, frozenset(gateways))


async def _configure(netlink: Netlink, pod: Pod) -> Refusal | None:
    """What is inside the namespace: link, addresses, default routes."""
    interface = (await observer.read_interfaces(netlink)).get(pod.ifname)
    if interface is None:
        return Refusal(errno.ENODEV, f"{pod.ifname} has left {pod.netns} again")
    link = Link(pod.ifname, "veth", up=True, mtu=pod.mtu)
    addresses = [
        codec.add_address(IfAddress(pod.ifname, text, ROUTE_PROTOCOL), interface.index)
        for text in pod.addresses
    ]
    ways = [routes.add_default(gateway, interface.index) for gateway in pod.gateways]
    up, *answers = await netlink.send([links.change(interface.index, link), *addresses, *ways])
    there = answers[: len(addresses)]
    refused = [up, *(r for r in there if r is not None and r.code != errno.EEXIST)]
    if any(r is not None and r.code == errno.EEXIST for r in answers[len(addresses) :]):
        seen = await _read(netlink, pod, interface.other_end)
        if seen is None or not seen.gateways.issuperset(pod.gateways):
            text = f"{pod.netns} has another default route already: remove that"
            refused.append(Refusal(errno.EEXIST, text))
    else:
        refused += answers[len(addresses) :]
    return next((refusal for refusal in refused if refusal is not None), None)
