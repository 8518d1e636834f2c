"""What is remembered of charon between two looks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from fabricd.core.desired import DesiredState
from fabricd.core.events import Changed, Listed, Put
from fabricd.core.fitness import PROBATION, START, probation
from fabricd.core.rib import InForce, Rib
from fabricd.core.state import ChildSa, IkeSa, IkeState, KernelState, Route
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.choice import REFUSED, SILENT
from fabricd.daemon.derive import CHARON_GONE, Deriver
from fabricd.daemon.keyring import Keyring
from fabricd.daemon.trust import Trust
from fabricd.model import Prefix

GATEWAY = b'{"role": "cloud", "endpoint": "10.0.0.9", "subnets": ["10.233.0.0/16"], "priority": %d}'
RECORDS = (
    Put("nodes/edge1", b'{"subnets": ["2.2.2.0/27"], "endpoint": "10.0.0.1"}'),
    Put("nodes/gw1", GATEWAY % 200),
    Put("nodes/gw2", GATEWAY % 100),
)
LONG = 1000
LONGEST = 3 * SILENT[1]


LEFT_BEHIND = KernelState(learned=frozenset({Prefix("2.2.2.0/28"), Prefix("2.2.2.16/28")}))
"""By a gateway whose own routes to edge1 are longer than gw1's."""


@dataclass
class Desk:
    """A deriver of one node, and its clock."""

    keyring: Keyring
    name: str
    now: float = 0.0

    def __post_init__(self) -> None:
        self.keyring.refresh()
        around = Surroundings(self.name, (Prefix("2.0.0.0/8"),), "br-edge")
        trust = Trust(self.name, lambda: 0)
        self.rib = Rib("C=CN, O=StrongSwan, CN={name}")
        self.rib.apply(Listed(RECORDS), 0)
        self.deriver = Deriver(around, self.keyring, trust, lambda: self.now, lambda: 0)

    @property
    def records(self) -> InForce:
        return self.rib.in_force()

    def put(self, name: str, record: bytes) -> None:
        self.rib.apply(Changed((Put(f"nodes/{name}", record),)), self.now)

    def saw(self, *sas: IkeSa, failed: tuple[str, ...] = ()) -> None:
        self.deriver.saw(IkeState(sas=sas), self.records, failed)

    def derive(self, kernel: KernelState) -> DesiredState:
        """After a look at the kernel."""
        self.deriver.looked(kernel)
        return self.deriver.derive(self.records, kernel)

    def silent(self, *conns: str) -> None:
        self.deriver.choice.silent(conns, self.records)

    def carrier(self) -> str:
        """The gateway that is to carry."""
        wanted = self.deriver.derive(self.records, KernelState())
        [name] = [p.peer.name for p in wanted.peerings if p.carried]
        return name

    def doors(self, *there: Route) -> set[str]:
        """Prefixes of the doors that are to be open."""
        routes = {route.key: route for route in there}
        wanted = self.derive(KernelState(routes=routes))
        return {route.prefix for route in wanted.kernel.routes.values() if route.metric == 16}


@pytest.fixture
def edge(keyring: Keyring) -> Desk:
    return Desk(keyring, "edge1")


@pytest.fixture
def gateway(keyring: Keyring) -> Desk:
    return Desk(keyring, "gw1")


def sa(conn: str, age: int = LONG) -> IkeSa:
    return IkeSa(1, conn, "ESTABLISHED", initiator=True, age=age)


def carried_by(conn: str) -> IkeSa:
    pair = "2.2.2.0/27", "10.233.0.0/16"
    child = ChildSa(
        1, f"{'-'.join(pair)}-x", "INSTALLED", frozenset({pair[0]}), frozenset({pair[1]})
    )
    return IkeSa(2, conn, "ESTABLISHED", initiator=True, age=LONG, children=(child,))


def test_a_refusal_at_the_start_does_not_count_until_it_lasts(edge: Desk) -> None:
    edge.saw(failed=("fabric-gw1",))
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw1", True)
    edge.now += START - 1
    edge.saw(sa("fabric-gw2", START - 1), failed=("fabric-gw1",))
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw1", True)
    edge.now += 1
    edge.saw(sa("fabric-gw2", START), failed=("fabric-gw1",))
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", False)


def test_where_all_have_been_away_for_long_a_refusal_counts_at_once(edge: Desk) -> None:
    edge.saw()
    edge.now += LONG
    edge.saw(sa("fabric-gw2", 0), failed=("fabric-gw1",))
    assert edge.carrier() == "gw2"


def test_a_refusal_counts_at_once_where_another_gateway_stands_by(edge: Desk) -> None:
    edge.saw(carried_by("fabric-gw1"), sa("fabric-gw2"))
    edge.saw(sa("fabric-gw2"), failed=("fabric-gw1",))
    assert edge.carrier() == "gw2"


