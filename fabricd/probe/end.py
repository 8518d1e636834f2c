"""A look at this node as one end of a tunnel: kernel, charon, ways, packet filter, echoes."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import trio

from fabricd.config import Config
from fabricd.core.desired import DesiredState, desired
from fabricd.core.facts import Echo, Here, Lookup, Obstacle
from fabricd.core.meeting import within
from fabricd.core.routing import FORWARDING
from fabricd.core.site import Site
from fabricd.core.state import IkeState, KernelState
from fabricd.core.surroundings import Identity, Surroundings, seen_in
from fabricd.daemon.keyring import Keyring
from fabricd.errors import Unavailable
from fabricd.ike import Charon
from fabricd.kernel import Kernel
from fabricd.model import Address, Role, address, family, first_host
from fabricd.probe import ip, packets
from fabricd.probe.echo import echo
from fabricd.probe.nftables import Packet, obstacles
from fabricd.probe.tool import run

T = TypeVar("T")

CHARON_DEADLINE: Final = 5.0
"""Seconds that charon may be silent."""

LEGACY: Final = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
"""Tables of the iptables before nftables, in this network namespace."""


class Look:
    """One look; `site` has what is known before it."""

    def __init__(self, config: Config, site: Site) -> None:
        self._config = config
        self._site = site
        self._local, self._remote = site.here.local, site.here.remote

    async def all(self) -> Here:
        """Kernel and charon first: what else is worth a look depends on them."""
        here = await self._daemons()
        here = await self._ways(here)
        here = await self._packet_filter(here)
        return await self._echoes(here)

    # ------------------------------------------------------------ kernel and charon

    async def _daemons(self) -> Here:
        kernel, kernel_fault = await _asked(_observe_kernel())
        charon = Charon(self._config.vici_socket, deadline=CHARON_DEADLINE)
        ike, ike_fault = await _asked(charon.observe())
        files = self._config.ike
        keyring = Keyring(files.ca, files.cert, files.key, time.time, files.crl)
        keyring.refresh()
        return replace(
            self._site.here,
            desired=self._desired(kernel or KernelState(), ike, keyring.identity),
            credential_faults=keyring.faults,
            kernel=kernel,
            kernel_fault=kernel_fault,
            ike=ike,
            ike_fault=ike_fault,
        )

    def _desired(
        self, kernel: KernelState, ike: IkeState | None, identity: Identity | None
    ) -> DesiredState:
        """As the daemon derives it."""
        config, facts = self._config, self._site.facts
        around = Surroundings(
            name=facts.name,
            networks=config.networks,
            bridge=config.kernel.bridge,
            identity=identity,
            outside=config.store_addresses,
            hour=int(facts.now // 3600),
        )
        seen = seen_in(around, kernel, ike.userspace_esp if ike else None)
        return desired(facts.records.nodes, facts.records.communities, seen)

    # ------------------------------------------------------------ ways

    async def _ways(self, here: Here) -> Here:
        """Where packets would go, and which XFRM policies they meet."""
        delivery = await ip.lookup(self._local)
        own = delivery.link == "lo"
        pods = self._config.kernel.bridge if delivery.refused else delivery.link
        if own or (here.kernel and pods in here.kernel.links):
            out = await ip.lookup(self._remote, self._local, "" if own else pods)
        else:
            out = await ip.lookup(self._remote)
        if not own and not delivery.refused and (tunnel := self._tunnel(here)):
            # As it comes out of the tunnel: so reverse path filtering has its say.
            delivery = await ip.lookup(self._local, self._remote, tunnel)
        policies, fault = await _asked(ip.policies(self._local, self._remote))
        return replace(
            here,
            endpoint=await self._endpoint(here),
            out=out,
            delivery=delivery,
            policies=policies or (),
            policies_fault=fault,
        )

    def _tunnel(self, here: Here) -> str:
        """The link that leads to the peer's pods; empty: it is not there."""
        routes = replace(self._site, here=here).routes
        link = next((route.link for route in routes if route.link), None)
        return link if link is not None and here.kernel and link in here.kernel.links else ""

    async def _endpoint(self, here: Here) -> Lookup | None:
        """The way to the peer: where its record says that it is, or where charon has met it."""
        sa = replace(self._site, here=here).established
        for text in (self._site.peer.endpoint, sa.remote_host if sa else None):
            with suppress(ValueError):
                return await ip.lookup(address(text or ""))
        return None

    # ------------------------------------------------------------ packet filter

    async def _packet_filter(self, here: Here) -> Here:
        faults: list[str] = []
        pods: list[Obstacle] = []
        ike: list[Obstacle] = []
        try:
            ruleset = await run("nft", "-j", "list", "ruleset")
            pods = obstacles(ruleset, packets.pods_packets(self._path(here)))
            ike = obstacles(ruleset, self._ike_packets(here))
        except Unavailable as error:
            faults.append(error.reason)
        except ValueError as error:
            faults.append(str(error))
        with suppress(OSError):
            if LEGACY[family(self._remote)].read_text().strip():
                faults.append("rules of iptables-legacy are not read: iptables-legacy-save")
        return replace(
            here, obstacles=tuple(pods), ike_obstacles=tuple(ike), filter_fault="; ".join(faults)
        )

    def _path(self, here: Here) -> packets.Path:
        tunnel = self._tunnel(here)
        if here.ike is not None and not here.ike.userspace_esp and here.endpoint is not None:
            # The kernel knows when it routes that ESP leaves by the underlay's link.
            tunnel = here.endpoint.link
        return packets.Path(
            local=self._local,
            remote=self._remote,
            pods=here.delivery.link if here.delivery else "",
            tunnel=tunnel,
            answers=not self._site.outward,
        )

    def _ike_packets(self, here: Here) -> tuple[Packet, ...]:
        way = here.endpoint
        if way is None or way.refused or not way.source:
            return ()
        userspace = here.ike is None or here.ike.userspace_esp
        fixed = self._site.me.endpoint is not None and self._site.peer.endpoint is not None
        return packets.ike_packets(
            way.link,
            Address(way.source),
            Address(way.packet.partition(" ")[0]),
            initiates=self._site.initiates,
            esp=fixed and not userspace,
        )

    # ------------------------------------------------------------ echoes

    async def _echoes(self, here: Here) -> Here:
        """From an address of this node's own that fits the traffic selectors."""
        own = self._own_address(here)
        found: dict[str, Echo] = {}

        async def ask(name: str, target: Address, source: str, *, big: bool = False) -> None:
            found[name] = await echo(target, source, big=big)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "local_echo", self._local, "")
            if way := here.endpoint:
                target = Address(way.packet.partition(" ")[0])
                nursery.start_soon(ask, "endpoint_echo", target, "")
            if own:
                nursery.start_soon(ask, "remote_echo", self._remote, own)
                if self._site.peer.role is Role.EDGE:
                    at_peer = first_host(self._site.pair.remote)
                    nursery.start_soon(ask, "peer_echo", at_peer, own)
        if own and found["remote_echo"].answered:
            await ask("big_echo", self._remote, own, big=True)
        elif not own:
            fault = f"no address of this node lies in {self._site.pair.local}: nothing can be tried"
            found["remote_echo"] = Echo(self._remote, answered=False, fault=fault)
        link = here.delivery.link if here.delivery else ""
        neighbour, _ = await _asked(ip.neighbour(self._local, link)) if link else ("", "")
        return replace(here, neighbour=neighbour or "", **found)  # type: ignore[arg-type]

    def _own_address(self, here: Here) -> str:
        """An address of this node inside the subnet of the local pod."""
        kernel = here.kernel or KernelState()
        mine = (item.address.partition("/")[0] for item in kernel.addresses.values())
        subnet = self._site.pair.local
        fitting = (a for a in mine if family(a) == family(subnet) and within(Address(a), subnet))
        return min(fitting, default="")


async def _observe_kernel() -> KernelState:
    async with Kernel(sysctls=tuple(FORWARDING.values())) as kernel:
        return await kernel.observe()


async def _asked(question: Awaitable[T]) -> tuple[T | None, str]:
    """The answer, or why there is none."""
    try:
        return await question, ""
    except Unavailable as error:
        return None, error.reason
