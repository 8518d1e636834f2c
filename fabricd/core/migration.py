"""From ipsec.conf's connections to records: the nodes, and which communities give edges the tunnels
that they had. What records can't say is said in `Migration.warnings`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from fabricd.core.ipsec_conf import Conn
from fabricd.core.ipsec_ends import Line, SubjectOf, identify, subject, tunnels
from fabricd.model import Prefix, Role, network


@dataclass
class Site:
    """A node as the connections show it."""

    name: str
    identity: str = ""
    host: str | None = None
    subnets: set[Prefix] = field(default_factory=set)
    role: Role = Role.EDGE
    tokens: list[str] = field(default_factory=list)


@dataclass
class Migration:
    """What came of it."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node records by name, as they are written."""
    pairs: set[frozenset[str]] = field(default_factory=set)
    """Nodes that had a connection with one another, and keep it."""
    warnings: list[str] = field(default_factory=list)
    """What is not carried over, and what will be different."""
    faults: list[str] = field(default_factory=list)
    """Why this can't be done."""


def migrate(
    conns: Sequence[Conn],
    networks: Sequence[Prefix],
    identity_template: str,
    names: Mapping[str, str],
    subject_of: SubjectOf,
) -> Migration:
    """The records of these connections.

    `networks`: the fabric's; `names`: a node's name by its address, where nothing tells.
    """
    done = Migration()
    ends = list(tunnels(conns, done.warnings))
    lines = identify(ends, names, subject_of, done.faults, done.warnings)
    sites = _sites(lines, subject_of, done)
    if done.faults:
        return done
    for site in sites.values():
        site.role = _role(site, networks, done)
    _pair(lines, sites, done)
    _share(sites, done)
    _warn(sites, done)
    done.records = {name: _record(site, identity_template) for name, site in sorted(sites.items())}
    return done


def _sites(lines: Sequence[Line], subject_of: SubjectOf, done: Migration) -> dict[str, Site]:
    """The nodes by name."""
    sites: dict[str, Site] = {}
    for line in lines:
        for name, end in zip(line.names, line.ends, strict=True):
            site = sites.setdefault(name, Site(name))
            site.subnets.update(end.subnets)
            identity = end.identity or subject(end, subject_of)
            for old, new in ((site.identity, identity), (site.host, end.host)):
                if name and old and new and old != new:
                    done.faults.append(f"{line.conn}: {name} is {old} elsewhere, and {new} here")
            site.identity, site.host = site.identity or identity, site.host or end.host
    return sites


# ---------------------------------------------------------------- roles, communities


def _role(site: Site, networks: Sequence[Prefix], done: Migration) -> Role:
    """A gateway has subnets outside of the fabric's networks, an edge inside."""

    def inside(subnet: Prefix) -> bool:
        net = network(subnet)
        return any(
            net.version == fabric.version and net.subnet_of(fabric)  # type: ignore[arg-type]
            for fabric in map(network, networks)
        )

    outside = sorted(subnet for subnet in site.subnets if not inside(subnet))
    if len(outside) == len(site.subnets):
        return Role.CLOUD
    if outside:
        done.warnings.append(
            f"{site.name}: {', '.join(outside)} is outside of {', '.join(networks)}: put it into "
            "[fabric] networks on all nodes"
        )
    return Role.EDGE


def _pair(lines: Sequence[Line], sites: Mapping[str, Site], done: Migration) -> None:
    """Who had a tunnel with whom."""
    for line in lines:
        for name, end in zip(line.names, line.ends, strict=True):
            if missing := sites[name].subnets - set(end.subnets):
                done.warnings.append(
                    f"{line.conn}: without {', '.join(sorted(missing))} of {name}: a tunnel "
                    "carries all subnets of both nodes"
                )
        one, other = (sites[name] for name in line.names)
        if one.role is other.role is Role.CLOUD:
            done.warnings.append(
                f"{line.conn}: {one.name} and {other.name} are gateways: left out, the cluster's "
                "own network joins them"
            )
        elif one is not other:
            done.pairs.add(frozenset(line.names))


def _share(sites: Mapping[str, Site], done: Migration) -> None:
    """A token for each group of edges of which every two had a tunnel, until each tunnel has its
    own.
    """
    edges = [name for name, site in sorted(sites.items()) if site.role is Role.EDGE]
    left = [pair for pair in combinations(edges, 2) if frozenset(pair) in done.pairs]
    number = 0
    while left:
        group = [*left[0]]
        for name in edges:
            if all(frozenset({name, member}) in done.pairs for member in group):
                group.append(name)
        number += 1
        for name in group:
            sites[name].tokens.append(f"group{number}")
        left = [pair for pair in left if not set(pair) <= set(group)]


def _warn(sites: Mapping[str, Site], done: Migration) -> None:
    """Of what will be different: every edge has a tunnel to every gateway, say."""
    gateways = [name for name, site in sorted(sites.items()) if site.role is Role.CLOUD]
    for name, site in sorted(sites.items()):
        if site.host is None:
            done.warnings.append(
                f"{name}: no address is known: a record without endpoint is for a node behind NAT"
            )
        new = [each for each in gateways if frozenset({name, each}) not in done.pairs]
        if site.role is Role.EDGE and new:
            done.warnings.append(
                f"{name} gets a tunnel to {', '.join(new)}, of which these files know nothing"
            )


def _record(site: Site, identity_template: str) -> dict[str, Any]:
    record: dict[str, Any] = {"role": site.role.value}
    if site.host:
        record["endpoint"] = site.host
    record["subnets"] = sorted(site.subnets)
    if site.tokens:
        record["community"] = ";".join(site.tokens)
    if site.identity and site.identity != identity_template.replace("{name}", site.name):
        record["identity"] = site.identity
    return record
