"""A node's kernel and charon as plain values, and what an action does to them.

They keep the rules that a plan's order has to respect: a link takes its addresses and routes
with it, an address the main table's routes from it, unloading a connection leaves its
SAs. A step that the real one would refuse is an assertion here, so a plan in a wrong order
fails at the step that is wrong. They hold foreign things too, and show those only as far as
the observers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address, ip_interface
from types import MappingProxyType
from typing import Final

from fabricd.core.action import KERNEL_KINDS, Action, Kind, Tunnel
from fabricd.core.desired import DesiredState, Memory, desired
from fabricd.core.doors import carried_ages, with_doors
from fabricd.core.ownership import NUMBER, owns_address
from fabricd.core.plan import Planner, plan
from fabricd.core.rib import InForce
from fabricd.core.routing import MAIN_TABLE
from fabricd.core.state import (
    ChildSa,
    Conn,
    Filter,
    IfAddress,
    IkeSa,
    IkeState,
    KernelState,
    Link,
    Pod,
    Route,
    RouteKey,
    RouteKind,
    Rule,
    Sysctl,
    parse_child_name,
)
from fabricd.core.surroundings import Surroundings, local_addresses
from fabricd.core.surroundings import tunnel_link as find_tunnel_link
from fabricd.core.tunnels import carries, installed, pair_of
from fabricd.model import Prefix, family, network


@dataclass
class Kernel:
    """Routes and rules with their protocol number: the observer filters by it."""

    links: dict[str, Link] = field(default_factory=dict)
    addresses: dict[tuple[str, str], IfAddress] = field(default_factory=dict)
    routes: dict[RouteKey, tuple[int, Route]] = field(default_factory=dict)
    rules: set[tuple[int, Rule]] = field(default_factory=set)
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    filter: Filter | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    departed: set[str] = field(default_factory=set)
    """Paths of network namespaces that are not there."""

    def observe(self, asked: Mapping[str, Pod] = MappingProxyType({})) -> KernelState:
        return KernelState(
            links=dict(self.links),
            addresses=dict(self.addresses),
            routes={key: route for key, (owner, route) in self.routes.items() if owner == NUMBER},
            rules={(r.family, r.priority): r for owner, r in self.rules if owner == NUMBER},
            sysctls=dict(self.sysctls),
            filter=self.filter,
            pods={name: self.pods[name] for name in asked if name in self.pods},
            departed=frozenset(
                name
                for name, pod in asked.items()
                if name not in self.pods and pod.netns in self.departed
            ),
        )

    def foreign(self) -> frozenset[object]:
        """Everything without our mark that stands on a link without our mark."""
        theirs = {name: link for name, link in self.links.items() if link.alias != "fabricd"}
        return frozenset(
            [
                *theirs.values(),
                *(a for a in self.addresses.values() if a.protocol != NUMBER and a.link in theirs),
                *(item for item in self.routes.values() if item[0] != NUMBER),
                *(item for item in self.rules if item[0] != NUMBER),
            ]
        )

    def is_local(self, text: str) -> bool:
        return any(a.address.partition("/")[0] == text for a in self.addresses.values())

    def apply(self, action: Action) -> None:
        """A step of a plan that was made for this very state: it is possible, and has an effect."""
        before = self._parts()
        error = self.carry_out(action)
        assert error is None, f"{error}: {action}"
        assert self._parts() != before, f"no effect: {action}"

    def carry_out(self, action: Action) -> str | None:
        """What `fabricd.kernel` makes of it, whatever is there: the name of an error, or None."""
        match action.kind, action.item:
            case Kind.SYSCTL_SET, Sysctl() as sysctl:
                self.sysctls[sysctl.name] = sysctl
            case Kind.LINK_ADD, Link() as link:
                found = self.links.get(link.name, link)
                if (found.kind, found.alias) != (link.kind, link.alias):
                    return "EEXIST"
                self.set_link(link)
            case Kind.LINK_SET, Link() as link:
                if link.name not in self.links:
                    return "ENODEV"
                mtu = link.mtu or self.links[link.name].mtu
                self.set_link(replace(self.links[link.name], up=link.up, mtu=mtu))
            case Kind.LINK_REMOVE, Link() as link:
                standing = self.links.get(link.name)
                if standing and (standing.kind, standing.alias) == (link.kind, link.alias):
                    self.remove_link(link.name)
            case Kind.ADDRESS_ADD, IfAddress() as address:
                return self._add_address(address)
            case Kind.ADDRESS_REMOVE, IfAddress() as address:
                self.remove_address(address.link, address.address)
            case Kind.ROUTE_SET, Route() as route:
                owner, _ = self.routes.get(route.key, (NUMBER, None))
                return self.set_route(NUMBER, route) if owner == NUMBER else "EEXIST"
            case Kind.ROUTE_REMOVE, Route() as route:
                owner, there = self.routes.get(route.key, (NUMBER, None))
                odd = route.kind is RouteKind.UNICAST and route.link is None
                if there is not None and owner == NUMBER and (odd or there.kind is route.kind):
                    del self.routes[route.key]
            case Kind.RULE_ADD, Rule() as rule:
                place = NUMBER, rule.family, rule.priority
                self.rules = {
                    (owner, other)
                    for owner, other in self.rules
                    if (owner, other.family, other.priority) != place
                } | {(NUMBER, rule)}
            case Kind.RULE_REMOVE, Rule() as rule:
                self.rules.discard((NUMBER, rule))
            case Kind.POD_SET, Pod() as pod:
                if pod.bridge not in self.links:
                    return "ENODEV"
                if pod.netns in self.departed:
                    return "ENOENT"
                self.set_link(Link(pod.port, "veth", up=True, alias="fabricd", mtu=pod.mtu))
                self.pods[pod.name] = pod
            case Kind.FILTER_SET, Filter() as table:
                self.filter = table
            case Kind.FILTER_REMOVE, Filter():
                self.filter = None
            case _:
                raise AssertionError(f"not an action on the kernel: {action}")
        return None

    def _parts(self) -> tuple[object, ...]:
        return (
            dict(self.links),
            dict(self.addresses),
            dict(self.routes),
            set(self.rules),
            dict(self.sysctls),
            self.filter,
            dict(self.pods),
        )

    # What anybody can do to it; a link, an address or a route comes with its consequences.

    def set_link(self, link: Link) -> None:
        """Make it, or make it otherwise. One that goes down takes its routes with it."""
        self.links[link.name] = link
        if not link.up:
            self._keep_routes(lambda route: route.link != link.name)

    def remove_link(self, name: str) -> None:
        """Its addresses and routes go with it."""
        del self.links[name]
        self.pods = {pod: item for pod, item in self.pods.items() if item.port != name}
        for link, address in [key for key in self.addresses if key[0] == name]:
            self.remove_address(link, address)
        self._keep_routes(lambda route: route.link != name)

    def _add_address(self, item: IfAddress) -> str | None:
        if item.link not in self.links:
            return "ENODEV"
        there = self.addresses.get((item.link, item.address), item)
        if there != item and not owns_address(self.observe(), there):
            return "EEXIST"
        self.addresses[item.link, item.address] = item
        return None

    def remove_address(self, link: str, address: str) -> None:
        """The main table's routes that have it as their source go with it."""
        if self.addresses.pop((link, address), None) is None:
            return
        gone = address.partition("/")[0]
        if self.is_local(gone):
            return
        if ":" in gone:  # IPv6 routes only lose their source: rt6_remove_prefsrc()
            for key, (owner, route) in self.routes.items():
                if route.source == gone:
                    self.routes[key] = owner, replace(route, source=None)
        else:  # fib_sync_down_addr() minds one table
            self._keep_routes(lambda route: (route.source, route.table) != (gone, MAIN_TABLE))

    def set_route(self, owner: int, route: Route) -> str | None:
        """Put it in the place of whatever has its key."""
        if route.kind is RouteKind.UNICAST and route.link is not None:
            link = self.links.get(route.link)
            if link is None:
                return "ENODEV"
            if not link.up:
                return "ENETDOWN"
        if route.source is not None and not self.is_local(route.source):
            return "EINVAL"
        self.routes[route.key] = owner, route
        return None

    def _keep_routes(self, keep: Callable[[Route], bool]) -> None:
        self.routes = {key: item for key, item in self.routes.items() if keep(item[1])}

    def way(self, text: str, own: Iterable[Prefix]) -> str:
        """Where a packet to an address goes: a route's kind, or the link of a unicast one.

        The main table holds what is there, the node's own subnets, and a default route.
        """
        found = self.route_to(text, [Route(MAIN_TABLE, subnet, link="pods") for subnet in own])
        if found is None:
            return "no route"
        _, route = found
        return route.link if route.link is not None else route.kind.value

    def route_to(self, text: str, more: Iterable[Route] = ()) -> tuple[int, Route] | None:
        """The route that decides where a packet to an address goes, and whose it is."""
        version = family(text)
        routes = [item for item in self.routes.values() if holds(item[1].prefix, text)]
        routes += [(0, route) for route in (*more, *DEFAULT) if holds(route.prefix, text)]
        rules = [rule for _, rule in self.rules if rule.family == version]
        rules.append(Rule(version, 32766, MAIN_TABLE))
        for rule in sorted(rules, key=lambda rule: rule.priority):
            if not (rule.to is None or holds(rule.to, text)):
                continue
            best = max(
                (item for item in routes if item[1].table == rule.table),
                key=lambda item: (network(item[1].prefix).prefixlen, -item[1].metric),
                default=None,
            )
            if best is None or best[1].kind is RouteKind.THROW:
                continue
            if rule.suppress is not None and network(best[1].prefix).prefixlen <= rule.suppress:
                continue
            return best
        return None

    def connected(self) -> list[Route]:
        """The routes that the kernel adds for addresses on links that are up."""
        return [
            Route(MAIN_TABLE, _network_of(item.address), link=item.link)
            for item in self.addresses.values()
            if self.links[item.link].up
        ]


