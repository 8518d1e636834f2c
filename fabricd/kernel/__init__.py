"""The kernel's side of a node: links, addresses, routes, rules and sysctls over rtnetlink, pods'
ends of links in their own network namespaces, and a table of nftables.

Carries out what it is told and reports what is there. Knows neither records nor tunnels.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Final, NoReturn, Self

import trio

from fabricd.core.action import Action, Kind, Outcome
from fabricd.core.ownership import TABLE_NAME
from fabricd.core.state import Filter, KernelState, Pod
from fabricd.errors import Unavailable
from fabricd.kernel import observer, watcher
from fabricd.kernel.effector import Effector
from fabricd.kernel.netlink import Netlink
from fabricd.kernel.netns import Opener
from fabricd.kernel.trusted import Trusted

__all__ = ["Kernel"]

HELPER: Final = "/run/fabricd-netns.sock"

_EVENT_BUFFER: Final = 8 << 20
"""Octets: some ten thousand notifications."""


class Kernel:
    """The kernel, in the network namespace of the thread that enters the context.

    One context is one command socket and two for events. Every method raises
    Unavailable("kernel", reason) when the kernel does not answer.
    """

    def __init__(
        self, sysctls: Sequence[str], *, event_buffer: int = _EVENT_BUFFER, helper: str = HELPER
    ) -> None:
        """`helper` is the socket of `fabricd-netns`, for who may not enter other namespaces."""
        self._sysctls = tuple(sysctls)
        self._opener = Opener(helper)
        self._event_buffer = event_buffer
        self._filter = Trusted[str, tuple[Filter | None, str]]()
        """Our table of nftables, as `Nftables.observe` shows it."""

    async def __aenter__(self) -> Self:
        self._commands = Netlink.open()
        try:
            self._events = Netlink.open(watcher.RTNL_GROUPS, self._event_buffer)
            self._nft_events = _nft_events()
        except BaseException:
            self._commands.close()
            raise
        self._effector = Effector(self._commands, self._opener)
        self._effector.pods.told = self._events.hear_others() or await self._listen_with_help()
        return self

    async def _listen_with_help(self) -> bool:
        try:
            sock = await self._opener.listener()
            events = Netlink.of(sock, watcher.RTNL_GROUPS, self._event_buffer)
        except OSError:
            return False
        self._events.close()
        self._events = events
        return True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._nft_events is not None:
            self._nft_events.close()
        self._events.close()
        self._commands.close()

    async def observe(self, pods: Mapping[str, Pod] = MappingProxyType({})) -> KernelState:
        """All links and addresses, our routes and rules, the sysctls and pods asked for, and our
        table of nftables.

        A sysctl that this kernel doesn't have is left out. What is inside of pods' namespaces, and
        the table, is read anew after what `watch` hears of them, and every few seconds.
        """
        interfaces = await self._effector.refresh()
        state = await observer.read_state(
            self._commands, self._effector.routes, interfaces, self._sysctls
        )
        found, departed = await self._effector.pods.observe(pods, interfaces)
        table, fault = await self._filter.of(TABLE_NAME, self._effector.nftables.observe)
        return replace(
            state,
            pods=MappingProxyType(found),
            departed=departed,
            filter=table,
            filter_fault=fault,
        )

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        """Carry out actions of `core.action.KERNEL_KINDS` in order; one outcome for each.

        A failure stops none of those that follow. To add what is there and to remove what is gone
        is success; to put something in the place of an object that is not ours is refused.
        """
        if any(action.kind in (Kind.FILTER_SET, Kind.FILTER_REMOVE) for action in actions):
            self._filter.doubt(TABLE_NAME)
        return await self._effector.apply(actions)

    async def watch(self, changed: Callable[[str], None]) -> NoReturn:
        """Call `changed` for whatever others change: `link br-edge`, `route 2.2.2.0/27` …

        Also `address 2.2.2.1/27`, `rule 198`, `pod NAME` for what happens inside the network
        namespaces of the pods last observed, `nftables`, and `netlink overrun` when notifications
        were lost.
        Of routes and rules only for those that carry our protocol number, or that have just
        replaced another, and not for what `apply` did. (What it did to links and addresses is
        told: there the kernel does not say who it was.) Nothing since the context was entered is
        missed.
        """

        def heard(what: str) -> None:
            if what == watcher.NFTABLES:
                self._filter.doubt(TABLE_NAME)
            elif what == watcher.OVERRUN:
                self._effector.pods.forget()
            changed(what)

        lost: list[Unavailable] = []
        async with trio.open_nursery() as nursery:

            async def run(watch: Callable[[], Awaitable[NoReturn]]) -> None:
                try:
                    await watch()
                except Unavailable as error:
                    lost.append(error)
                    nursery.cancel_scope.cancel()

            port, pods = self._commands.port, self._effector.pods
            if (tables := self._nft_events) is not None:
                nursery.start_soon(run, lambda: watcher.watch_nftables(tables, heard))
            nursery.start_soon(run, lambda: watcher.watch(self._events, port, heard, pods.heard))
        raise lost[0]


def _nft_events() -> Netlink | None:
    """None without CAP_NET_ADMIN, which this takes: then the table is looked at now and then."""
    try:
        return Netlink.open(watcher.NFNL_GROUPS, protocol=watcher.NETLINK_NETFILTER)
    except Unavailable:
        return None
