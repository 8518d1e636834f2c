"""All that `why` has to know, gathered on this node."""

from __future__ import annotations

import time
from dataclasses import replace

from fabricd.config import Config
from fabricd.core.desired import NOTHING
from fabricd.core.facts import Facts, Here, NodeView
from fabricd.core.meeting import meeting, owners
from fabricd.core.site import Site
from fabricd.model import Address, Role
from fabricd.probe import ip
from fabricd.probe.echo import echo
from fabricd.probe.end import Look
from fabricd.probe.records import Source


async def gather(
    config: Config,
    source: Address,
    destination: Address,
    found: Source,
    daemon: NodeView | str,
) -> Facts:
    """Look at this node, if it is one of the two ends. `daemon`: what it says, or why nothing.

    Raises Unavailable when a tool is missing.
    """
    facts = Facts(
        name=config.node.name,
        source=source,
        destination=destination,
        records=found.records,
        prefix=config.store.prefix,
        now=time.time(),
        daemon=daemon if isinstance(daemon, NodeView) else None,
        daemon_fault=daemon if isinstance(daemon, str) else "",
        published=found.published,
        published_fault=found.published_fault,
    )
    both = _both_behind(facts)
    if both is not None:
        return replace(facts, here=await _across_the_bridge(facts)) if both else facts
    met = meeting(facts.records, source, destination, facts.views)
    if met is None or met.peering.obstacle or facts.name not in met.nodes:
        return facts
    outward = met.source.name == facts.name
    start = Here(
        local=source if outward else destination,
        remote=destination if outward else source,
        desired=NOTHING,
    )
    return replace(facts, here=await Look(config, Site(facts, start, met)).all())


def _both_behind(facts: Facts) -> bool | None:
    """Whether both pods are behind this one; False: behind another; None: not behind one node."""
    nodes = facts.records.nodes
    there = {node.name for node in owners(nodes, facts.destination)}
    both = [node for node in owners(nodes, facts.source) if node.name in there]
    if not both:
        return None
    return any(node.name == facts.name and node.role is Role.EDGE for node in both)


async def _across_the_bridge(facts: Facts) -> Here:
    local, remote = facts.source, facts.destination
    delivery = await ip.lookup(local)
    return Here(
        local=local,
        remote=remote,
        desired=NOTHING,
        delivery=delivery,
        local_echo=await echo(local),
        remote_echo=await echo(remote),
        neighbour=await ip.neighbour(local, delivery.link) if delivery.link else "",
    )
