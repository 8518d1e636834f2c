"""How fit an edge finds its gateways."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabricd.core.fitness import FAILED, ON_PROBATION, PROBATION, START, UNKNOWN, probation, unfit
from fabricd.core.state import Child, ChildSa, IkeSa, IkeState
from fabricd.core.topology import choose_gateway
from fabricd.model import Node, Prefix, Role

CLOUD = Prefix("10.233.0.0/16")
PAIR = Child(Prefix("2.2.2.0/27"), CLOUD)
LONG = 2 * PROBATION


def gateway(name: str, priority: int = 100, *, drained: bool = False) -> Node:
    return Node(
        name, Role.CLOUD, (CLOUD,), f"CN={name}", "10.0.0.9", priority=priority, drained=drained
    )


@dataclass
class Edge:
    """edge1 belongs to gw1; gw2 is its second choice."""

    gateways: tuple[Node, ...] = (gateway("gw1", 200), gateway("gw2"))
    sas: dict[str, IkeSa] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def up(self, name: str, age: int, *, carries: bool = False) -> None:
        child = ChildSa(
            1,
            f"{PAIR.local}-{PAIR.remote}-x",
            "INSTALLED",
            frozenset({PAIR.local}),
            frozenset({PAIR.remote}),
        )
        children = (child,) if carries else ()
        self.sas[name] = IkeSa(
            1, f"fabric-{name}", "ESTABLISHED", initiator=True, age=age, children=children
        )

    def down(self, name: str) -> None:
        del self.sas[name]

    def unfit(self) -> dict[str, int]:
        ike = IkeState(sas=tuple(self.sas.values()))
        failed = {f"fabric-{name}" for name in self.failed}
        return dict(unfit("edge1", self.gateways, ike, failed))

    def choice(self) -> str | None:
        return choose_gateway("edge1", CLOUD, self.gateways, self.unfit())


def test_at_the_start_nobody_is_chosen_for_being_quick() -> None:
    edge = Edge()
    assert (edge.unfit(), edge.choice()) == ({}, "gw1")
    edge.up("gw2", age=START - 1)
    assert edge.choice() == "gw1"
    edge.failed.add("gw1")
    assert (edge.unfit(), edge.choice()) == ({"gw1": FAILED}, "gw2")


def test_a_gateway_that_is_lost_is_left_at_once() -> None:
    edge = Edge()
    edge.up("gw1", LONG, carries=True)
    edge.up("gw2", LONG)
    assert edge.choice() == "gw1"
    edge.down("gw1")
    assert (edge.unfit(), edge.choice()) == ({"gw1": UNKNOWN}, "gw2")


def test_back_at_work_it_is_on_probation() -> None:
    edge = Edge()
    edge.up("gw2", LONG, carries=True)
    edge.up("gw1", 0)
    assert (edge.unfit(), edge.choice()) == ({"gw1": ON_PROBATION}, "gw2")
    edge.up("gw1", probation("edge1") - 1)
    assert edge.choice() == "gw2"
    edge.up("gw1", probation("edge1"))
    assert (edge.unfit(), edge.choice()) == ({}, "gw1")


def test_an_ike_sa_that_rekeys_while_it_carries_is_no_news() -> None:
    edge = Edge()
    edge.up("gw1", 0, carries=True)
    edge.up("gw2", LONG)
    assert (edge.unfit(), edge.choice()) == ({}, "gw1")


def test_who_stands_by_for_a_short_time_is_better_than_who_is_away() -> None:
    edge = Edge()
    edge.up("gw1", LONG, carries=True)
    edge.up("gw2", START)
    edge.down("gw1")
    assert edge.choice() == "gw2"


def test_when_all_fail_the_first_choice_is_tried() -> None:
    edge = Edge(failed={"gw1", "gw2"})
    assert edge.choice() == "gw1"


def test_a_gateway_that_refuses_the_child_sa_is_left_too() -> None:
    edge = Edge(failed={"gw1"})
    edge.up("gw1", LONG)
    edge.up("gw2", LONG)
    assert (edge.unfit(), edge.choice()) == ({"gw1": FAILED}, "gw2")
    edge.up("gw2", LONG, carries=True)
    assert edge.choice() == "gw2"


def test_a_failure_of_one_child_does_not_move_what_a_gateway_carries() -> None:
    edge = Edge(failed={"gw1"})
    edge.up("gw1", LONG, carries=True)
    edge.up("gw2", LONG)
    assert edge.choice() == "gw1"


def test_edges_come_back_each_at_its_time() -> None:
    times = {probation(f"edge{number}") for number in range(200)}
    assert len(times) > PROBATION / 2
    assert min(times) >= PROBATION
    assert max(times) < 2 * PROBATION


def test_a_drained_gateway_is_used_when_no_other_works() -> None:
    edge = Edge(gateways=(gateway("gw1", 200, drained=True), gateway("gw2")))
    assert edge.choice() == "gw2"
    edge.up("gw1", LONG, carries=True)
    assert edge.choice() == "gw1", "gw2 is away"
    edge.up("gw2", 0)
    assert edge.choice() == "gw2", "on probation is better than drained"
