"""The last hops of `why`: what the other node says, and what comes back through the tunnel."""

from __future__ import annotations

from collections.abc import Iterator

from fabricd.core.facts import Echo, Facts, Here
from fabricd.core.hop import Hop
from fabricd.core.site import Site

GONE = frozenset({"FAILED", "INCOMPLETE"})
"""NUD states of an address that nobody on the link answers for (ip-neighbour(8))."""


def probe_hops(site: Site) -> Iterator[Hop]:
    """The local pod, the other node, the remote pod, a large packet."""
    yield local_pod(site.here)
    yield _other_node(site)
    yield _probe(site)
    if site.here.big_echo is not None and _answered(site.here.remote_echo):
        yield _mtu(site, site.here.big_echo)


def local_pod(here: Here) -> Hop:
    """Whether anybody answers for the local pod's address."""
    echo = here.local_echo
    if _answered(echo):
        return Hop.ok("local pod", f"{here.local} answers")
    if here.neighbour in GONE:
        return Hop.broken(
            "local pod",
            f"nobody on this node answers for {here.local} (neighbour {here.neighbour})",
            "see whether the pod runs and is connected to the bridge: ip neighbour; bridge link",
        )
    if echo is not None and echo.fault:
        return Hop.unknown("local pod", echo.fault, "run as root")
    return Hop.warn(
        "local pod",
        f"{here.local} does not answer to ICMP echo",
        "see whether the pod runs, and lets ICMP in",
    )


def across_the_bridge(facts: Facts, here: Here) -> Iterator[Hop]:
    """Both pods are behind this node."""
    way = here.delivery
    if way is not None and way.refused:
        yield Hop.broken(
            "delivery",
            f"{way.packet}: the kernel says: {way.refused}",
            "see whether the bridge is there, with its address: fabricctl plan",
        )
    yield local_pod(here)
    if _answered(here.remote_echo):
        yield Hop.ok("probe", f"{here.remote} answers, both from {facts.name}'s own address")
    else:
        yield Hop.broken(
            "probe", f"{here.remote} does not answer to ICMP echo", "see whether the pod runs"
        )


def _other_node(site: Site) -> Hop:
    """The other node's status. What is published lags behind, so the probe has the last word."""
    judge = Hop.warn if _answered(site.here.remote_echo) else Hop.broken
    peer, name = site.peer.name, "other node"
    if site.facts.published_fault:
        return Hop.unknown(name, f"{peer}'s status can't be read: {site.facts.published_fault}")
    if site.peers_status is None:
        return judge(
            name,
            f"{peer} publishes no status: its fabricd does not run, or does not reach the store",
            f"look at {peer}: systemctl status fabricd",
        )
    view = site.peers_view
    if view is None:
        return judge(
            name,
            f"{peer} does not know of {site.me.name}: it has not seen the records as they are now",
            f"look at {peer}: fabricctl status",
        )
    if not view.up:
        reason = view.reason or view.last_error
        return judge(
            name, f"{peer}: tunnel to {site.me.name} {view.state}: {reason}", site.ask_peer
        )
    return Hop.ok(name, f"{peer}: tunnel to {site.me.name} {view.state}")


def _probe(site: Site) -> Hop:
    echo, here = site.here.remote_echo, site.here
    if echo is None or echo.fault:
        return Hop.unknown("probe", echo.fault if echo else "not tried", "run as root")
    if echo.answered:
        return Hop.ok("probe", f"{here.remote} answers to ICMP echo from {echo.source}")
    detail = f"{here.remote} does not answer to ICMP echo from {echo.source}"
    if _answered(here.peer_echo):
        assert here.peer_echo is not None, "it answered"
        return Hop.broken(
            "probe",
            f"{detail}, but {site.peer.name}'s own {here.peer_echo.target} does: the tunnel is "
            "well, the pod is not there or takes no ICMP",
            f"look at the pod behind {site.peer.name}; {site.ask_peer}",
        )
    return Hop.broken(
        "probe",
        f"{detail}, though everything on {site.me.name} is right as far as it can be seen",
        site.ask_peer,
    )


def _mtu(site: Site, big: Echo) -> Hop:
    if big.fault:
        return Hop.unknown("MTU", big.fault)
    if big.answered:
        return Hop.ok("MTU", f"packets of {big.size} octets pass unfragmented")
    return Hop.broken(
        "MTU",
        f"small packets pass, one of {big.size} octets does not: something on the way drops "
        "what is too large for it and does not say so",
        f"lower the MTU of the underlay on {site.me.name} and {site.peer.name} to what the network "
        'between them takes, or let ICMP "fragmentation needed" through',
    )


def _answered(echo: Echo | None) -> bool:
    return echo is not None and echo.answered
