"""The status document: what `fabricctl status` shows, `/fabric/status/NAME` holds, metrics read.

Reads what the loop and the initiator know, and changes nothing. What it says of each peer is made
in `daemon.peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fabricd import __version__
from fabricd.core.checkup_charon import NEEDED_PLUGINS
from fabricd.core.ownership import DEAD_END, conn_name
from fabricd.core.plan_kernel import foreign_link
from fabricd.daemon.picture import Picture
from fabricd.daemon.reconcile import Reconciler
from fabricd.ike import Credentials
from fabricd.model import Node, Rejection


@dataclass(frozen=True, slots=True)
class About:
    """What the daemon knows of itself and of its source of records."""

    node: str
    source: str
    """`etcd`, `dir` or `kubernetes`."""
    place: Callable[[str, str], str]
    """The store's."""
    prefix: str
    """Of the keys that are shown: `/fabric`."""
    last_event: float
    """When the source last said something, Unix seconds; 0 if never."""
    snapshot_fault: str
    """Why the last good records can't be read from disk or kept there, if so."""
    now: float
    """Unix seconds."""
    publish_fault: str = ""
    """Why the store, which answers, does not take this status, if so."""


def document(
    about: About, reconciler: Reconciler, peers: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build the document; every field that the contract names and some more. `peers`: the rows."""
    picture, rib = reconciler.picture, reconciler.rib
    return {
        **overview(about, reconciler),
        "peers": list(peers),
        "rejected": [_rejected(about, item) for item in picture.in_force.rejected],
        "held": [f"{about.prefix}/{key}" for key in rib.held],
        "warnings": list(_warnings(about, reconciler)),
    }


def overview(about: About, reconciler: Reconciler) -> dict[str, Any]:
    """What is in the document of the node itself, without the long lists."""
    picture, rib = reconciler.picture, reconciler.rib
    credentials = reconciler.keyring.credentials
    node = picture.desired.node
    return {
        "node": about.node,
        "role": node.role.value if node else None,
        "version": __version__,
        "time": about.now,
        "synced": rib.synced,
        "source": {
            "type": about.source,
            "synced": rib.synced,
            "reason": "" if rib.synced else rib.lost_reason,
            "last_event": about.last_event,
        },
        "kernel": _part(picture, "kernel"),
        "charon": {
            **_part(picture, "charon"),
            "userspace_esp": picture.ike.userspace_esp if picture.ike else None,
        },
        "records": {
            "node": len(picture.in_force.nodes),
            "community": len(picture.in_force.communities),
        },
        "pods": len(picture.desired.kernel.pods),
        "certificates": dict(credentials.expiry) if credentials else {},
    }


def _rejected(about: About, fault: Rejection) -> dict[str, str]:
    place = about.place(fault.key, fault.field)
    return fault.shown(about.prefix) | ({"at": place} if place else {})


def not_ready(status: Mapping[str, Any], passes: int) -> tuple[str, ...]:
    """Why the node is not ready to do its work, one line a reason; empty: it is. `status`: a
    document, or the overview.
    """
    reasons = []
    if not status["synced"]:
        reasons.append(f"store: {status['source']['reason']}")
    reasons += [
        f"{part}: {status[part]['reason']}"
        for part in ("kernel", "charon")
        if not status[part]["ok"]
    ]
    if not status["certificates"]:
        reasons.append("credentials: there are none that can be used")
    if status["synced"] and status["role"] is None:
        reasons.append(f"records: there is none for {status['node']} in force")
    if passes == 0:
        reasons.append("the first pass is not done")
    return tuple(reasons)


def headline(status: Mapping[str, Any], passes: int) -> str:
    """One line for `systemctl status`."""
    up = sum(peer["up"] for peer in status["peers"])
    text = f"{up} of {len(status['peers'])} tunnels up"
    if status["rejected"]:
        text += f", {len(status['rejected'])} faults in records"
    reasons = not_ready(status, passes)
    return f"{text}; {'; '.join(reasons)}" if reasons else text


def _part(picture: Picture, name: str) -> dict[str, Any]:
    reason = picture.faults.get(name, "")
    seen = picture.kernel if name == "kernel" else picture.ike
    if seen is None and not reason:
        reason = "not looked at yet"
    return {"ok": not reason, "reason": reason}


def _warnings(about: About, reconciler: Reconciler) -> Iterable[str]:
    picture, rib = reconciler.picture, reconciler.rib
    yield from picture.in_force.warnings
    for peer, remote, net in picture.desired.unroutable:
        yield (
            f"nodes/{peer}: {remote} lies in {net}, which this node reaches outside the tunnels: "
            "it is not routed to the peer"
        )
    if rib.held:
        yield (
            f"sudden loss of {len(rib.held)} records is held, not obeyed: "
            "put them back, or obey with `fabricctl confirm`"
        )
    if picture.desired.node is None and rib.synced:
        yield f"there is no record {about.prefix}/nodes/{about.node} in force: no peers"
    for fault in reconciler.keyring.faults:
        yield f"credentials: {fault}"
    yield from reconciler.keyring.warnings()
    yield from _unproven(picture.desired.node, reconciler.keyring.credentials)
    if picture.kernel is not None:
        for link in foreign_link(picture.desired, picture.kernel):
            if link.name == DEAD_END:
                yield (
                    f"another link is named {DEAD_END}, out of which clear text could go: with the "
                    "kernel's ESP there are no routes to peers until it is removed or renamed"
                )
            else:
                yield f"link {link.name} was not made by fabricd: used as it is, never changed"
        if picture.kernel.filter_fault:
            yield (
                f"nftables can't be used ({picture.kernel.filter_fault}): pods' traffic that "
                "leaves the fabric keeps its source, and TCP is not fit to what tunnels let pass"
            )
    if picture.desired.kept_ports:
        yield "not all pods that are attached are known: see fabricctl pod list"
    yield from reconciler.senses.health.doubts()
    shunned = reconciler.choice.shunned
    for peering in picture.desired.peerings if shunned else ():
        if peering.standby and conn_name(peering.peer.name) in shunned:
            yield (
                f"gateway {peering.peer.name}: nothing came through its tunnel, so it is given "
                "nothing to carry for a while"
            )
    if picture.ike is not None and picture.ike.plugins:
        for plugin, consequence in NEEDED_PLUGINS.items():
            if plugin not in picture.ike.plugins:
                yield f"charon runs without its plugin {plugin}: {consequence}"
    yield from (f"{action}: {error}" for action, error in sorted(picture.failures.items()))
    if about.snapshot_fault:
        yield f"the last good records on disk: {about.snapshot_fault}"
    if about.publish_fault and rib.synced:
        yield f"this status can't be published: {about.publish_fault}"


def _unproven(node: Node | None, credentials: Credentials | None) -> Iterable[str]:
    """What this node's record claims and its certificate is not for: peers refuse it."""
    blocks = credentials.about.blocks if credentials else None
    if node is None or blocks is None:
        return
    if missing := blocks.uncovered(node.subnets):
        yield (
            f"this node's certificate is for {blocks}, not for {', '.join(missing)} of its record: "
            "peers refuse those; issue another certificate, or mend the record"
        )
