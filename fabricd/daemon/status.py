"""The status document: what `fabricctl status` shows, `/fabric/status/NAME` holds, metrics read.

Reads what the loop and the initiator know, and changes nothing. A tunnel is up when what charon
shows says so, never because something was asked for once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fabricd import __version__
from fabricd.core.ownership import DEAD_END, conn_name
from fabricd.core.plan import foreign_link
from fabricd.core.state import Child, ChildSa, IkeSa
from fabricd.core.topology import Peering
from fabricd.core.tunnels import ESTABLISHED, carries, installed, pair_of, sas_by_conn
from fabricd.daemon.initiator import Initiator
from fabricd.daemon.picture import Picture
from fabricd.daemon.reconcile import Reconciler
from fabricd.daemon.trust import Seen, uncovered
from fabricd.ike import Credentials
from fabricd.model import Node

PUBLISHED: Final = 100
"""Entries of each list of faults in a published document."""


NEEDED_PLUGINS: Final = {
    "addrblock": "who can write records gets traffic for subnets that are not in its certificate",
    "revocation": "it lets in peers whose certificates are revoked",
}
"""Without which charon works, and does not keep what is promised."""


@dataclass(frozen=True, slots=True)
class About:
    """What the daemon knows of itself and of its source of records."""

    node: str
    source: str
    """`etcd`, `dir` or `kubernetes`."""
    prefix: str
    """Of the keys that are shown: `/fabric`."""
    last_event: float
    """When the source last said something, Unix seconds; 0 if never."""
    snapshot_fault: str
    """Why the last good records can't be read from disk or kept there, if so."""
    now: float
    """Unix seconds."""


def document(about: About, reconciler: Reconciler, initiator: Initiator) -> dict[str, Any]:
    """Build the document; every field that the contract names and some more."""
    picture, rib = reconciler.picture, reconciler.rib
    sas = sas_by_conn(picture.ike) if picture.ike is not None else None
    credentials = reconciler.keyring.credentials
    peers = [
        _peer(peering, sas, picture, reconciler, initiator, about.now)
        for peering in picture.desired.peerings
    ]
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
        "peers": peers,
        "rejected": [
            {"key": f"{about.prefix}/{item.key}", "field": item.field, "reason": item.reason}
            for item in picture.in_force.rejected
        ],
        "held": [f"{about.prefix}/{key}" for key in rib.held],
        "warnings": list(_warnings(about, reconciler)),
        "certificates": dict(credentials.expiry) if credentials else {},
    }


def not_ready(status: Mapping[str, Any], passes: int) -> tuple[str, ...]:
    """Why the node is not ready to do its work, one line a reason; empty: it is."""
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


def abridged(status: Mapping[str, Any]) -> dict[str, Any]:
    """The document as it is published: a store takes no value of any length, and many wrong records
    must not keep the rest from being known.
    """
    result = dict(status)
    for name in ("warnings", "rejected", "held"):  # what is added to the warnings stays
        more = len(status[name]) - PUBLISHED
        if more > 0:
            result[name] = status[name][:PUBLISHED]
            result["warnings"] = [*result["warnings"], f"{name}: {more} more are not shown here"]
    return result


def essence(status: Mapping[str, Any]) -> Any:
    """The part of the document whose change is worth a write to the store."""
    return (
        [
            (peer["name"], peer["up"], peer["state"], peer["reason"], peer["remote"])
            for peer in status["peers"]
        ],
        [status[key] for key in ("role", "version", "synced", "rejected", "held", "warnings")],
        [status[part]["reason"] for part in ("source", "kernel", "charon")],
    )


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
    if picture.ike is not None and picture.ike.plugins:
        for plugin, consequence in NEEDED_PLUGINS.items():
            if plugin not in picture.ike.plugins:
                yield f"charon runs without its plugin {plugin}: {consequence}"
    yield from (f"{action}: {error}" for action, error in sorted(picture.failures.items()))
    if about.snapshot_fault:
        yield f"the last good records on disk: {about.snapshot_fault}"


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


# ---------------------------------------------------------------- one peer


