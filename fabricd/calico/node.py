"""What this node's kernel shows of routes, forwarding and source NAT, by its own tools.

Works on a node where nothing of the fabric is installed but fabricctl: needs iproute2, and
whichever of nft, iptables-save and ipset there are. Reads only, and judges nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import which
from typing import Final

from fabricd.calico import iptables, nftables
from fabricd.calico.facts import Filters, NodeFacts, Route
from fabricd.calico.snat import Table
from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.errors import Unavailable

TIMEOUT: Final = 30.0
"""Seconds for one tool."""

FORWARDING: Final = {
    4: "net/ipv4/ip_forward",
    6: "net/ipv6/conf/all/forwarding",
}

IPTABLES: Final = {
    4: ("iptables-nft-save", "iptables-legacy-save", "iptables-save"),
    6: ("ip6tables-nft-save", "ip6tables-legacy-save", "ip6tables-save"),
}
"""Both flavours can hold rules at once; the third name is one of them, where it has no other."""


def read_node(*, is_gateway: bool | None, versions: Iterable[int]) -> NodeFacts:
    """All that there is to know of this node, for these address families (4, 6).

    is_gateway: None: where fabricd has put a blackhole. Raises Unavailable.
    """
    routes = {version: read_routes(version) for version in versions}
    if is_gateway is None:
        marks = {route.protocol for found in routes.values() for route in found}
        is_gateway = str(ROUTE_PROTOCOL) in marks
    return NodeFacts(
        is_gateway=is_gateway,
        routes=routes,
        forwards={version: forwards(version) for version in routes},
        filters=read_filters(),
    )


def read_routes(version: int) -> list[Route]:
    """The main table for IPv4 or IPv6. Raises Unavailable."""
    text = _run(["ip", "-j", f"-{version}", "route", "show", "table", "main"])
    if text is None:
        raise Unavailable("kernel", "ip is not installed: apt install iproute2")
    return [
        Route(
            prefix=found["dst"],
            kind=found.get("type", "unicast"),
            protocol=found.get("protocol", "boot"),
            vias=_hops(found, "gateway"),
            links=_hops(found, "dev"),
        )
        for found in json.loads(text or "[]")
    ]


def _hops(route: dict[str, object], field: str) -> tuple[str, ...]:
    """A field of the only hop or of all."""
    hops = route.get("nexthops") or [route]
    assert isinstance(hops, list)
    return tuple(hop[field] for hop in hops if field in hop)


def forwards(version: int) -> bool:
    """Whether the kernel forwards packets of this family."""
    try:
        return Path("/proc/sys", FORWARDING[version]).read_text().strip() == "1"
    except OSError:  # a kernel without that family
        return False


def read_filters() -> Filters:
    """All tables in which source NAT is done, of nftables and of iptables."""
    tables: list[Table] = []
    unread: list[str] = []
    read = False
    sets = _sets(unread)
    for version, names in IPTABLES.items():
        there = [name for name in names[:2] if which(name)] or [
            name for name in names[2:] if which(name)
        ]
        for name in there:
            try:
                text = _run([name, "-t", "nat"]) or ""
                tables += iptables.read_rules(text, sets, version=version, program=name)
            except (Unavailable, ValueError) as error:
                unread.append(str(error))
            else:
                read = True
    by_iptables = {version for table in tables for version in table.versions}
    try:
        ruleset = _run(["nft", "-j", "list", "ruleset"])
        if ruleset is not None:
            read = True
            tables += [
                table
                for table in nftables.read_ruleset(ruleset)
                if not (nftables.is_of_iptables(table) and table.versions <= by_iptables)
            ]
    except (Unavailable, ValueError) as error:
        unread.append(str(error))
    return Filters(tuple(tables), tuple(unread), read)


def _sets(unread: list[str]) -> iptables.Sets:
    try:
        return iptables.read_sets(_run(["ipset", "save"]) or "")
    except (Unavailable, ValueError) as error:
        unread.append(str(error))
        return {}


def _run(argv: Sequence[str]) -> str | None:
    """What a tool prints; None: it is not installed. Raises Unavailable."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise Unavailable("kernel", f"{argv[0]}: no answer within {TIMEOUT:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise Unavailable("kernel", f"{' '.join(argv)}: {said}: run as root")
    return done.stdout
