"""How fit an edge finds its gateways."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabricd.core.fitness import (
    FAILED,
    ON_PROBATION,
    PROBATION,
    START,
    UNKNOWN,
    YOUNGER,
    preferred,
    probation,
    starting,
    unfit,
)
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
    silent: set[str] = field(default_factory=set)

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

    @property
    def ike(self) -> IkeState:
        return IkeState(sas=tuple(self.sas.values()))

    def starting(self) -> bool:
        return starting(self.gateways, self.ike)

    def unfit(self) -> dict[str, int]:
        failed, silent = ({f"fabric-{n}" for n in names} for names in (self.failed, self.silent))
        return unfit("edge1", self.gateways, self.ike, failed, silent)

    def preferred(self) -> set[str]:
        return {*preferred("edge1", self.gateways, self.ike, self.unfit())}

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


def test_of_two_on_probation_the_one_that_has_lasted_longer_is_better() -> None:
    """Else an edge would turn back on its way to the one, because the other has just come up."""
    edge = Edge()
    edge.up("gw2", 2 * START)
    edge.up("gw1", 0)
    assert (edge.unfit(), edge.choice()) == ({"gw1": YOUNGER, "gw2": ON_PROBATION}, "gw2")
    assert edge.preferred() == set()
    edge.up("gw1", START + 1)
    assert edge.choice() == "gw1"


def test_when_all_fail_the_first_choice_is_tried() -> None:
    edge = Edge(failed={"gw1", "gw2"})
    assert edge.choice() == "gw1"


def test_a_gateway_that_carries_into_the_void_is_left_at_once() -> None:
    edge = Edge(silent={"gw1"})
    edge.up("gw1", LONG, carries=True)
    edge.up("gw2", LONG)
    assert (edge.unfit(), edge.choice()) == ({"gw1": FAILED}, "gw2")
    assert edge.preferred() == set(), "nothing works that would be left for it"
    edge.silent.add("gw2")
    assert edge.choice() == "gw1", "there is none better"


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


def test_the_start_is_over_when_something_works() -> None:
    edge = Edge()
    assert edge.starting()
    edge.up("gw2", START - 1)
    assert edge.starting()
    edge.up("gw2", START)
    assert not edge.starting(), "one has stood by for a while"
    edge.up("gw2", 0, carries=True)
    assert not edge.starting()
    edge.down("gw2")
    assert edge.starting(), "nothing is left"


def test_a_better_gateway_is_preferred_to_one_that_works() -> None:
    edge = Edge()
    assert edge.preferred() == set(), "nothing works"
    edge.up("gw2", LONG, carries=True)
    assert edge.preferred() == set(), "the better one is away"
    edge.up("gw1", 0)
    assert edge.preferred() == {"gw1"}
    edge.failed.add("gw1")
    assert edge.preferred() == set(), "it refuses"
    edge.failed.clear()
    edge.up("gw1", 0, carries=True)
    assert edge.preferred() == set(), "it has the edge by now"
    edge.down("gw2")
    assert edge.preferred() == set()


def test_a_drained_gateway_is_left_at_once() -> None:
    edge = Edge(gateways=(gateway("gw1", 200, drained=True), gateway("gw2")))
    edge.up("gw1", LONG, carries=True)
    edge.up("gw2", LONG)
    assert (edge.preferred(), edge.choice()) == (set(), "gw2")