def _peer(
    peering: Peering,
    sas: Mapping[str, list[IkeSa]] | None,
    picture: Picture,
    reconciler: Reconciler,
    initiator: Initiator,
    now: float,
) -> dict[str, Any]:
    peer, conn = peering.peer, conn_name(peering.peer.name)
    mine = sas.get(conn, []) if sas is not None else []
    established = [sa for sa in mine if sa.state in ESTABLISHED]
    best = max(established, key=lambda sa: sa.id, default=None)
    age = best.age if best else None
    seen = reconciler.trust.of(peer.identity)
    error = (
        reconciler.trust.objection(conn)
        or uncovered(seen, peer.subnets)
        or picture.failures.get(f"conn.load {conn}")
        or initiator.errors.get(conn, "")
    )
    if not picture.desired.ike:
        error = error or "this node's certificate or key can't be used"
    totals = reconciler.traffic.of(conn)
    up, state, reason = _judge(peering, mine, sas is not None, error)
    return {
        "name": peer.name,
        "role": peer.role.value,
        "up": up,
        "state": state,
        "reason": reason,
        "initiator": peering.initiate,
        "endpoint": peer.endpoint,
        "remote": best.remote_host if best else "",
        "communities": list(peering.because),
        "ike": best.state if best else (mine[-1].state if mine else ""),
        "age": age,
        "established": now - age if age is not None else None,
        "bytes_in": totals.bytes_in,
        "bytes_out": totals.bytes_out,
        "rekeys": totals.rekeys,
        "initiations": initiator.attempts[conn],
        "last_error": error,
        "certificate": _certificate(seen),
        "children": [
            _child(pair, mine)
            for pair in sorted(peering.carried | (peering.children & installed(mine)))
        ],
    }


def _certificate(seen: Seen | None) -> dict[str, Any] | None:
    """What the peer has shown last, as far as charon tells."""
    if seen is None:
        return None
    blocks = seen.about.blocks
    return {
        "serial": seen.about.serial,
        "issuer": seen.about.issuer,
        "not_after": seen.about.not_after,
        "subnets": list(blocks.texts()) if blocks is not None else None,
    }


def _judge(
    peering: Peering, mine: list[IkeSa], charon_seen: bool, error: str
) -> tuple[bool, str, str]:
    """Whether the tunnel is up, its state in a word, and why it is not up."""
    if peering.obstacle:
        return False, "impossible", peering.obstacle
    if not charon_seen:
        return False, "unknown", "charon does not answer"
    established = any(sa.state in ESTABLISHED for sa in mine)
    have = installed(mine)
    if peering.alternatives and not peering.initiate:
        # Which gateway carries an edge is the edge's choice.
        if peering.children <= have:
            return True, "up", ""
        if established and not have and not error:
            return True, "standby", ""
        if not have:
            return False, "waiting", error or "no IKE_SA"
    elif peering.standby:
        reason = "" if established else error or "no IKE_SA"
        return established, "standby", reason
    if peering.carried <= have:
        return True, "up", ""
    narrowed = [
        f"{child.name} was narrowed to {', '.join(sorted(child.local))} - "
        f"{', '.join(sorted(child.remote))}"
        for sa in mine
        for child in sa.children
        if not carries(child) and child.state == "INSTALLED"
    ]
    missing = f"{len(peering.carried - have)} of {len(peering.carried)} CHILD_SAs missing"
    if not peering.initiate:
        missing += f": {peering.peer.name} has to initiate"
    state = "partial" if have else "connecting" if peering.initiate else "waiting"
    return False, state, error or "; ".join(narrowed) or missing


def _child(pair: Child, mine: list[IkeSa]) -> dict[str, Any]:
    found: list[ChildSa] = [child for sa in mine for child in sa.children if pair_of(child) == pair]
    best = max(found, key=lambda child: (carries(child), child.id), default=None)
    return {
        "local": pair.local,
        "remote": pair.remote,
        "up": best is not None and carries(best),
        "state": best.state if best else "",
        "bytes_in": best.bytes_in if best else 0,
        "bytes_out": best.bytes_out if best else 0,
        "age": best.age if best else None,
    }
