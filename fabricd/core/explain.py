"""Why two pods can or cannot talk: every hop of the way judged, the first broken one named.

A walk over values: the records first, then what this node's charon (`explain_charon`) and kernel
(`explain_kernel`) hold, then what the other node says and a probe brings back (`explain_probe`).
What follows from a broken hop is broken too and is shown; the first one is the one to mend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fabricd.core.explain_charon import charon_hops
from fabricd.core.explain_kernel import kernel_hops
from fabricd.core.explain_probe import across_the_bridge, probe_hops
from fabricd.core.facts import Facts
from fabricd.core.hop import Hop, Verdict
from fabricd.core.index import Index
from fabricd.core.meeting import Meeting, meeting, owners, subnet_of, within
from fabricd.core.site import Site
from fabricd.model import Address, Node, Rejection, Role


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer."""

    source: Address
    destination: Address
    hops: tuple[Hop, ...]

    @property
    def broken(self) -> Hop | None:
        """The first hop that stops the traffic; or the last one, if nobody knows what it does."""
        found = next((hop for hop in self.hops if hop.verdict is Verdict.BROKEN), None)
        if found is None and self.hops[-1].verdict is Verdict.UNKNOWN:
            return self.hops[-1]
        return found

    @property
    def can(self) -> bool:
        """Whether they can talk, for all that is known."""
        return self.broken is None

    def document(self) -> dict[str, Any]:
        """`{"can", "broken", "hops": [{"name", "ok", "detail", …}]}`."""
        broken = self.broken
        return {
            "source": self.source,
            "destination": self.destination,
            "can": broken is None,
            "broken": broken.name if broken else None,
            "detail": broken.detail if broken else "",
            "do": broken.do if broken else "",
            "hops": [hop.document() for hop in self.hops],
        }


def explain(facts: Facts) -> Explanation:
    """Walk the whole way."""
    return Explanation(facts.source, facts.destination, tuple(_walk(facts)))


def _walk(facts: Facts) -> Iterator[Hop]:
    yield _records(facts)
    if not facts.records.nodes and facts.records.fault:
        return
    ends = [
        _end(facts, "source", facts.source),
        _end(facts, "destination", facts.destination),
    ]
    yield from ends
    if any(hop.verdict is Verdict.BROKEN for hop in ends):
        return
    if (node := _both_behind(facts)) is not None:
        yield from _one_node(facts, node)
        return
    found = meeting(facts.records, facts.source, facts.destination, facts.views)
    hop = _peering(facts, found)
    yield hop
    if found is None or hop.verdict is Verdict.BROKEN:
        return
    yield _asked_on(facts, found)
    if facts.here is not None:
        site = Site(facts, facts.here, found)
        yield from charon_hops(site)
        yield from kernel_hops(site)
        yield from probe_hops(site)
    else:
        for name, other in (found.nodes, found.nodes[::-1]):
            yield _published(facts, name, other)


# ---------------------------------------------------------------- records


def _records(facts: Facts) -> Hop:
    records = facts.records
    if not records.fault:
        return Hop.ok("records", f"{len(records.nodes)} nodes in force, read from the store")
    if records.nodes:
        return Hop.warn(
            "records",
            f"the store does not answer ({records.fault}): going by the "
            f"{len(records.nodes)} nodes that were last kept on this node",
            "bring the store back: what has changed since is not known here",
        )
    return Hop.broken(
        "records",
        f"the store does not answer ({records.fault}), and no earlier records are kept here",
        "bring the store back, or look at [store] in the config",
    )


def _end(facts: Facts, name: str, pod: Address) -> Hop:
    """Whose address this is."""
    records = facts.records
    found = owners(records.nodes, pod)
    if not found:
        return _nobodys(facts, name, pod)
    detail = f"{pod} is behind " + " and ".join(
        f"{node.name} ({node.role.value}, {subnet_of(node, pod)})" for node in found
    )
    for node in found:
        fault = _rejection(records.rejected, f"nodes/{node.name}")
        if fault is not None:
            return Hop.warn(
                name,
                f"{detail}, but a newer version of its record is rejected: {fault}",
                f"mend the record {facts.prefix}/nodes/{node.name}",
            )
    return Hop.ok(name, detail)


def _nobodys(facts: Facts, name: str, pod: Address) -> Hop:
    records = facts.records
    for key, subnets in sorted(records.claims.items()):
        if any(within(pod, subnet) for subnet in subnets):
            fault = _rejection(records.rejected, key)
            return Hop.broken(
                name,
                f"{pod} would be behind {key.removeprefix('nodes/')}, but its record is "
                f"rejected: {fault}",
                f"mend the record {facts.prefix}/{key}",
            )
    for node in records.nodes.values():
        if node.endpoint == pod:
            return Hop.broken(
                name,
                f"{pod} is the endpoint of {node.name} on the underlay, not a pod's address",
                f"ask for an address in {', '.join(node.subnets)}",
            )
    detail = f"no record claims {pod}"
    if records.rejected:
        detail += f"; one of those that are rejected may be meant to: {records.rejected[0]}"
    return Hop.broken(
        name, detail, "write its node's record: fabricctl node put NAME --subnet CIDR …"
    )


