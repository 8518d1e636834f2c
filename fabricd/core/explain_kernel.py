"""The hops of `why` in this node's kernel: rule, route, the way out and back, ESP, filter."""

from __future__ import annotations

from collections.abc import Iterator

from fabricd.core.facts import Lookup
from fabricd.core.hop import Hop
from fabricd.core.ownership import RULE_PRIORITY, TABLE
from fabricd.core.plan_kernel import describe_route
from fabricd.core.routing import FORWARDING
from fabricd.core.site import Site
from fabricd.core.state import KernelState
from fabricd.core.surroundings import USERSPACE_LINK
from fabricd.model import Role, family


def kernel_hops(site: Site) -> Iterator[Hop]:
    """In the order in which a packet meets them."""
    kernel = site.here.kernel
    if kernel is None:
        yield Hop.unknown("kernel", site.here.kernel_fault, "run as root")
        return
    yield from _rule(site, kernel)
    yield _route(site, kernel)
    yield _forwarding(site, kernel)
    yield from _way_out(site)
    yield from _delivery(site)
    yield _esp(site, kernel)
    yield _filter(site)


def _rule(site: Site, kernel: KernelState) -> Iterator[Hop]:
    key = family(site.here.remote), RULE_PRIORITY
    wanted, found = site.here.desired.kernel.rules.get(key), kernel.rules.get(key)
    words = f"{RULE_PRIORITY}: from all lookup {TABLE}"
    if wanted is None:
        return  # nothing is in that table here
    if found != wanted:
        what = "is missing" if found is None else "is another"
        yield Hop.broken("rule", f"the rule {words} {what}", site.repair)
    else:
        yield Hop.ok("rule", words)


def _route(site: Site, kernel: KernelState) -> Hop:
    remote = site.pair.remote
    for peer, subnet, net in site.here.desired.unroutable:
        if peer == site.peer.name and subnet == remote:
            return Hop.broken(
                "route",
                f"{remote} lies in {net}, which this node reaches outside the tunnels: it is not "
                "routed to the peer",
                "give one of the two another network",
            )
    for route in site.routes:
        found = kernel.routes.get(route.key)
        if found is None:
            return Hop.broken("route", f"the route {describe_route(route)} is missing", site.repair)
        if found != route:
            return Hop.broken(
                "route",
                f"the route {describe_route(route)} is another: {describe_route(found)}",
                site.repair,
            )
    if not site.routes:
        return Hop.broken(
            "route", f"nothing can lead to {remote}", "see the warnings of fabricctl status"
        )
    return Hop.ok("route", ", ".join(map(describe_route, site.routes)))


def _forwarding(site: Site, kernel: KernelState) -> Hop:
    name = FORWARDING[family(site.here.remote)]
    found = kernel.sysctls.get(name)
    if found is None or found.value != "1":
        value = found.value if found else "missing"
        return Hop.broken("forwarding", f"{name} is {value}: nothing is forwarded", site.repair)
    return Hop.ok("forwarding", f"{name} is on")


def _way_out(site: Site) -> Iterator[Hop]:
    """What the kernel does with a packet to the remote pod, whoever's rules and routes decide."""
    way = site.here.out
    if way is None:
        return
    wanted = _tunnel_link(site)
    if way.refused:
        yield Hop.broken("way out", f"{way.packet}: the kernel says: {way.refused}", _foreign(way))
    elif way.link != wanted:
        yield Hop.broken("way out", f"{_words(way)}, not to {wanted}", _foreign(way))
    else:
        yield Hop.ok("way out", _words(way))


def _delivery(site: Site) -> Iterator[Hop]:
    way = site.here.delivery
    if way is None:
        return
    if way.refused:
        yield Hop.broken("delivery", f"{way.packet}: the kernel says: {way.refused}", _foreign(way))
    elif way.link == _tunnel_link(site):
        yield Hop.broken("delivery", f"{_words(way)}: back into the tunnel", _foreign(way))
    else:
        yield Hop.ok("delivery", _words(way))


def _tunnel_link(site: Site) -> str:
    return next((route.link for route in site.routes if route.link), "a tunnel")


def _words(way: Lookup) -> str:
    table = f" by table {way.table}" if way.table else ""
    return f"{way.packet} goes to {way.link}{table}"


def _foreign(way: Lookup) -> str:
    target = way.packet.partition(" ")[0]
    return (
        "if rule and route above are right, another rule or route comes before them: "
        f"ip rule; ip route show table all match {target}"
    )


# ---------------------------------------------------------------- ESP, packet filter


def _esp(site: Site, kernel: KernelState) -> Hop:
    """What encrypts: the kernel by an XFRM policy, or charon behind its tun device."""
    policies = site.here.policies
    for direction in ("out", "in", "fwd"):
        mine = [policy for policy in policies if policy.direction == direction]
        first = min(mine, key=lambda policy: policy.priority, default=None)
        if first is not None and first.block:
            return Hop.broken(
                "ESP",
                f"an XFRM policy blocks {first.selector} ({direction}, priority {first.priority})",
                "it is not fabricd's: ip xfrm policy",
            )
    ike = site.here.ike
    if ike is not None and ike.userspace_esp:
        link = kernel.links.get(USERSPACE_LINK)
        if link is None or not link.up:
            what = "is down" if link else "is missing"
            return Hop.broken(
                "ESP",
                f"charon's tun device {USERSPACE_LINK} {what}: nothing is encrypted",
                f"ip link set {USERSPACE_LINK} up, or restart charon: systemctl restart strongswan",
            )
        return Hop.ok("ESP", f"charon encrypts behind {USERSPACE_LINK}")
    if site.here.policies_fault:
        return Hop.unknown("ESP", site.here.policies_fault, "run as root")
    missing = [
        direction
        for direction in ("out", "in", "fwd")
        if not any(p.template for p in policies if p.direction == direction)
    ]
    if missing:
        return Hop.broken(
            "ESP",
            f"no XFRM policy for {site.pair.local} === {site.pair.remote} ({', '.join(missing)})",
            "terminate the CHILD_SA, so that it is made anew: swanctl --terminate --ike "
            f"{site.conn}",
        )
    return Hop.ok("ESP", f"XFRM policies lead into the tunnel {policies[0].template}".rstrip())


def _filter(site: Site) -> Hop:
    obstacles = site.here.obstacles
    rest = f"; {site.here.filter_fault}" if site.here.filter_fault else ""
    certain = [item for item in obstacles if item.certain]
    for item in certain or obstacles:
        detail = f"{item.rule} {item.does} {item.packet}"
        advice = "let it pass: what goes through a tunnel has the pods' addresses"
        if item.does == "drops" and item.certain:
            return Hop.broken("packet filter", detail, advice)
        if item.certain:
            return Hop.broken("packet filter", f"{detail}, so that no tunnel is for it", advice)
        return Hop.warn("packet filter", f"{detail}, under conditions{rest}", advice)
    if rest:
        return Hop.unknown("packet filter", rest.removeprefix("; "), "look at it by hand")
    who = "this node" if site.me.role is Role.EDGE else "this gateway"
    return Hop.ok("packet filter", f"nothing on {who} drops or changes the pods' packets")