DEFAULT: Final = tuple(
    Route(MAIN_TABLE, Prefix(text), link="uplink", metric=1 << 31) for text in ("0.0.0.0/0", "::/0")
)


@lru_cache(maxsize=65536)
def _network_of(text: str) -> Prefix:
    return Prefix(str(ip_interface(text).network))


@lru_cache(maxsize=65536)
def holds(prefix: Prefix, text: str) -> bool:
    """Whether an address lies in a prefix."""
    return ip_address(text) in network(prefix)


@dataclass
class Loaded:
    """What is loaded into a charon."""

    authorities: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    conns: dict[str, Conn] = field(default_factory=dict)
    loaded_keys: set[str] = field(default_factory=set)
    """Keys that an action loaded."""
    crls: dict[str, int] = field(default_factory=dict)
    offered_crls: dict[str, int] = field(default_factory=dict)
    """What the node's files hold: the numbers that an action loads, by issuer."""
    certificates: set[bytes] = field(default_factory=set)
    last_id: int = 0

    def foreign(self) -> frozenset[object]:
        return frozenset(
            [
                *(name for name in self.authorities if not name.startswith("fabric-ca-")),
                *(self.keys - self.loaded_keys),
                *(conn for conn in self.conns.values() if not conn.name.startswith("fabric-")),
            ]
        )

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def load(self, action: Action) -> None:
        """Load or unload."""
        match action.kind, action.item:
            case Kind.AUTHORITY_LOAD, str(name):
                self.authorities.add(name)
            case Kind.AUTHORITY_UNLOAD, str(name):
                self.authorities.remove(name)
            case Kind.KEY_LOAD, str(key):
                self.keys.add(key)
                self.loaded_keys.add(key)
            case Kind.KEY_UNLOAD, str(key):
                assert key in self.loaded_keys, f"somebody else's: {action}"
                self.keys.remove(key)
            case Kind.CRL_LOAD, str(issuer):
                self.crls[issuer] = self.offered_crls[issuer]
            case Kind.CONN_LOAD | Kind.CONN_TURN, Conn() as conn:
                assert self.keys, f"nothing to authenticate with: {action}"
                self.conns[conn.name] = conn
            case Kind.CONN_UNLOAD, Conn() as conn:
                del self.conns[conn.name]
            case _:
                raise AssertionError(f"not an action on charon: {action}")


