"""Actions on the kernel, carried out in order; each has its own outcome.

Decides nothing: what to do, and in which order, is `core.plan`'s. But whatever the plan says,
an object that does not carry our mark is neither changed nor removed here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Final

import trio

from fabricd.core.action import Action, Kind, Outcome
from fabricd.core.ownership import owns_address
from fabricd.core.state import (
    Filter,
    IfAddress,
    KernelState,
    Link,
    Pod,
    Route,
    RouteKey,
    RouteKind,
    Rule,
    Sysctl,
)
from fabricd.kernel import codec, links, observer, routes
from fabricd.kernel.links import Interface
from fabricd.kernel.netlink import Netlink, Refusal, Request, errno_name
from fabricd.kernel.netns import Opener
from fabricd.kernel.nft import Nftables
from fabricd.kernel.observer import OurRoutes
from fabricd.kernel.pods import PodLinks

_HINTS: Final = {
    errno.EPERM: "fabricd needs CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "is it switched off, or /proc/sys read-only? See net/ipv6/conf/*/disable_ipv6",
    errno.EOPNOTSUPP: "this kernel lacks the feature; load or enable its module",
    errno.EAFNOSUPPORT: "this kernel lacks the address family or policy routing",
    errno.ENETDOWN: "the link is down; set it up first",
    errno.ENODEV: "make it, or correct its name in the configuration",
    errno.ENOENT: "this kernel has no such switch; load the module that brings it",
    errno.ENOSPC: "a table is full; see net/ipv6/route/max_size",
}

_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})
"""What the kernel answers when there is nothing (any more) to remove."""


class Effector:
    """Carries out actions over one command socket."""

    def __init__(self, netlink: Netlink, opener: Opener) -> None:
        self._netlink = netlink
        self.pods = PodLinks(netlink, self.refresh, opener)
        self.nftables = Nftables()
        self.routes = OurRoutes(netlink)
        self._interfaces: Mapping[str, Interface] = {}
        """Links by name, as they were last seen."""

    async def refresh(self) -> Mapping[str, Interface]:
        """Look at the links again."""
        self._interfaces = await observer.read_interfaces(self._netlink)
        return self._interfaces

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        """As `Kernel.apply` says."""
        outcomes: list[Outcome] = []
        for kind, group in groupby(actions, key=lambda action: action.kind):
            run = list(group)
            match kind:
                case Kind.ROUTE_SET:
                    refusals = await self._set_routes([_route(action) for action in run])
                case Kind.ROUTE_REMOVE:
                    removals = [routes.remove(_route(action)) for action in run]
                    refusals = [_unless_gone(r) for r in await self._netlink.send(removals)]
                case _:
                    refusals = [await self._apply_one(action) for action in run]
            outcomes += map(_outcome, run, refusals)
        return outcomes

    async def _apply_one(self, action: Action) -> Refusal | None:
        match action.kind, action.item:
            case Kind.SYSCTL_SET, Sysctl() as sysctl:
                return _set_sysctl(sysctl)
            case Kind.LINK_ADD, Link() as link:
                return await self._add_link(link)
            case Kind.LINK_SET, Link() as link:
                return await self._on_link(link.name, lambda i: links.change(i, link))
            case Kind.LINK_REMOVE, Link() as link:
                return await self._remove_link(link)
            case Kind.POD_SET, Pod() as pod:
                return await self.pods.set(pod)
            case Kind.FILTER_SET, Filter() as wanted:
                return await self.nftables.load(wanted)
            case Kind.FILTER_REMOVE, Filter():
                return await self.nftables.remove()
            case Kind.ADDRESS_ADD, IfAddress() as address:
                return await self._add_address(address)
            case Kind.ADDRESS_REMOVE, IfAddress() as address:
                return _unless_gone(
                    await self._on_link(address.link, lambda i: codec.remove_address(address, i))
                )
            case Kind.RULE_ADD, Rule() as rule:
                return await self._add_rule(rule)
            case Kind.RULE_REMOVE, Rule() as rule:
                return _unless_gone(await self._send(codec.remove_rule(rule)))
            case _:
                raise ValueError(f"not an action on the kernel: {action}")

    # ------------------------------------------------------------ links

    async def _add_link(self, link: Link) -> Refusal | None:
        # Whoever is cancelled must not leave a link without its mark behind. Every exchange has
        # its own deadline, so the shield cannot hold for long.
        with trio.CancelScope(shield=True):
            refusal = await self._create_link(link)
        if refusal is not None and refusal.code == errno.EEXIST:
            return await self._accept_link(link)
        await self.refresh()
        return refusal

    async def _create_link(self, link: Link) -> Refusal | None:
        """Create a link with its alias, or none at all."""
        refusal = await self._send(links.create(link))
        if refusal is not None:
            return refusal
        finished = False
        try:
            refusal = await self._send(links.finish(link))
            finished = refusal is None
        finally:
            if not finished:
                await self._send(links.discard(link.name))
        return refusal

    async def _accept_link(self, link: Link) -> Refusal | None:
        """There is a link of this name: all is well if it is the one that we would make."""
        there = (await self.refresh()).get(link.name)
        if there is None:
            return Refusal(errno.EAGAIN, "a link of this name was there and is gone again")
        if (there.link.kind, there.link.alias) != (link.kind, link.alias):
            return Refusal(
                errno.EEXIST,
                f"another {there.link.kind or 'physical'} link has this name and does not carry "
                f"the alias {link.alias}: remove or rename it, or configure another name",
            )
        return await self._send(links.change(there.index, link))

    async def _remove_link(self, link: Link) -> Refusal | None:
        there = (await self.refresh()).get(link.name)
        if there is None or (there.link.kind, there.link.alias) != (link.kind, link.alias):
            return None  # gone; another may have taken the name since
        return _unless_gone(await self._send(links.remove(there.index)))

    async def _on_link(self, name: str, request: Callable[[int], Request]) -> Refusal | None:
        index = await self._index(name)
        return _no_link(name) if index is None else await self._send(request(index))

    async def _index(self, name: str) -> int | None:
        there = self._interfaces.get(name) or (await self.refresh()).get(name)
        return None if there is None else there.index

    # ------------------------------------------------------------ addresses and rules

    async def _add_address(self, item: IfAddress) -> Refusal | None:
        index = await self._index(item.link)
        if index is None:
            return _no_link(item.link)
        refusal = await self._send(codec.add_address(item, index))
        if refusal is None or refusal.code != errno.EEXIST:
            return refusal
        interfaces = await self.refresh()
        names = observer.names_by_index(interfaces)
        there = {
            (found.link, found.address): found
            for found in await observer.read_addresses(self._netlink, names)
        }.get((item.link, item.address))
        if there == item:
            return None
        links = {name: interface.link for name, interface in interfaces.items()}
        if there is None or not owns_address(KernelState(links=links), there):
            return Refusal(errno.EEXIST, "another program put it there: remove it")
        return await self._send(codec.add_address(item, index, replace=True))

    async def _add_rule(self, rule: Rule) -> Refusal | None:
        """Add a rule; those of ours at the same place that somebody has changed go first, for the
        kernel refuses a rule while one with more selectors stands there.
        """
        for other in await observer.read_rules(self._netlink):
            same_place = (other.family, other.priority) == (rule.family, rule.priority)
            if same_place and other != rule:
                await self._send(codec.remove_rule(other))
        refusal = await self._send(codec.add_rule(rule))
        if refusal is not None and refusal.code == errno.EEXIST:
            return None if rule in await observer.read_rules(self._netlink) else refusal
        return refusal

    # ------------------------------------------------------------ routes

    async def _set_routes(self, wanted: Sequence[Route]) -> list[Refusal | None]:
        """Create them all; where there is a route of that key already, replace it if it is ours.

        The kernel replaces whatever has the key, whoever put it there. So that is asked of it only
        for what was seen to be ours just now; anything else it is asked to create, and if it
        refuses that, there is another look.
        """
        names = {route.link for route in wanted if route.link}
        indexes = {name: await self._index(name) for name in sorted(names)}
        links = [indexes[route.link] if route.link else None for route in wanted]
        refusals = [
            _no_link(route.link) if route.kind is RouteKind.UNICAST and link is None else None
            for route, link in zip(wanted, links, strict=True)
        ]
        possible = [i for i, refusal in enumerate(refusals) if refusal is None]
        ours: Collection[RouteKey] = ()
        if any(wanted[i].key in self.routes.last for i in possible):
            ours = await self.routes.read(self._interfaces)
        await self._send_routes(
            [
                (i, (routes.replace if wanted[i].key in ours else routes.add)(wanted[i], links[i]))
                for i in possible
            ],
            refusals,
        )
        taken = [
            i for i, refusal in enumerate(refusals) if refusal and refusal.code == errno.EEXIST
        ]
        if taken:
            ours = await self.routes.read(self._interfaces)
            replaceable = []
            for i in taken:
                route = wanted[i]
                if route.key in ours:
                    replaceable.append((i, routes.replace(route, links[i])))
                else:
                    refusals[i] = Refusal(
                        errno.EEXIST, "another program has a route to the same prefix: remove it"
                    )
            await self._send_routes(replaceable, refusals)
        return refusals

    async def _send_routes(
        self, requests: Sequence[tuple[int, Request]], refusals: list[Refusal | None]
    ) -> None:
        """Send requests, each with its position in `refusals`, and note there what came of them."""
        answers = await self._netlink.send([request for _, request in requests])
        for (position, _), answer in zip(requests, answers, strict=True):
            refusals[position] = answer

    async def _send(self, request: Request) -> Refusal | None:
        (refusal,) = await self._netlink.send([request])
        return refusal


def _route(action: Action) -> Route:
    assert isinstance(action.item, Route)
    return action.item


def _set_sysctl(sysctl: Sysctl) -> Refusal | None:
    try:
        (observer.PROC_SYS / sysctl.name).write_text(sysctl.value)
    except OSError as error:
        return Refusal(error.errno or errno.EIO)
    return None


def _no_link(name: str | None) -> Refusal:
    return Refusal(errno.ENODEV, f"there is no link {name}" if name else "it names no link")


def _unless_gone(refusal: Refusal | None) -> Refusal | None:
    return None if refusal is not None and refusal.code in _GONE else refusal


def _outcome(action: Action, refusal: Refusal | None) -> Outcome:
    if refusal is None:
        return Outcome(action)
    why = f"{errno_name(refusal.code)} ({refusal.message or os.strerror(refusal.code)})"
    text = f"{action.kind} {action.target}: {why}"
    hint = _HINTS.get(refusal.code)
    return Outcome(action, f"{text}: {hint}" if hint else text)
