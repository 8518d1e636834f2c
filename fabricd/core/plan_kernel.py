"""The kernel's part of a plan: what differs, object by object, in no order yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fabricd.core.action import UNWANTED, WANTED, Action, Disruption, Kind, act
from fabricd.core.desired import DesiredState
from fabricd.core.diff import diff
from fabricd.core.ownership import ROUTE_PROTOCOL, TABLE_NAME, owns_address, owns_link
from fabricd.core.pods import differences, is_port, ports
from fabricd.core.state import IfAddress, KernelState, Link, Route, RouteKind, Rule

FILTER_NAME: Final = f"nftables table {TABLE_NAME}"


def kernel_actions(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    """What leads from one to the other."""
    want = desired.kernel
    yield from _sysctls(want, kernel)
    yield from _links(desired, kernel)
    yield from _addresses(desired, kernel)
    yield from _filter(desired, kernel)
    yield from _pods(desired, kernel)
    routes = diff(want.routes, kernel.routes)
    for route in routes.missing:
        yield act(Kind.ROUTE_SET, describe_route(route), route, f"{WANTED}, it is missing")
    for old, route in routes.different:
        reason = f"{WANTED}, found {describe_route(old)}"
        yield act(Kind.ROUTE_SET, describe_route(route), route, reason)
    for route in routes.surplus:
        drops = Disruption.DROP if route.kind is RouteKind.UNICAST else Disruption.NONE
        yield act(Kind.ROUTE_REMOVE, describe_route(route), route, UNWANTED, drops)
    rules = diff(want.rules, kernel.rules)
    for rule in rules.missing:
        yield act(Kind.RULE_ADD, _describe_rule(rule), rule, f"{WANTED}, it is missing")
    for _, rule in rules.different:
        yield act(Kind.RULE_ADD, _describe_rule(rule), rule, f"{WANTED}, it is another")
    for rule in rules.surplus:
        yield act(Kind.RULE_REMOVE, _describe_rule(rule), rule, UNWANTED)


def _sysctls(want: KernelState, kernel: KernelState) -> Iterator[Action]:
    for name, item in want.sysctls.items():
        found = kernel.sysctls.get(name)
        if found != item:
            reason = f"{WANTED}, found {found.value if found else 'nothing'}"
            yield act(Kind.SYSCTL_SET, f"{name}={item.value}", item, reason)


def _links(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    observed = kernel.links
    for name, link in desired.kernel.links.items():
        found = observed.get(name)
        if found is None:
            yield act(Kind.LINK_ADD, name, link, f"{WANTED}, it is missing")
        elif owns_link(found) and found.kind != link.kind:
            reason = f"it is a {found.kind}, not a {link.kind}"
            yield act(Kind.LINK_REMOVE, name, found, reason, Disruption.DROP)
        elif owns_link(found) and found.up != link.up:
            yield act(Kind.LINK_SET, f"{name} up", link, f"{WANTED}, it is down")
        elif owns_link(found) and found.mtu < link.mtu:
            reason = f"the underlay's is that large, it has {found.mtu}"
            yield act(Kind.LINK_SET, f"{name} mtu {link.mtu}", link, reason)
    kept = {*desired.kernel.links, *desired.kept_links, *ports(desired.kernel.pods)}
    for name, link in observed.items():
        if not owns_link(link) or name in kept:
            continue
        if not is_port(link):
            yield act(Kind.LINK_REMOVE, name, link, UNWANTED, Disruption.DROP)
        elif not desired.kept_ports or name in desired.left_ports:
            yield act(Kind.LINK_REMOVE, name, link, "no pod is attached by it", Disruption.DROP)


def _addresses(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    for key, item in desired.kernel.addresses.items():
        # Somebody else's address serves as well, and stays theirs.
        if key not in kernel.addresses:
            target = _describe_address(item)
            yield act(Kind.ADDRESS_ADD, target, item, f"{WANTED}, it is missing")
    for key, item in kernel.addresses.items():
        if (
            key not in desired.kernel.addresses
            and item.link not in desired.kept_links
            and item.protocol == ROUTE_PROTOCOL
            and owns_address(kernel, item)
        ):
            target = _describe_address(item)
            yield act(Kind.ADDRESS_REMOVE, target, item, UNWANTED, Disruption.DROP)


def _pods(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    for name, pod in desired.kernel.pods.items():
        found = kernel.pods.get(name)
        if found == pod or name in kernel.departed:
            continue
        yield act(Kind.POD_SET, name, pod, f"it is attached, {differences(pod, found)}")


def _filter(desired: DesiredState, kernel: KernelState) -> Iterator[Action]:
    want, found = desired.kernel.filter, kernel.filter
    if kernel.filter_fault or want == found:
        return
    if want is not None:
        if found is None:
            what = "it is missing"
        else:
            what = "other prefixes are in it" if found.intact else "its rules are not those"
        yield act(Kind.FILTER_SET, FILTER_NAME, want, f"{WANTED}, {what}")
    elif found is not None and not desired.kept_links:
        yield act(Kind.FILTER_REMOVE, FILTER_NAME, found, UNWANTED)


def foreign_link(desired: DesiredState, kernel: KernelState) -> tuple[Link, ...]:
    """Links that stand where ours should, but are not ours: used as they are, never changed."""
    return tuple(
        found
        for name in desired.kernel.links
        if (found := kernel.links.get(name)) is not None and not owns_link(found)
    )


# ---------------------------------------------------------------- words


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