@dataclass
class Charon(Loaded):
    """With SAs, and by which set-up an IKE_SA was made: charon reuses equal ones."""

    sas: list[IkeSa] = field(default_factory=list)
    made_by: dict[int, str] = field(default_factory=dict)
    deaf: frozenset[str] = frozenset()
    """Connections whose peer does not answer."""

    def observe(self) -> IkeState:
        return IkeState(
            authorities=frozenset(self.authorities),
            keys=frozenset(self.keys),
            crls=dict(self.crls),
            certificates=frozenset(self.certificates),
            conns=dict(self.conns),
            sas=tuple(self.sas),
        )

    def foreign(self) -> frozenset[object]:
        theirs = [sa for sa in self.sas if not sa.conn.startswith("fabric-")]
        return super().foreign() | {*theirs}

    def apply(self, action: Action) -> None:
        match action.kind, action.item:
            case Kind.CHILD_INITIATE, Tunnel() as tunnel:
                self._initiate(tunnel)
            case Kind.CHILD_TERMINATE, ChildSa(id=child):
                self.sas = [
                    replace(sa, children=tuple(c for c in sa.children if c.id != child))
                    for sa in self.sas
                ]
            case Kind.CHILD_REKEY, ChildSa(id=child):
                self.sas = [
                    replace(
                        sa,
                        children=tuple(
                            replace(c, id=self.next_id(), bytes_in=0, bytes_out=0)
                            if c.id == child
                            else c
                            for c in sa.children
                        ),
                    )
                    for sa in self.sas
                ]
            case Kind.IKE_TERMINATE, IkeSa(id=ike):
                self.sas = [sa for sa in self.sas if sa.id != ike]
            case _:
                self.load(action)

    def _initiate(self, tunnel: Tunnel) -> None:
        conn = self.conns[tunnel.conn]
        names = {conn.child_name(child) for child in conn.children}
        assert tunnel.child in names | {""}, f"CHILD_SA config not found: {tunnel}"
        if tunnel.conn in self.deaf:
            return
        sa = next(
            (
                sa
                for sa in self.sas
                if sa.conn == conn.name
                and sa.state == "ESTABLISHED"
                and self.made_by.get(sa.id) == conn.digest
            ),
            None,
        )
        if sa is None:
            sa = IkeSa(self.next_id(), conn.name, "ESTABLISHED", initiator=True)
            self.made_by[sa.id] = conn.digest
            self.sas.append(sa)
        parsed = parse_child_name(tunnel.child)
        if parsed is None or any(c.name == tunnel.child and carries(c) for c in sa.children):
            return
        pair = parsed.pair
        child = ChildSa(
            self.next_id(),
            tunnel.child,
            "INSTALLED",
            frozenset({pair.local}),
            frozenset({pair.remote}),
        )
        self.sas[self.sas.index(sa)] = replace(sa, children=(*sa.children, child))


