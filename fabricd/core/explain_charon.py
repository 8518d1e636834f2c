"""The hops of `why` that charon and the daemons know of: from fabricd down to the CHILD_SA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fabricd.core.facts import PeerView
from fabricd.core.hop import Hop
from fabricd.core.site import Site
from fabricd.core.tunnels import pair_of
from fabricd.model import Prefix, family, network

STRONGSWAN: Final = "start it: systemctl start strongswan; its log says why it ended"


def charon_hops(site: Site) -> Iterator[Hop]:
    """In the order in which one stands on the other."""
    yield fabricd_hop(site)
    if site.here.ike is None:
        yield Hop.broken("charon", site.here.ike_fault, STRONGSWAN)
    else:
        esp = "userspace ESP" if site.here.ike.userspace_esp else "the kernel's ESP"
        yield Hop.ok("charon", f"answers, with {esp}")
    yield _certificate(site)
    if (underlay := _underlay(site)) is not None:
        yield underlay
    if site.here.ike is None:
        return
    yield _connection(site)
    yield _ike_sa(site)
    yield _child_sa(site)


def fabricd_hop(site: Site) -> Hop:
    """The daemon of this node. Without it the tunnels stay as they are: it never stops traffic."""
    view = site.facts.daemon
    if view is None:
        return Hop.warn(
            "fabricd",
            f"{site.facts.daemon_fault}; what it has set up stays, but nothing is put right",
            "start it: systemctl start fabricd",
        )
    if site.peer.name not in view.peers:
        return Hop.warn(
            "fabricd",
            f"it does not know of {site.peer.name}: it has not seen the records as they are now"
            + "".join(f"; {fault}" for fault in view.faults),
            "fabricctl status says whether it is in sync with the store",
        )
    if view.faults:
        return Hop.warn("fabricd", "; ".join(view.faults), "see fabricctl status")
    return Hop.ok("fabricd", "runs, in sync with its store")


# ---------------------------------------------------------------- certificates


def _certificate(site: Site) -> Hop:
    """Own credentials, and what each of the two has seen of the other's certificate."""
    judge = Hop.warn if site.carried else Hop.broken
    if site.here.credential_faults:
        faults = "; ".join(site.here.credential_faults)
        return judge("certificate", f"this node's credentials can't be used: {faults}", "mend them")
    for owner, view, subnet in (
        (site.peer, site.daemons_view, site.pair.remote),
        (site.me, site.peers_view, site.pair.local),
    ):
        fault = _fault(view, subnet, site.facts.now)
        if fault:
            all_of_them = " ".join(f"--subnet {each}" for each in owner.subnets)
            return judge(
                "certificate",
                f"{owner.name}'s certificate {fault}",
                f"issue another: fabricctl pki issue {owner.name} --force {all_of_them}",
            )
    return Hop.ok("certificate", "this node's can be used, nothing is known against either")


def _fault(view: PeerView | None, subnet: Prefix, now: float) -> str:
    """What is wrong with the certificate that a node has seen of another."""
    if view is None:
        return ""
    if view.not_after is not None and now > view.not_after:
        return "has expired"
    if view.blocks is not None and not any(_covers(block, subnet) for block in view.blocks):
        blocks = ", ".join(view.blocks) or "no addresses at all"
        return f"is for {blocks}, not for {subnet}, which its record claims"
    return ""


def _covers(block: str, subnet: Prefix) -> bool:
    """Whether an address block (a prefix, or `FIRST-LAST`) has all of a subnet."""
    first, dash, last = block.partition("-")
    inner = network(subnet)
    if family(block) != family(subnet):
        return False
    if not dash:
        return inner.subnet_of(network(block))  # type: ignore[arg-type]  # of one family
    low, high = (network(f"{end}/{inner.max_prefixlen}")[0] for end in (first, last))
    return low <= inner[0] and inner[-1] <= high  # type: ignore[operator]


# ---------------------------------------------------------------- IKE


