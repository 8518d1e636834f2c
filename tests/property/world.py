"""A node's kernel and charon as plain values, and what an action does to them.

They keep the rules that a plan's order has to respect: a link takes its addresses and routes
with it, an address the routes that have it as their source, unloading a connection leaves its
SAs. A step that the real one would refuse is an assertion here, so a plan in a wrong order
fails at the step that is wrong. They hold foreign things too, and show those only as far as
the observers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from fabricd.core.action import KERNEL_KINDS, Action, Kind, Tunnel
from fabricd.core.desired import DesiredState, desired
from fabricd.core.doors import carried_remotes, with_doors
from fabricd.core.ownership import NUMBER
from fabricd.core.plan import plan
from fabricd.core.rib import InForce
from fabricd.core.routing import MAIN_TABLE
from fabricd.core.state import (
    ChildSa,
    Conn,
    IfAddress,
    IkeSa,
    IkeState,
    KernelState,
    Link,
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

    def observe(self) -> KernelState:
        return KernelState(
            links=dict(self.links),
            addresses=dict(self.addresses),
            routes={key: route for key, (owner, route) in self.routes.items() if owner == NUMBER},
            rules={(r.family, r.priority): r for owner, r in self.rules if owner == NUMBER},
            sysctls=dict(self.sysctls),
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
        match action.kind, action.item:
            case Kind.SYSCTL_SET, Sysctl() as sysctl:
                self.sysctls[sysctl.name] = sysctl
            case Kind.LINK_ADD, Link() as link:
                assert link.name not in self.links, f"EEXIST: {action}"
                self.links[link.name] = link
            case Kind.LINK_SET, Link() as link:
                self.links[link.name] = replace(self.links[link.name], up=link.up)
            case Kind.LINK_REMOVE, Link() as link:
                del self.links[link.name]
                for address in [a for a in self.addresses.values() if a.link == link.name]:
                    self._remove_address(address)
                self._keep_routes(lambda route: route.link != link.name)
            case Kind.ADDRESS_ADD, IfAddress() as address:
                assert address.link in self.links, f"ENODEV: {action}"
                assert (address.link, address.address) not in self.addresses, f"EEXIST: {action}"
                self.addresses[address.link, address.address] = address
            case Kind.ADDRESS_REMOVE, IfAddress() as address:
                self._remove_address(address)
            case Kind.ROUTE_SET, Route() as route:
                self._set_route(route)
            case Kind.ROUTE_REMOVE, Route() as route:
                assert self.routes.pop(route.key) == (NUMBER, route)
            case Kind.RULE_ADD, Rule() as rule:
                assert (NUMBER, rule) not in self.rules, f"EEXIST: {action}"
                place = NUMBER, rule.family, rule.priority
                self.rules = {
                    (owner, other)
                    for owner, other in self.rules
                    if (owner, other.family, other.priority) != place
                } | {(NUMBER, rule)}
            case Kind.RULE_REMOVE, Rule() as rule:
                self.rules.remove((NUMBER, rule))
            case _:
                raise AssertionError(f"not an action on the kernel: {action}")

    def _set_route(self, route: Route) -> None:
        if route.kind is RouteKind.UNICAST:
            link = self.links.get(route.link or "")
            assert link is not None, f"ENODEV: {route}"
            assert link.up, f"ENETDOWN: {route}"
        assert route.source is None or self.is_local(route.source), f"EINVAL: {route}"
        owner, _ = self.routes.get(route.key, (NUMBER, None))
        assert owner == NUMBER, f"EEXIST: {route}"
        self.routes[route.key] = NUMBER, route

    def _remove_address(self, address: IfAddress) -> None:
        del self.addresses[address.link, address.address]
        gone = address.address.partition("/")[0]
        if self.is_local(gone):
            return
        if ":" in gone:  # IPv6 routes only lose their source: rt6_remove_prefsrc()
            for key, (owner, route) in self.routes.items():
                if route.source == gone:
                    self.routes[key] = owner, replace(route, source=None)
        else:
            self._keep_routes(lambda route: route.source != gone)

    def _keep_routes(self, keep: object) -> None:
        assert callable(keep)
        self.routes = {key: item for key, item in self.routes.items() if keep(item[1])}

    def way(self, text: str, own: Iterable[Prefix]) -> str:
        """Where a packet to an address goes: a route's kind, or the link of a unicast one.

        The main table holds what we put there, the node's own subnets, and a default route.
        """
        main = [Route(MAIN_TABLE, subnet, link="pods") for subnet in own]
        main += [Route(MAIN_TABLE, Prefix(p), link="uplink") for p in ("0.0.0.0/0", "::/0")]
        routes = [*(route for _, route in self.routes.values()), *main]
        rules = [rule for _, rule in self.rules] + [Rule(f, 32766, MAIN_TABLE) for f in (4, 6)]
        for rule in sorted(rules, key=lambda rule: rule.priority):
            if rule.family != family(text):
                continue
            fitting = [
                route
                for route in routes
                if route.table == rule.table and ip_address(text) in network(route.prefix)
            ]
            best = max(
                fitting, key=lambda r: (network(r.prefix).prefixlen, -r.metric), default=None
            )
            if best is None or best.kind is RouteKind.THROW:
                continue
            return best.link if best.link is not None else best.kind.value
        return "no route"


@dataclass
class Charon:
    """Connections, SAs, and by which set-up an IKE_SA was made: charon reuses equal ones."""

    authorities: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    conns: dict[str, Conn] = field(default_factory=dict)
    sas: list[IkeSa] = field(default_factory=list)
    made_by: dict[int, str] = field(default_factory=dict)
    deaf: frozenset[str] = frozenset()
    """Connections whose peer does not answer."""
    loaded_keys: set[str] = field(default_factory=set)
    """Keys that an action loaded."""
    crls: dict[str, int] = field(default_factory=dict)
    offered_crls: dict[str, int] = field(default_factory=dict)
    """What the node's files hold: the numbers that an action loads, by issuer."""
    certificates: set[bytes] = field(default_factory=set)
    last_id: int = 0

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
        return frozenset(
            [
                *(name for name in self.authorities if not name.startswith("fabric-ca-")),
                *(self.keys - self.loaded_keys),
                *(conn for conn in self.conns.values() if not conn.name.startswith("fabric-")),
                *(sa for sa in self.sas if not sa.conn.startswith("fabric-")),
            ]
        )

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def apply(self, action: Action) -> None:
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
            case Kind.CHILD_INITIATE, Tunnel() as tunnel:
                self._initiate(tunnel)
            case Kind.CHILD_TERMINATE, ChildSa(id=child):
                self.sas = [
                    replace(sa, children=tuple(c for c in sa.children if c.id != child))
                    for sa in self.sas
                ]
            case Kind.IKE_TERMINATE, IkeSa(id=ike):
                self.sas = [sa for sa in self.sas if sa.id != ike]
            case _:
                raise AssertionError(f"not an action on charon: {action}")

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

    def desire(self, in_force: InForce, around: Surroundings) -> DesiredState:
        """What the daemon would strive for here."""
        state = self.kernel.observe()
        seen = replace(
            around,
            tunnel_link=find_tunnel_link(state, userspace_esp=True),
            local_addresses=local_addresses(state),
        )
        return desired(in_force.nodes, in_force.communities, seen)

    def plan(self, want: DesiredState, *, removals: bool = True) -> tuple[Action, ...]:
        opened = self.opened(want)
        return plan(opened, self.kernel.observe(), self.charon.observe(), removals=removals)

    def opened(self, want: DesiredState) -> DesiredState:
        """With the doors for which there are CHILD_SAs."""
        carried = carried_remotes(self.charon.observe())
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