def test_an_edge_leaves_a_drained_gateway_at_once_and_returns_at_its_own_time(edge: Desk) -> None:
    at_home = carried_by("fabric-gw1"), sa("fabric-gw2")
    edge.saw(*at_home)
    edge.put("gw1", GATEWAY[:-1] % 200 + b', "drained": true}')
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", False)
    away = sa("fabric-gw1"), carried_by("fabric-gw2")
    edge.saw(*away)
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", False)
    edge.now += LONG
    edge.put("gw1", GATEWAY % 200)
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", True), "before charon is seen"
    edge.saw(*away)
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", True)
    edge.now += probation("edge1") - 1
    edge.saw(*away)
    assert edge.carrier() == "gw2"
    edge.now += 1
    edge.saw(*away)
    assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw1", False)
    edge.saw(*at_home)
    assert edge.carrier() == "gw1"


def test_a_gateway_that_becomes_the_better_one_twice_has_to_last_twice(edge: Desk) -> None:
    away = sa("fabric-gw1"), carried_by("fabric-gw2")
    edge.saw(*away)
    edge.now += PROBATION - 1
    edge.put("gw1", GATEWAY % 50)
    edge.saw(*away)
    edge.put("gw1", GATEWAY % 200)
    for _ in range(PROBATION):
        edge.saw(*away)
        assert edge.carrier() == "gw2"
        edge.now += 1


def test_who_would_be_left_for_a_better_one_is_not_waited_for_when_it_fails(edge: Desk) -> None:
    edge.saw(sa("fabric-gw1"), carried_by("fabric-gw2"))
    assert edge.carrier() == "gw2"
    edge.saw(sa("fabric-gw1"))
    assert edge.carrier() == "gw1"


def test_a_gateway_that_has_come_up_serves_both_times_at_once(edge: Desk) -> None:
    """That of its IKE_SA, and that of being the better one."""
    for age in range(probation("edge1")):
        edge.saw(sa("fabric-gw1", age), carried_by("fabric-gw2"))
        assert (edge.carrier(), edge.deriver.choice.undecided) == ("gw2", True)
        edge.now += 1
    edge.saw(sa("fabric-gw1", probation("edge1")), carried_by("fabric-gw2"))
    assert edge.carrier() == "gw1"


def test_a_refusal_is_remembered_for_a_while(edge: Desk) -> None:
    both = sa("fabric-gw1"), sa("fabric-gw2")
    edge.saw(*both)
    assert edge.carrier() == "gw1"
    edge.saw(*both, failed=("fabric-gw1",))
    assert edge.carrier() == "gw2"
    edge.saw(*both)  # nothing is wanted of it now, so nothing fails
    assert edge.carrier() == "gw2"
    assert {*edge.deriver.choice.refused} == {"fabric-gw1"}
    edge.saw(carried_by("fabric-gw1"), sa("fabric-gw2"))
    assert not edge.deriver.choice.refused, "it was not meant so"
    edge.saw(*both)
    edge.now += REFUSED - 1
    edge.saw(*both)
    assert edge.carrier() == "gw2"
    edge.now += 1
    edge.saw(*both)
    assert edge.carrier() == "gw1"


def carrying(*subnets: str) -> IkeSa:
    children = tuple(
        ChildSa(
            number,
            f"10.233.0.0/16-{subnet}-x",
            "INSTALLED",
            frozenset({"10.233.0.0/16"}),
            frozenset({subnet}),
        )
        for number, subnet in enumerate(subnets)
    )
    return IkeSa(1, "fabric-edge1", "ESTABLISHED", initiator=False, children=children)


def test_a_silent_gateway_is_left_at_once_and_tried_again_after_ever_longer_pauses(
    edge: Desk,
) -> None:
    at_home, away = (
        (carried_by(f"fabric-{one}"), sa(f"fabric-{other}"))
        for one, other in (("gw1", "gw2"), ("gw2", "gw1"))
    )
    for pause in (SILENT[0], 2 * SILENT[0], 4 * SILENT[0]):
        edge.saw(*at_home)
        edge.silent()
        assert edge.carrier() == "gw1"
        edge.silent("fabric-gw1")
        assert edge.carrier() == "gw2", "without waiting for a look at charon"
        edge.saw(*away)
        edge.silent()  # nothing goes through it any more, so nobody knows
        edge.now += pause - 1
        edge.saw(*away)
        assert edge.carrier() == "gw2"
        edge.now += 1
        for _ in range(probation("edge1") + 1):
            edge.saw(*away)
            edge.now += 1
    assert edge.carrier() == "gw1"
    edge.now += LONGEST
    edge.silent()
    edge.silent("fabric-gw1")
    edge.saw(*away)
    edge.now += SILENT[0] + probation("edge1")
    edge.saw(*away)
    edge.now += probation("edge1")
    edge.saw(*away)
    assert edge.carrier() == "gw1", "what is long ago counts no more"


def test_where_all_are_silent_the_edge_moves_ever_less_often(edge: Desk) -> None:
    edge.saw(carried_by("fabric-gw1"), sa("fabric-gw2"))
    edge.silent("fabric-gw1")
    edge.saw(sa("fabric-gw1"), carried_by("fabric-gw2"))
    edge.silent("fabric-gw2")
    carriers = []
    for _ in range(int(SILENT[1])):
        carriers.append(edge.carrier())
        conn = f"fabric-{carriers[-1]}"
        edge.saw(carried_by(conn), sa({"gw1": "fabric-gw2", "gw2": "fabric-gw1"}[carriers[-1]]))
        edge.silent(conn)
        edge.now += 1
    moves = sum(one != other for one, other in pairwise(carriers))
    assert 0 < moves < 10


