"""Worlds to try things on: records good, bad and colliding; machines with a past and with junk.

Names, subnets and tokens come from small pools, so that records meet each other often.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from fabricd.core.events import Listed, Put
from fabricd.core.ownership import NUMBER, TABLE
from fabricd.core.rib import InForce, Rib
from fabricd.core.state import (
    Child,
    ChildSa,
    Conn,
    IfAddress,
    IkeSa,
    Link,
    Route,
    RouteKind,
    Rule,
    Sysctl,
)
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Prefix
from tests.property.world import Machine

TEMPLATE = "C=CN, O=StrongSwan, CN={name}"

EDGES = ("edge1", "edge2", "edge3", "a.b-c", "z")
GATEWAYS = ("gw1", "gw2", "m-gw")
EDGE_SUBNETS = (
    *(f"2.2.2.{32 * i}/27" for i in range(3)),
    *(f"2.{i}.0.0/27" for i in range(10, 20)),
    "2.2.2.0/24",
    "2.9.0.4/31",
    "3.3.3.0/27",  # outside of the fabric's networks
    "fd00:2::/64",
    "fd00:2:0:1::/64",
    "fd99::8/125",
)
CLOUD_SUBNETS = ("10.233.0.0/16", "10.96.0.0/12", "10.233.64.0/18", "2.200.0.0/16", "fd00:c::/48")
ENDPOINTS = (*[None] * 4, "10.20.8.4", "10.20.8.5", "2001:db8::9", "gw.example.net", "2.2.2.40")
TOKENS = ("app1", "group1", "x:y")
BAD = (
    b"{}",
    b"{",
    b"[]",
    b'{"subnets": ["2.2.2.1/27"]}',
    b'{"subnets": ["0.0.0.0/0"]}',
    b'{"subnets": ["2.2.2.0/27"], "identity": "CN=*"}',
    b'{"role": "edge"}',
)


def _subnets(pool: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(pool), min_size=1, max_size=2, unique=True)


_edge = st.fixed_dictionaries(
    {
        "subnets": _subnets(EDGE_SUBNETS),
        "endpoint": st.sampled_from(ENDPOINTS),
        "community": st.lists(st.sampled_from(TOKENS), max_size=2).map(";".join),
    },
    optional={
        "identity": st.sampled_from([*[None] * 6, "CN=other", "C=CN, O=StrongSwan, CN=edge1"]),
        "colour": st.just("blue"),
    },
)

_cloud = st.fixed_dictionaries(
    {"role": st.just("cloud"), "subnets": _subnets(CLOUD_SUBNETS)},
    optional={
        "endpoint": st.sampled_from(ENDPOINTS),
        "priority": st.sampled_from([50, 100, 200]),
    },
)


@st.composite
def values(draw: st.DrawFn, key: str) -> bytes:
    """What somebody may write under a key: mostly right, and mostly of one role for a name."""
    luck = draw(st.integers(0, 9))
    if luck == 9:
        return draw(st.sampled_from(BAD))
    if key.startswith("communities/"):
        return _json({"members": draw(st.lists(st.sampled_from(EDGES), max_size=3))})
    is_gateway = (key.removeprefix("nodes/") in GATEWAYS) == (luck < 8)
    return _json(draw(_cloud if is_gateway else _edge))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


KEYS = (
    *(f"nodes/{name}" for name in EDGES + GATEWAYS),
    *(f"communities/{token}" for token in TOKENS[:2]),
)


@st.composite
def record_sets(draw: st.DrawFn, at_least: int = 0) -> tuple[Put, ...]:
    """What a store may hold."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=at_least, unique=True))
    return tuple(Put(key, draw(values(key)), draw(st.integers(0, 5))) for key in keys)


def in_force(records: tuple[Put, ...]) -> InForce:
    rib = Rib(TEMPLATE)
    rib.apply(Listed(records), 0.0)
    return rib.in_force()


identities = st.builds(
    lambda ca, key, digest: Identity(frozenset({f"fabric-ca-{ca}"}), key, digest),
    st.sampled_from(["aa", "bb"]),
    st.sampled_from(["key1", "key2"]),
    st.sampled_from(["d1", "d2"]),
)

surroundings = st.builds(
    Surroundings,
    name=st.sampled_from(EDGES + GATEWAYS),
    networks=st.sampled_from(
        [
            (Prefix("2.0.0.0/8"),),
            (Prefix("2.2.2.0/27"),),  # exactly one node's subnet
            (Prefix("2.0.0.0/8"), Prefix("fd00::/16")),
        ]
    ),
    bridge=st.just("br-edge"),
    identity=st.one_of(identities, st.none()),
)