def _underlay(site: Site) -> Hop | None:
    """The way of IKE to the peer, as far as it can be known."""
    way, echo = site.here.endpoint, site.here.endpoint_echo
    for item in site.here.ike_obstacles:
        judge = Hop.broken if item.certain and not site.established else Hop.warn
        return judge(
            "underlay",
            f"{item.rule} {item.does} {item.packet}{'' if item.certain else ', under conditions'}",
            "let UDP 500 and 4500 pass between the nodes",
        )
    if way is None:
        return None
    if way.refused:
        return Hop.broken(
            "underlay",
            f"no way to {site.peer.name}'s endpoint: {way.packet}: {way.refused}",
            "mend this node's own routes, or the endpoint in the record",
        )
    detail = f"{site.peer.name}'s endpoint {site.peer.endpoint} is reached by {way.link}"
    if echo is None or echo.answered or echo.fault:
        return Hop.ok("underlay", detail)
    detail += ", it does not answer to ICMP echo"
    if site.established:
        return Hop.ok("underlay", detail)
    return Hop.warn(
        "underlay",
        detail,
        f"see whether {site.peer.name} is up, and UDP 500 and 4500 pass between the two",
    )


def _connection(site: Site) -> Hop:
    assert site.here.ike is not None, "told before"
    conn = site.here.ike.conns.get(site.conn)
    if conn is None or site.pair not in conn.children:
        what = (
            f"{site.conn} is not loaded"
            if conn is None
            else f"{site.conn} is loaded without {site.pair.local} === {site.pair.remote}"
        )
        if site.carried:
            return Hop.warn("connection", f"{what}, but its SAs are still there", site.repair)
        return Hop.broken("connection", f"charon: {what}", site.repair)
    return Hop.ok("connection", f"{site.conn} is loaded")


def _ike_sa(site: Site) -> Hop:
    sa = site.established
    if sa is not None:
        return Hop.ok("IKE_SA", f"{sa.state} with {sa.remote_host} for {sa.age} s")
    state = f"only one in state {site.sas[-1].state}" if site.sas else "there is none"
    return Hop.broken("IKE_SA", f"{site.conn}: {state}{_because(site)}", _advice(site))


def _child_sa(site: Site) -> Hop:
    pair = f"{site.pair.local} === {site.pair.remote}"
    if site.carried:
        return Hop.ok("CHILD_SA", f"{pair} is installed")
    mine = [child for sa in site.sas for child in sa.children if pair_of(child) == site.pair]
    for child in mine:
        if child.state == "INSTALLED":
            return Hop.broken(
                "CHILD_SA",
                f"{pair} was narrowed to {', '.join(sorted(child.local))} === "
                f"{', '.join(sorted(child.remote))}: a certificate is not for all of it",
                "compare fabricctl pki show of both certificates with the records",
            )
    state = f"only in state {mine[-1].state}" if mine else "there is none"
    return Hop.broken("CHILD_SA", f"{pair}: {state}{_because(site)}", _advice(site))


def _because(site: Site) -> str:
    """What the two daemons know about why there is no SA."""
    words = ""
    if not site.initiates:
        words += f"; {site.peer.name} has to initiate"
    view, theirs = site.daemons_view, site.peers_view
    if view is not None and (reason := view.last_error or view.reason):
        words += f"; fabricd says: {reason}"
    if site.silent_peer:
        words += (
            f"; {site.peer.name} publishes no status: its fabricd does not run, or does not reach "
            "the store"
        )
    elif theirs is not None and (reason := theirs.last_error or theirs.reason):
        words += f"; {site.peer.name} says: {reason}"
    elif site.peers_status is not None and theirs is None:
        words += f"; {site.peer.name} does not know of {site.me.name}"
    return words


def _advice(site: Site) -> str:
    if site.silent_peer:
        return f"look at {site.peer.name}: systemctl status fabricd strongswan"
    if site.initiates and site.facts.daemon is None:
        return "start fabricd, which initiates it: systemctl start fabricd"
    return f"{site.ask_peer}; and see the log of charon on both"