def test_doors_outlast_a_charon_that_is_silent_and_close_when_it_is_gone(gateway: Desk) -> None:
    assert gateway.doors() == set()
    gateway.saw(carrying("2.2.2.0/27"))
    gateway.now += 10 * CHARON_GONE  # there was no reason to look at it
    gateway.deriver.missed()
    assert gateway.doors() == {"2.2.2.0/27"}
    gateway.now += CHARON_GONE
    gateway.deriver.missed()
    assert gateway.doors() == {"2.2.2.0/27"}
    gateway.now += 1
    assert gateway.doors() == set()
    gateway.saw(carrying("2.2.2.0/27"))
    assert gateway.doors() == {"2.2.2.0/27"}


def test_a_restart_leaves_the_doors_that_are_open(gateway: Desk) -> None:
    gateway.saw(carrying("2.2.2.0/27"))
    wanted = gateway.derive(KernelState())
    [door] = [route for route in wanted.kernel.routes.values() if route.metric == 16]
    again = Desk(gateway.keyring, "gw1")
    assert again.doors(door) == {"2.2.2.0/27"}
    again.now += CHARON_GONE + 1
    assert again.doors(door) == set()


def test_what_another_gateway_has_left_behind_is_outdone_and_the_rest_stays(gateway: Desk) -> None:
    gateway.saw()
    assert not gateway.deriver.wonders
    before = gateway.derive(KernelState())
    gateway.saw(carrying("2.2.2.0/27"))
    assert gateway.deriver.wonders
    after = gateway.derive(LEFT_BEHIND)
    assert not gateway.deriver.wonders
    more = {key[1] for key in after.kernel.routes.keys() - before.kernel.routes.keys()}
    assert more == {"2.2.2.0/27", "2.2.2.0/29", "2.2.2.8/29", "2.2.2.16/29", "2.2.2.24/29"}
    assert after.kernel.routes.items() >= before.kernel.routes.items()
    assert gateway.derive(LEFT_BEHIND) is after


def test_what_comes_later_is_of_a_gateway_to_which_the_edge_moves_on(gateway: Desk) -> None:
    gateway.saw()
    gateway.doors()
    gateway.saw(carrying("2.2.2.0/27"))
    assert gateway.doors() == {"2.2.2.0/27"}
    gateway.derive(LEFT_BEHIND)
    assert gateway.doors() == {"2.2.2.0/27"}


def test_so_is_what_was_withdrawn_and_has_come_again(gateway: Desk) -> None:
    gateway.saw()
    gateway.doors()
    gateway.saw(carrying("2.2.2.0/27"))
    assert len(gateway.derive(LEFT_BEHIND).kernel.routes) > 1
    assert gateway.doors() == {"2.2.2.0/27"}
    again = replace(LEFT_BEHIND)
    wanted = gateway.derive(again)
    assert {key[1] for key in wanted.kernel.routes if key[2] == 16} == {"2.2.2.0/27"}


def test_a_kernel_that_does_not_answer_has_withdrawn_nothing(gateway: Desk) -> None:
    gateway.saw()
    gateway.doors()
    gateway.saw(carrying("2.2.2.0/27"))
    before = gateway.derive(LEFT_BEHIND).kernel.routes
    gateway.deriver.derive(gateway.records, KernelState())
    assert gateway.derive(replace(LEFT_BEHIND)).kernel.routes == before


def test_an_edge_that_only_rekeys_has_not_come_again(gateway: Desk) -> None:
    [child] = carrying("2.2.2.0/27").children
    here = replace(carrying("2.2.2.0/27"), age=LONG)
    gateway.doors()
    gateway.saw(replace(here, children=(replace(child, age=LONG),)))
    gateway.saw(here)
    assert not gateway.deriver.wonders


def test_an_edge_that_was_away_without_a_word_has(gateway: Desk) -> None:
    [child] = carrying("2.2.2.0/27").children
    left = replace(carrying("2.2.2.0/27"), age=LONG, children=(replace(child, age=LONG),))
    gateway.doors()
    gateway.saw(left)
    gateway.saw(left, replace(carrying("2.2.2.0/27"), id=2))
    assert gateway.deriver.wonders


def test_nor_does_a_gateway_that_starts_anew_outdo_what_it_finds(gateway: Desk) -> None:
    gateway.saw(carrying("2.2.2.0/27"))
    wanted = gateway.derive(LEFT_BEHIND)
    assert {key[1] for key in wanted.kernel.routes if key[2] == 16} == {"2.2.2.0/27"}


def test_an_edge_does_not_wonder_who_had_it_before(edge: Desk) -> None:
    edge.saw()
    edge.carrier()
    edge.saw(carried_by("fabric-gw1"))
    assert not edge.deriver.wonders