@dataclass(frozen=True)
class World:
    """Records in force, seen from one node."""

    in_force: InForce
    around: Surroundings


worlds = st.builds(World, record_sets().map(in_force), surroundings)


@st.composite
def changes(draw: st.DrawFn) -> tuple[World, World]:
    """One node before and after somebody edited a few records, or the credentials changed."""
    before, around = draw(record_sets()), draw(surroundings)
    after = {put.key: put for put in before}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
        after.pop(key, None)
        if draw(st.booleans()):
            after[key] = Put(key, draw(values(key)), draw(st.integers(0, 5)))
    if around.identity and draw(st.booleans()):
        return (
            World(in_force(before), around),
            World(in_force(tuple(after.values())), replace(around, identity=draw(identities))),
        )
    return World(in_force(before), around), World(in_force(tuple(after.values())), around)


# ---------------------------------------------------------------- machines


@st.composite
def handovers(draw: st.DrawFn) -> tuple[Machine, World]:
    """An edge whose subnets move from one gateway to another."""
    identity = draw(identities)
    around = Surroundings("edge1", (Prefix("2.0.0.0/8"),), "br-edge", identity=identity)

    def records() -> tuple[Put, ...]:
        gateway = st.fixed_dictionaries(
            {
                "role": st.just("cloud"),
                "subnets": _subnets(CLOUD_SUBNETS[:2]),
                "endpoint": st.just("gw.example.net"),
                "priority": st.sampled_from([50, 100]),
            }
        )
        edge = {"subnets": ["2.2.2.0/27"], "endpoint": draw(st.sampled_from(ENDPOINTS[3:6]))}
        names = draw(st.lists(st.sampled_from(GATEWAYS), min_size=1, unique=True))
        puts = (Put(f"nodes/{name}", _json(draw(gateway))) for name in names)
        return Put("nodes/edge1", _json(edge)), *puts

    machine = Machine()
    machine.settle(machine.desire(in_force(records()), around))
    if draw(st.booleans()):
        _past_sas(draw, machine)
    return machine, World(in_force(records()), around)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Machine, World]:
    """A machine, and the world that it is in now: it may be new to it, or settled on the world
    as it was before, or on quite another one; with junk on top or without.
    """
    machine = Machine()
    _before_us(draw, machine)
    past, now = draw(st.one_of(changes(), st.tuples(worlds, worlds)))
    if draw(st.integers(0, 3)):
        machine.settle(machine.desire(past.in_force, past.around))
    if draw(st.booleans()):
        _own_junk(draw, machine)
    if draw(st.booleans()):
        _past_sas(draw, machine)
    return machine, now


def _before_us(draw: st.DrawFn, machine: Machine) -> None:
    """What other programs have put on the node."""
    kernel, charon = machine.kernel, machine.charon
    links = [
        Link("eth0", "", up=True),
        Link("docker0", "bridge", up=True, alias="containers"),
        Link("cali1", "veth", up=True),
        Link("ipsec0", "tun", up=True),
        Link("br-edge", "bridge", up=draw(st.booleans())),
    ]
    kernel.links |= {link.name: link for link in links if draw(st.booleans())}
    addresses = ["10.20.8.4/24", "10.233.0.7/32", "2.2.2.1/27", "fd00:c::5/128", "fe80::1/64"]
    for link in list(kernel.links):
        for text in draw(st.lists(st.sampled_from(addresses), max_size=2, unique=True)):
            kernel.addresses[link, text] = IfAddress(link, text)
    for metric in draw(st.lists(st.sampled_from([0, 1024]), unique=True)):
        for prefix in ("0.0.0.0/0", "2.0.0.0/8", "fd00::/16"):
            route = Route(254, Prefix(prefix), RouteKind.BLACKHOLE, metric=metric)
            kernel.routes[254, route.prefix, metric] = 4, route
    if draw(st.booleans()):
        kernel.rules.add((0, Rule(4, 220, 220)))
        kernel.rules.add((0, Rule(4, NUMBER, 77)))
    kernel.sysctls["net/ipv4/ip_forward"] = Sysctl(
        "net/ipv4/ip_forward", draw(st.sampled_from("01"))
    )
    if draw(st.booleans()):
        pair = Child(Prefix("2.2.2.0/27"), Prefix("10.233.0.0/16"))
        vpn = Conn("office", "d", frozenset({pair}))
        sa = ChildSa(
            charon.next_id(),
            vpn.child_name(pair),
            "INSTALLED",
            frozenset({pair.local}),
            frozenset({pair.remote}),
        )
        charon.conns["office"] = vpn
        charon.sas.append(IkeSa(charon.next_id(), "office", "ESTABLISHED", True, children=(sa,)))
        charon.authorities.add("office-ca")
        charon.keys.add("office-key")