@dataclass
class Machine:
    """A node: what it holds, and the daemon's pass over it."""

    kernel: Kernel = field(default_factory=Kernel)
    charon: Charon = field(default_factory=Charon)
    planner: Planner = field(default_factory=Planner)
    memories: dict[tuple[Prefix, ...], Memory] = field(default_factory=dict)
    """By the fabric's networks."""

    def desire(self, in_force: InForce, around: Surroundings) -> DesiredState:
        """What the daemon would strive for here."""
        state = self.kernel.observe()
        seen = replace(
            around,
            tunnel_link=find_tunnel_link(state, userspace_esp=True),
            local_addresses=local_addresses(state),
        )
        wanted = desired(in_force.nodes, in_force.communities, seen)
        memory = self.memories.setdefault(around.networks, Memory(around.networks))
        remembered = desired(in_force.nodes, in_force.communities, seen, memory)
        assert remembered == wanted, "what is remembered does not matter"
        return remembered

    def plan(self, want: DesiredState, *, removals: bool = True) -> tuple[Action, ...]:
        given = self.opened(want), self.kernel.observe(), self.charon.observe()
        planned = self.planner.plan(*given, removals=removals)
        assert planned == plan(*given, removals=removals), "what is remembered does not matter"
        return planned

    def opened(self, want: DesiredState) -> DesiredState:
        """With the doors for which there are CHILD_SAs."""
        carried = carried_ages(self.charon.observe())
        kernel = with_doors(want.kernel, want.doors, carried, self.kernel.observe())
        return replace(want, kernel=kernel)

    def apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            part = self.kernel if action.kind in KERNEL_KINDS else self.charon
            part.apply(action)

    def follow(self, want: DesiredState) -> None:
        """Open and close doors after SAs have come and gone: a plan does not foresee them."""
        doors = {route for ways in want.doors.values() for route in ways}
        self.apply(action for action in self.plan(want) if action.item in doors)

    def settle(self, want: DesiredState, passes: int = 3) -> tuple[Action, ...]:
        """Pass after pass until there is nothing left to do; what is left after the last."""
        for _ in range(passes):
            if not (actions := self.plan(want)):
                break
            self.apply(actions)
        return self.plan(want)

    def assert_reached(self, want: DesiredState) -> None:
        """All that is ours is as desired, and nothing else is ours."""
        want = self.opened(want)
        state = self.kernel.observe()
        assert dict(state.routes) == dict(want.kernel.routes)
        assert {rule for owner, rule in self.kernel.rules if owner == NUMBER} == {
            *want.kernel.rules.values()
        }
        assert want.kernel.sysctls.items() <= state.sysctls.items()
        assert state.filter == want.kernel.filter or want.kept_links
        for name, link in want.kernel.links.items():
            assert state.links[name] == link or state.links[name].alias != "fabricd"
        assert {n for n, link in state.links.items() if link.alias == "fabricd"} <= (
            want.kernel.links.keys() | want.kept_links
        )
        assert want.kernel.addresses.keys() <= state.addresses.keys()
        assert {
            key
            for key, item in state.addresses.items()
            if item.protocol == NUMBER and item.link not in want.kept_links
        } <= want.kernel.addresses.keys()
        if not want.ike:
            return
        ours = {n: conn for n, conn in self.charon.conns.items() if n.startswith("fabric-")}
        assert ours == dict(want.conns)
        assert {n for n in self.charon.authorities if n.startswith("fabric-ca-")} == (
            want.authorities
        )
        assert want.keys <= self.charon.keys
        for name, tunnels in want.tunnels.items():
            sas = [sa for sa in self.charon.sas if sa.conn == name]
            if tunnels and name not in self.charon.deaf:
                assert any(sa.state in {"ESTABLISHED", "REKEYING"} for sa in sas)
                assert want.carried[name] <= installed(sas)
        for sa in self.charon.sas:
            if sa.conn.startswith("fabric-"):
                pairs = {pair_of(child) for child in sa.children if child.state == "INSTALLED"}
                assert pairs <= want.conns[sa.conn].children
