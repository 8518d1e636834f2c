"""From differences to ordered actions: the one place that knows order and disruption.

Additions come first, each thing after what it stands on; removals follow. So a route, a
connection or an SA is replaced by making the new before breaking the old. The plan of a state
that a plan has led to is empty, or tidies up the SAs that were replaced and is empty then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from fabricd.core.action import Action, Disruption, Item, Kind
from fabricd.core.desired import DesiredState
from fabricd.core.diff import diff
from fabricd.core.ownership import (
    ROUTE_PROTOCOL,
    owns_address,
    owns_authority,
    owns_conn,
    owns_link,
)
from fabricd.core.sas import sa_actions, terminate
from fabricd.core.state import IfAddress, IkeState, KernelState, Link, Route, RouteKind, Rule
from fabricd.core.tunnels import sas_by_conn
from fabricd.core.turns import next_turn

ORDER: Final = (
    # What should be there.
    Kind.SYSCTL_SET,
    Kind.LINK_ADD,
    Kind.LINK_SET,
    Kind.ADDRESS_ADD,  # before the routes that take it as their source
    Kind.ROUTE_SET,
    Kind.RULE_ADD,  # switches the whole table on at once
    Kind.AUTHORITY_LOAD,
    Kind.CRL_LOAD,
    Kind.KEY_LOAD,
    Kind.CONN_LOAD,
    Kind.CONN_TURN,
    Kind.CHILD_INITIATE,
    # What should not. A connection goes before its SAs: the peer can't bring them back then.
    Kind.CONN_UNLOAD,
    Kind.CHILD_TERMINATE,
    Kind.IKE_TERMINATE,
    Kind.KEY_UNLOAD,
    Kind.AUTHORITY_UNLOAD,
    Kind.RULE_REMOVE,
    Kind.ROUTE_REMOVE,
    Kind.ADDRESS_REMOVE,
    Kind.LINK_REMOVE,
)

REMOVALS: Final = frozenset(ORDER[ORDER.index(Kind.CONN_UNLOAD) :])

_RANK: Final = {kind: rank for rank, kind in enumerate(ORDER)}

_ROUTE_RANK: Final = {
    # What lets traffic pass before what refuses it, and the reverse when they go.
    RouteKind.THROW: 0,
    RouteKind.UNICAST: 1,
    RouteKind.UNREACHABLE: 2,
    RouteKind.BLACKHOLE: 3,
}

_WANTED: Final = "the records ask for it"
_UNWANTED: Final = "no record asks for it"


def plan(
    desired: DesiredState,
    kernel: KernelState | None,
    ike: IkeState | None,
    *,
    removals: bool = True,
    distrusted: Mapping[int, str] = MappingProxyType({}),
) -> tuple[Action, ...]:
    """The actions that lead from what is observed to what is desired, in order.

    A part that could not be observed is None and left alone. `removals=False` while the source
    of records is not in sync: nothing that is there is taken away then, but for doors, and for the
    IKE_SAs whose peers' certificates are not valid (any more): `distrusted`, unique id to reason.
    """
    actions: list[Action] = []
    if kernel is not None:
        actions += _kernel(desired, kernel)
    if ike is not None and desired.ike:
        trusted = tuple(sa for sa in ike.sas if sa.id not in distrusted)
        actions += _ike(desired, replace(ike, sas=trusted))
    if not removals:
        actions = _without_removals(actions, desired)
    if ike is not None:
        actions += [
            terminate(sa, Disruption.DROP, distrusted[sa.id])
            for sa in ike.sas
            if sa.id in distrusted
        ]
    return tuple(sorted(actions, key=_position))


def _without_removals(actions: list[Action], desired: DesiredState) -> list[Action]:
    """A door is closed whatever the source does: it has nothing to do with records."""
    if not any(action.kind in REMOVALS for action in actions):
        return actions
    doors = {route for ways in desired.doors.values() for route in ways}
    return [a for a in actions if a.kind not in REMOVALS or a.item in doors]


def _position(action: Action) -> tuple[int, int, str]:
    detail = 0
    if isinstance(action.item, Route):
        detail = _ROUTE_RANK[action.item.kind]
        if action.kind is Kind.ROUTE_REMOVE:
            detail = -detail
    return _RANK[action.kind], detail, action.target


# ---------------------------------------------------------------- kernel


def _kernel(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    want = desired.kernel
    yield from _sysctls(want, kernel)
    yield from _links(desired, kernel)
    yield from _addresses(desired, kernel)
    routes = diff(want.routes, kernel.routes)
    for route in routes.missing:
        yield _act(Kind.ROUTE_SET, describe_route(route), route, f"{_WANTED}, it is missing")
    for old, route in routes.different:
        reason = f"{_WANTED}, found {describe_route(old)}"
        yield _act(Kind.ROUTE_SET, describe_route(route), route, reason)
    for route in routes.surplus:
        drops = Disruption.DROP if route.kind is RouteKind.UNICAST else Disruption.NONE
        yield _act(Kind.ROUTE_REMOVE, describe_route(route), route, _UNWANTED, drops)
    rules = diff(want.rules, kernel.rules)
    for rule in rules.missing:
        yield _act(Kind.RULE_ADD, _describe_rule(rule), rule, f"{_WANTED}, it is missing")
    for _, rule in rules.different:
        yield _act(Kind.RULE_ADD, _describe_rule(rule), rule, f"{_WANTED}, it is another")
    for rule in rules.surplus:
        yield _act(Kind.RULE_REMOVE, _describe_rule(rule), rule, _UNWANTED)


def _sysctls(want: KernelState, kernel: KernelState) -> Iterator[Action]:
    for name, item in want.sysctls.items():
        found = kernel.sysctls.get(name)
        if found != item:
            reason = f"{_WANTED}, found {found.value if found else 'nothing'}"
            yield _act(Kind.SYSCTL_SET, f"{name}={item.value}", item, reason)


def _links(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    observed = kernel.links
    for name, link in desired.kernel.links.items():
        found = observed.get(name)
        if found is None:
            yield _act(Kind.LINK_ADD, name, link, f"{_WANTED}, it is missing")
        elif owns_link(found) and found.kind != link.kind:
            reason = f"it is a {found.kind}, not a {link.kind}"
            yield _act(Kind.LINK_REMOVE, name, found, reason, Disruption.DROP)
        elif owns_link(found) and found.up != link.up:
            yield _act(Kind.LINK_SET, f"{name} up", link, f"{_WANTED}, it is down")
    for name, link in observed.items():
        if owns_link(link) and name not in desired.kernel.links and name not in desired.kept_links:
            yield _act(Kind.LINK_REMOVE, name, link, _UNWANTED, Disruption.DROP)


def _addresses(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    for key, item in desired.kernel.addresses.items():
        # Somebody else's address serves as well, and stays theirs.
        if key not in kernel.addresses:
            target = _describe_address(item)
            yield _act(Kind.ADDRESS_ADD, target, item, f"{_WANTED}, it is missing")
    for key, item in kernel.addresses.items():
        if (
            key not in desired.kernel.addresses
            and item.link not in desired.kept_links
            and item.protocol == ROUTE_PROTOCOL
            and owns_address(kernel, item)
        ):
            target = _describe_address(item)
            yield _act(Kind.ADDRESS_REMOVE, target, item, _UNWANTED, Disruption.DROP)


# ---------------------------------------------------------------- IKE


def _ike(desired: DesiredState, ike: IkeState) -> Iterator[Action]:
    for name in sorted(desired.authorities - ike.authorities):
        yield _act(Kind.AUTHORITY_LOAD, name, name, f"{_WANTED}, charon does not have it")
    for name in sorted(filter(owns_authority, ike.authorities - desired.authorities)):
        yield _act(Kind.AUTHORITY_UNLOAD, name, name, "no CA file holds it (any more)")
    for issuer, number in desired.crls.items():
        found = ike.crls.get(issuer)
        if found is None or found < number:
            what = "charon has none" if found is None else f"charon has number {found}"
            yield _act(Kind.CRL_LOAD, issuer, issuer, f"revocation list number {number}, {what}")
    for key in sorted(desired.keys - ike.keys):
        yield _act(Kind.KEY_LOAD, key, key, f"{_WANTED}, charon does not have it")
    for key in sorted(desired.retired_keys & ike.keys):
        yield _act(Kind.KEY_UNLOAD, key, key, "it belongs to an earlier certificate")
    wanted = desired.conns
    if not ike.userspace_esp:
        by_conn = sas_by_conn(ike)
        wanted = {
            name: next_turn(conn, ike.conns.get(name), by_conn.get(name, []))
            for name, conn in desired.conns.items()
        }
    conns = diff(wanted, {n: c for n, c in ike.conns.items() if owns_conn(n)})
    for conn in conns.missing:
        yield _act(Kind.CONN_LOAD, conn.name, conn, f"{_WANTED}, it is missing")
    for old, conn in conns.different:
        if replace(old, turn=conn.turn) == conn:
            reason = "a CHILD_SA is up: the next one has to give way to it"
            yield _act(Kind.CONN_TURN, conn.name, conn, reason)
            continue
        what = "its children differ" if old.digest == conn.digest else "it is set up otherwise"
        yield _act(Kind.CONN_LOAD, conn.name, conn, f"{_WANTED}, {what}")
    for conn in conns.surplus:
        yield _act(Kind.CONN_UNLOAD, conn.name, conn, _UNWANTED)
    yield from sa_actions(desired, ike)


# ---------------------------------------------------------------- words


def _act(
    kind: Kind,
    target: str,
    item: Item,
    reason: str,
    disruption: Disruption = Disruption.NONE,
) -> Action:
    return Action(kind, target, disruption, reason, item)


def describe_route(route: Route) -> str:
    """The route in the words of ip-route(8)."""
    words = [] if route.kind is RouteKind.UNICAST else [route.kind.value]
    words.append(route.prefix)
    if route.link is not None:
        words.append(f"dev {route.link}")
    if route.source is not None:
        words.append(f"src {route.source}")
    return " ".join([*words, f"table {route.table}", f"metric {route.metric}"])


def _describe_rule(rule: Rule) -> str:
    to = f" to {rule.to}" if rule.to is not None else ""
    suppress = "" if rule.suppress is None else f" suppress_prefixlength {rule.suppress}"
    return f"{rule.priority}: from all{to} lookup {rule.table}{suppress} (IPv{rule.family})"


def _describe_address(item: IfAddress) -> str:
    return f"{item.address} dev {item.link}"


def foreign_link(desired: DesiredState, kernel: KernelState) -> tuple[Link, ...]:
    """Links that stand where ours should, but are not ours: used as they are, never changed."""
    return tuple(
        found
        for name in desired.kernel.links
        if (found := kernel.links.get(name)) is not None and not owns_link(found)
    )