def _own_junk(draw: st.DrawFn, machine: Machine) -> None:
    """What carries our mark, wherever it comes from."""
    kernel, charon = machine.kernel, machine.charon
    for name in draw(st.lists(st.sampled_from(["old0", "fabric0", "br-old"]), unique=True)):
        kernel.links[name] = Link(name, "bridge", draw(st.booleans()), "fabricd")
        kernel.routes = {k: item for k, item in kernel.routes.items() if item[1].link != name}
    for name in list(kernel.links):
        for text in draw(
            st.lists(
                st.sampled_from(["2.2.2.1/27", "2.2.2.33/27", "fd00:2::1/64", "10.233.0.1/32"]),
                max_size=1,
            )
        ):
            kernel.addresses.setdefault((name, text), IfAddress(name, text, NUMBER))
    up = sorted(name for name, link in kernel.links.items() if link.up)
    prefixes = (*EDGE_SUBNETS, *CLOUD_SUBNETS, "2.0.0.0/8", "7.7.7.0/24")
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(RouteKind)) if up else RouteKind.UNREACHABLE
        route = Route(
            draw(st.sampled_from([TABLE, 254])),
            Prefix(draw(st.sampled_from(prefixes))),
            kind,
            draw(st.sampled_from(up)) if kind is RouteKind.UNICAST else None,
            metric=draw(st.sampled_from([100, 198, 10_000])),
        )
        kernel.routes.setdefault(route.key, (NUMBER, route))
    for number in draw(st.lists(st.sampled_from([4, 6]), unique=True)):
        kernel.rules.add((NUMBER, Rule(number, draw(st.sampled_from([NUMBER, 500])), TABLE)))
    if draw(st.booleans()):
        ghost = Conn(
            "fabric-ghost", "d", frozenset({Child(Prefix("2.2.2.0/27"), Prefix("3.3.3.0/27"))})
        )
        charon.conns[ghost.name] = ghost
        charon.authorities.add("fabric-ca-old")
    for name in (
        draw(st.lists(st.sampled_from(sorted(charon.conns)), unique=True)) if charon.conns else []
    ):
        if name.startswith("fabric-"):
            charon.conns[name] = replace(
                charon.conns[name], digest=draw(st.sampled_from(["", "x"]))
            )


def _past_sas(draw: st.DrawFn, machine: Machine) -> None:
    """SAs that peers brought up, that are doubled, narrowed, rekeying, of an older set-up."""
    charon = machine.charon
    if draw(st.booleans()):
        charon.sas.append(IkeSa(charon.next_id(), "fabric-gone", "ESTABLISHED", initiator=False))
    for conn in [c for n, c in sorted(charon.conns.items()) if n.startswith("fabric-")]:
        pairs = [*sorted(conn.children), Child(Prefix("2.2.2.0/27"), Prefix("7.7.7.0/24"))]
        for _ in range(draw(st.integers(0, 2))):
            children = []
            for _ in range(draw(st.integers(0, 3))):
                pair = draw(st.sampled_from(pairs))
                digest = draw(st.sampled_from([conn.digest or "x", "old"]))
                narrowed = draw(st.sampled_from([False, False, True]))
                children.append(
                    ChildSa(
                        charon.next_id(),
                        f"{pair.local}-{pair.remote}-{digest}",
                        draw(st.sampled_from(["INSTALLED", "INSTALLED", "REKEYING", "REKEYED"])),
                        frozenset({pair.local}),
                        frozenset({"9.9.9.9/32" if narrowed else pair.remote}),
                    )
                )
            state = draw(st.sampled_from(["ESTABLISHED", "ESTABLISHED", "CONNECTING", "REKEYING"]))
            sa = IkeSa(charon.next_id(), conn.name, state, False, children=tuple(children))
            charon.sas.append(sa)
            charon.made_by[sa.id] = draw(st.sampled_from([conn.digest, "older"]))
