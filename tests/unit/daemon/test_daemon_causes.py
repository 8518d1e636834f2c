"""Why an action became necessary, action by action."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from fabricd.core.action import Action, Disruption, Item, Kind, Part, Tunnel
from fabricd.core.desired import DesiredState
from fabricd.core.state import (
    Child,
    ChildSa,
    Conn,
    IfAddress,
    IkeSa,
    KernelState,
    Link,
    Route,
    RouteKind,
    Rule,
    Sysctl,
)
from fabricd.daemon.causes import Causes, news_of
from fabricd.model import Address, Prefix

CHILD = Child(Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27"))
LINK = Link("br-edge", "bridge", up=True, alias="fabricd")
ADDRESS = IfAddress("br-edge", "2.2.2.1/27", 198)
ROUTE = Route(198, Prefix("2.2.2.32/27"), link="fabric0", metric=100)
RULE = Rule(4, 198, 198)
SYSCTL = Sysctl("net/ipv4/ip_forward", "1")
CONN = Conn("fabric-edge3", "d1", frozenset({CHILD}))
TUNNEL = Tunnel("fabric-edge3", CONN.child_name(CHILD))
SA = IkeSa(1, "fabric-edge3", "ESTABLISHED", initiator=True)
CHILD_SA = ChildSa(1, TUNNEL.child, "INSTALLED", frozenset(), frozenset())

WANTED = DesiredState(
    node=None,
    peerings=(),
    kernel=KernelState(
        links={LINK.name: LINK},
        addresses={(ADDRESS.link, ADDRESS.address): ADDRESS},
        routes={(198, ROUTE.prefix, 100): ROUTE},
        rules={(4, 198): RULE},
        sysctls={SYSCTL.name: SYSCTL},
    ),
    authorities=frozenset({"fabric-ca-1"}),
    keys=frozenset({"k1"}),
    conns=MappingProxyType({CONN.name: CONN}),
    tunnels=MappingProxyType({CONN.name: (TUNNEL,)}),
)

OTHER_ROUTE = Route(198, Prefix("2.2.2.32/27"), RouteKind.BLACKHOLE, metric=100)
MOVED_ROUTE = Route(198, ROUTE.prefix, link="fabric0", source=Address("2.2.2.1"), metric=100)
STRAY_ROUTE = Route(198, Prefix("9.9.9.0/24"), link="fabric0", metric=100)


def action(kind: Kind, item: Item) -> Action:
    return Action(kind, "target", Disruption.NONE, "reason", item)


def after_a_pass() -> Causes:
    causes = Causes()
    causes.passed(WANTED, Part, {})
    return causes


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Kind.SYSCTL_SET, SYSCTL),
        (Kind.LINK_ADD, LINK),
        (Kind.LINK_SET, LINK),
        (Kind.ADDRESS_ADD, ADDRESS),
        (Kind.ROUTE_SET, ROUTE),
        (Kind.RULE_ADD, RULE),
        (Kind.AUTHORITY_LOAD, "fabric-ca-1"),
        (Kind.KEY_LOAD, "k1"),
        (Kind.CONN_LOAD, CONN),
        (Kind.CHILD_INITIATE, TUNNEL),
        # What nobody wanted has to go.
        (Kind.LINK_REMOVE, Link("stray", "bridge", up=True, alias="fabricd")),
        (Kind.ADDRESS_REMOVE, IfAddress("br-edge", "9.9.9.1/24", 198)),
        (Kind.ROUTE_REMOVE, STRAY_ROUTE),
        (Kind.RULE_REMOVE, Rule(6, 198, 198)),
        (Kind.AUTHORITY_UNLOAD, "fabric-ca-2"),
        (Kind.CONN_UNLOAD, Conn("fabric-stray", "d1", frozenset())),
        (Kind.IKE_TERMINATE, IkeSa(2, "fabric-stray", "ESTABLISHED", initiator=False)),
    ],
)
def test_what_the_pass_before_found_right_has_drifted(kind: Kind, item: Item) -> None:
    assert after_a_pass().of(action(kind, item), news_of(["nodes/edge9"])) == "drift"


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Kind.SYSCTL_SET, Sysctl("net/ipv6/conf/all/forwarding", "1")),
        (Kind.LINK_ADD, Link("br-other", "bridge", up=True, alias="fabricd")),
        (Kind.ADDRESS_ADD, IfAddress("br-edge", "2.2.3.1/27", 198)),
        (Kind.ROUTE_SET, STRAY_ROUTE),
        (Kind.ROUTE_SET, OTHER_ROUTE),
        (Kind.ROUTE_SET, MOVED_ROUTE),
        (Kind.RULE_ADD, Rule(6, 198, 198)),
        (Kind.RULE_ADD, Rule(4, 198, 199)),
        (Kind.AUTHORITY_LOAD, "fabric-ca-2"),
        (Kind.KEY_LOAD, "k2"),
        (Kind.CONN_LOAD, Conn("fabric-edge3", "d2", frozenset({CHILD}))),
        (Kind.CONN_LOAD, Conn("fabric-edge4", "d1", frozenset({CHILD}))),
        (Kind.CHILD_INITIATE, Tunnel("fabric-edge4", "x")),
        # What was wanted has to go.
        (Kind.LINK_REMOVE, LINK),
        (Kind.ADDRESS_REMOVE, ADDRESS),
        (Kind.ROUTE_REMOVE, ROUTE),
        (Kind.ROUTE_REMOVE, OTHER_ROUTE),
        (Kind.RULE_REMOVE, RULE),
        (Kind.AUTHORITY_UNLOAD, "fabric-ca-1"),
        (Kind.KEY_UNLOAD, "k1"),
        (Kind.CONN_UNLOAD, CONN),
        (Kind.IKE_TERMINATE, SA),
        (Kind.CHILD_TERMINATE, CHILD_SA),
    ],
)
def test_what_is_wanted_otherwise_than_before_is_a_records_doing(kind: Kind, item: Item) -> None:
    causes = after_a_pass()
    assert causes.of(action(kind, item), news_of(["nodes/edge9"])) == "record nodes/edge9"
    assert causes.of(action(kind, item), news_of([])) == "surroundings"


def test_before_the_first_pass_it_is_the_start() -> None:
    causes = Causes()
    assert causes.of(action(Kind.ROUTE_SET, ROUTE), news_of(["nodes/edge9"])) == "start"


def test_a_part_that_was_not_seen_is_still_at_its_start() -> None:
    causes = Causes()
    causes.passed(WANTED, [Part.KERNEL], {})
    assert causes.of(action(Kind.ROUTE_SET, ROUTE), news_of([])) == "drift"
    assert causes.of(action(Kind.CONN_LOAD, CONN), news_of([])) == "start"


def test_what_has_to_be_tried_again_keeps_its_cause() -> None:
    causes = after_a_pass()
    again = action(Kind.ROUTE_SET, ROUTE)
    causes.passed(WANTED, Part, {again.name: "record nodes/edge3"})
    assert causes.of(again, news_of([])) == "record nodes/edge3"
    causes.passed(WANTED, Part, {})
    assert causes.of(again, news_of([])) == "drift"


def test_what_a_pass_had_to_leave_in_place_has_not_drifted() -> None:
    causes = Causes()
    causes.passed(WANTED, Part, {}, removals=False)
    assert causes.of(action(Kind.ROUTE_REMOVE, STRAY_ROUTE), news_of(["nodes/edge9"])) == (
        "record nodes/edge9"
    )
    assert causes.of(action(Kind.ROUTE_SET, ROUTE), news_of(["nodes/edge9"])) == "drift"


def test_of_many_records_a_few_are_named() -> None:
    causes = after_a_pass()
    keys = [f"nodes/edge{number}" for number in (7, 3, 1, 5, 2, 6, 4)]
    assert causes.of(action(Kind.ROUTE_SET, STRAY_ROUTE), news_of(keys)) == (
        "record nodes/edge1, nodes/edge2, nodes/edge3, nodes/edge4, nodes/edge5 and 2 more"
    )