def _rejection(rejected: tuple[Rejection, ...], key: str) -> Rejection | None:
    return next((fault for fault in rejected if fault.key == key), None)


# ---------------------------------------------------------------- peering


def _both_behind(facts: Facts) -> Node | None:
    """The node that has both addresses."""
    nodes = facts.records.nodes
    having = {node.name for node in owners(nodes, facts.destination)}
    both = [node for node in owners(nodes, facts.source) if node.name in having]
    return next((n for n in both if n.name == facts.name), both[0] if both else None)


def _one_node(facts: Facts, node: Node) -> Iterator[Hop]:
    if node.role is Role.CLOUD:
        yield _within_the_cluster(facts)
        return
    yield Hop.ok("peering", f"both are behind {node.name}: its bridge joins them, no tunnel does")
    if facts.here is None:
        yield Hop.unknown(
            "node", f"this is {facts.name}: only {node.name} can tell more", facts.ask_on(node.name)
        )
        return
    yield from across_the_bridge(facts, facts.here)


def _within_the_cluster(facts: Facts) -> Hop:
    return Hop.unknown(
        "peering",
        f"{facts.source} and {facts.destination} are both in the cloud cluster: its own network "
        "joins them, the fabric has no part in it",
        "look at the cluster's network, as fabricctl calico check does",
    )


def _peering(facts: Facts, found: Meeting | None) -> Hop:
    if found is None:
        return _no_peering(facts)
    a, b = found.source, found.destination
    peering = found.peering
    if peering.obstacle:
        return Hop.broken(
            "peering",
            f"{a.name} and {b.name} should have a tunnel, but none is possible: {peering.obstacle}",
            "mend the records of the two",
        )
    initiator = a.name if peering.initiate else b.name
    because = (
        f"share {', '.join(peering.because)}" if peering.because else "are an edge and a gateway"
    )
    return Hop.ok("peering", f"{a.name} and {b.name} {because}; {initiator} initiates")


def _no_peering(facts: Facts) -> Hop:
    nodes, communities = facts.records.nodes, facts.records.communities
    a, b = owners(nodes, facts.source)[0], owners(nodes, facts.destination)[0]
    if Role.CLOUD is a.role is b.role:
        return _within_the_cluster(facts)
    index = Index.of(nodes, communities)
    detail = "; ".join(
        f"{node.name} is in {', '.join(sorted(index.tokens(node))) or 'no community'}"
        for node in (a, b)
    )
    detail = f"{a.name} and {b.name} share no community: {detail}"
    for fault in facts.records.rejected:
        if fault.key.startswith("communities/") or fault.key in {
            f"nodes/{a.name}",
            f"nodes/{b.name}",
        }:
            detail += f"; {fault} (rejected)"
            break
    some = sorted(index.tokens(a) | index.tokens(b))
    token = some[0] if some else "TOKEN"
    return Hop.broken(
        "peering",
        detail,
        f"put both into one community, {token} say: name it in both node records, or list both "
        f"as members of {facts.prefix}/communities/{token}",
    )


# ---------------------------------------------------------------- asked elsewhere


def _asked_on(facts: Facts, found: Meeting) -> Hop:
    a, b = found.nodes
    if facts.name in found.nodes:
        return Hop.ok("node", f"this is {facts.name}, one of the two")
    return Hop.unknown(
        "node",
        f"this is {facts.name}, which is neither {a} nor {b}: what their charons and kernels hold "
        "can't be seen from here, only what they publish",
        facts.ask_on(*found.nodes),
    )


def _published(facts: Facts, name: str, other: str) -> Hop:
    """What one of the two says of the other, seen from a third node."""
    hop = f"status of {name}"
    if facts.published_fault:
        return Hop.broken(
            hop,
            f"it can't be read: {facts.published_fault}",
            f"ask on {name} or {other} itself",
        )
    view = facts.published.get(name)
    if view is None:
        return Hop.broken(
            hop,
            f"{name} publishes no status: its fabricd does not run, or does not reach the store",
            f"look at {name}: systemctl status fabricd",
        )
    peer = view.peers.get(other)
    if peer is None:
        return Hop.broken(
            hop,
            f"{name} does not know of {other}: it has not seen the records as they are now"
            + "".join(f"; {fault}" for fault in view.faults),
            f"look at {name}: fabricctl status",
        )
    if not peer.up:
        return Hop.broken(
            hop,
            f"{name}: tunnel to {other} {peer.state}: {peer.reason or peer.last_error}",
            facts.ask_on(name),
        )
    return Hop.ok(hop, f"{name}: tunnel to {other} {peer.state}")
