"""What is remembered of charon between two looks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fabricd.core.events import Listed, Put
from fabricd.core.rib import InForce, Rib
from fabricd.core.state import ChildSa, IkeSa, IkeState, KernelState, Route
from fabricd.core.surroundings import Surroundings
from fabricd.daemon.derive import CHARON_GONE, REFUSED, Deriver
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


def in_force() -> InForce:
    rib = Rib("C=CN, O=StrongSwan, CN={name}")
    rib.apply(Listed(RECORDS), 0)
    return rib.in_force()


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
        self.records = in_force()
        self.deriver = Deriver(around, self.keyring, trust, lambda: self.now, lambda: 0)

    def saw(self, *sas: IkeSa, failed: tuple[str, ...] = ()) -> None:
        self.deriver.saw(IkeState(sas=sas), self.records, failed)

    def carrier(self) -> str:
        """The gateway that is to carry."""
        wanted = self.deriver.derive(self.records, KernelState())
        [name] = [p.peer.name for p in wanted.peerings if p.carried]
        return name

    def doors(self, *there: Route) -> set[str]:
        """Prefixes of the doors that are to be open."""
        routes = {route.key: route for route in there}
        wanted = self.deriver.derive(self.records, KernelState(routes=routes))
        return {route.prefix for route in wanted.kernel.routes.values() if route.metric == 16}


@pytest.fixture
def edge(keyring: Keyring) -> Desk:
    return Desk(keyring, "edge1")


@pytest.fixture
def gateway(keyring: Keyring) -> Desk:
    return Desk(keyring, "gw1")


def sa(conn: str) -> IkeSa:
    return IkeSa(1, conn, "ESTABLISHED", initiator=True, age=LONG)


def test_a_refusal_is_remembered_for_a_while(edge: Desk) -> None:
    both = sa("fabric-gw1"), sa("fabric-gw2")
    edge.saw(*both)
    assert edge.carrier() == "gw1"
    edge.saw(*both, failed=("fabric-gw1",))
    assert edge.carrier() == "gw2"
    edge.saw(*both)  # nothing is wanted of it now, so nothing fails
    assert edge.carrier() == "gw2"
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


def test_doors_outlast_a_charon_that_is_silent_and_close_when_it_is_gone(gateway: Desk) -> None:
    assert gateway.doors() == set()
    gateway.saw(carrying("2.2.2.0/27"))
    assert gateway.doors() == {"2.2.2.0/27"}
    gateway.now += CHARON_GONE
    assert gateway.doors() == {"2.2.2.0/27"}
    gateway.now += 1
    assert gateway.doors() == set()


def test_a_restart_leaves_the_doors_that_are_open(gateway: Desk) -> None:
    gateway.saw(carrying("2.2.2.0/27"))
    wanted = gateway.deriver.derive(gateway.records, KernelState())
    [door] = [route for route in wanted.kernel.routes.values() if route.metric == 16]
    again = Desk(gateway.keyring, "gw1")
    assert again.doors(door) == {"2.2.2.0/27"}
    again.now += CHARON_GONE + 1
    assert again.doors(door) == set()
