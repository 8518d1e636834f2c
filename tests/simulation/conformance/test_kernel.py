"""What the simulation believes of the kernel and of `fabricd.kernel`, played on both.

Hands use ip(8) on the real one, and `tests.simulation.iproute` on the other: the same words.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.abc import Clock
from trio.testing import wait_all_tasks_blocked

from fabricd.core.action import Action, Disruption, Item, Kind
from fabricd.core.ownership import LINK_ALIAS, NUMBER
from fabricd.core.state import IfAddress, KernelState, Link, Route, RouteKind, Rule, Sysctl
from fabricd.daemon.parts import KernelPart
from fabricd.kernel import Kernel
from fabricd.model import Address, Prefix
from lab.netns import Namespace
from tests.simulation.kernel import SimulatedKernel
from tests.simulation.mood import Mood

SIX = Address("fd00:2::1")
FORWARD = "net/ipv4/ip_forward"
BRIDGE = Link("br-edge", "bridge", up=True, alias=LINK_ALIAS)
OTHER = replace(BRIDGE, name="fabric0")
ADDRESS = IfAddress("br-edge", "2.2.2.1/27", NUMBER)
TUNNEL = Route(NUMBER, Prefix("2.2.2.32/27"), link="fabric0", source=Address("2.2.2.1"), metric=100)
REFUSED = Route(NUMBER, Prefix("2.0.0.0/8"), RouteKind.UNREACHABLE, metric=10_000)
RULE = Rule(4, NUMBER, NUMBER)
NARROW = Rule(4, 197, 254, Prefix("2.0.0.0/8"), 8)

WHOLE: list[tuple[Kind, Item]] = [
    (Kind.SYSCTL_SET, Sysctl(FORWARD, "1")),
    (Kind.LINK_ADD, BRIDGE),
    (Kind.LINK_ADD, OTHER),
    (Kind.ADDRESS_ADD, ADDRESS),
    (Kind.ROUTE_SET, TUNNEL),
    (Kind.ROUTE_SET, REFUSED),
    (Kind.RULE_ADD, NARROW),
    (Kind.RULE_ADD, RULE),
]
"""A node's kernel as the daemon makes it."""


class Bench:
    """One kernel, the daemon's way to it, and hands."""

    def __init__(self, kernel: KernelPart, ip: Callable[[str], object]) -> None:
        self.kernel = kernel
        self.ip = ip

    async def do(self, *steps: tuple[Kind, Item]) -> list[str]:
        """The errors' names of what was refused."""
        actions = [Action(kind, "it", Disruption.NONE, "a test", item) for kind, item in steps]
        outcomes = await self.kernel.apply(actions)
        assert [outcome.action for outcome in outcomes] == actions
        return [o.error.split()[2] for o in outcomes if o.error]

    async def see(self) -> KernelState:
        return await self.kernel.observe()

    async def seen(self) -> dict[str, object]:
        """What there is of a node's kernel, apart from what a machine has anyway."""
        state = await self.see()
        return {
            "links": {link.name: link.alias for link in state.links.values()} | {"lo": ""},
            "addresses": sorted(a for _, a in state.addresses if "fe80" not in a and a[0] != ":"),
            "routes": set(state.routes.values()),
            "rules": set(state.rules.values()),
        }


@pytest.fixture
def inside(sort: str, run_dir: Path) -> Iterator[Namespace | None]:
    """For the real one, a namespace around the test's thread."""
    if sort == "simulated":
        yield None
        return
    namespace = Namespace.create(f"{run_dir.name}-k", run_dir)
    with namespace.around_thread():
        yield namespace


@pytest.fixture
async def bench(inside: Namespace | None) -> AsyncIterator[Bench]:
    if inside is not None:
        async with Kernel((FORWARD,)) as kernel:
            yield Bench(kernel, lambda command: inside.ip(*command.split()))
        return
    async with trio.open_nursery() as nursery:
        simulated = SimulatedKernel(Mood(nursery, random.Random(1)))
        simulated.held.links["lo"] = Link("lo", "", up=True)
        simulated.held.sysctls[FORWARD] = Sysctl(FORWARD, "0")

        def ip(command: str) -> None:
            refused = simulated.by_hand(command)
            assert not refused, refused

        yield Bench(simulated, ip)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def whole(bench: Bench) -> Bench:
    assert await bench.do(*WHOLE) == []
    return bench


# ---------------------------------------------------------------- what the daemon does


async def test_what_was_made_is_what_is_seen(whole: Bench, clock: Clock) -> None:
    state = await whole.see()
    for link in (BRIDGE, OTHER):
        assert replace(state.links[link.name], mtu=0) == link
    assert state.addresses["br-edge", "2.2.2.1/27"] == ADDRESS
    assert set(state.routes.values()) == {TUNNEL, REFUSED}
    assert set(state.rules.values()) == {RULE, NARROW}
    assert state.sysctls[FORWARD] == Sysctl(FORWARD, "1")


async def test_to_make_it_again_changes_nothing(whole: Bench, clock: Clock) -> None:
    before = await whole.seen()
    assert await whole.do(*WHOLE) == []
    assert await whole.seen() == before


async def test_to_remove_it_twice_is_no_failure(whole: Bench, clock: Clock) -> None:
    removals: list[tuple[Kind, Item]] = [
        (Kind.RULE_REMOVE, RULE),
        (Kind.RULE_REMOVE, NARROW),
        (Kind.ROUTE_REMOVE, REFUSED),
        (Kind.ROUTE_REMOVE, TUNNEL),
        (Kind.ADDRESS_REMOVE, ADDRESS),
        (Kind.LINK_REMOVE, BRIDGE),
        (Kind.LINK_REMOVE, OTHER),
    ]
    for _ in range(2):
        assert await whole.do(*removals) == []
    assert await whole.seen() == {
        "links": {"lo": ""},
        "addresses": [],
        "routes": set(),
        "rules": set(),
    } | {"addresses": (await whole.seen())["addresses"]}


ODD: list[tuple[Item, Kind, str]] = [
    (replace(TUNNEL, link="no"), Kind.ROUTE_SET, "ENODEV"),
    (replace(TUNNEL, source=Address("9.9.9.9")), Kind.ROUTE_SET, "EINVAL"),
    (replace(ADDRESS, link="no"), Kind.ADDRESS_ADD, "ENODEV"),
    (replace(BRIDGE, name="no"), Kind.LINK_SET, "ENODEV"),
]


@pytest.mark.parametrize(("item", "kind", "error"), ODD, ids=[error for _, _, error in ODD])
async def test_what_cannot_be(
    whole: Bench, clock: Clock, item: Item, kind: Kind, error: str
) -> None:
    before = await whole.seen()
    assert await whole.do((kind, item)) == [error]
    assert await whole.seen() == before


async def test_a_route_out_of_a_link_that_is_down(whole: Bench, clock: Clock) -> None:
    assert await whole.do((Kind.LINK_SET, replace(OTHER, up=False))) == []
    assert await whole.do((Kind.ROUTE_SET, TUNNEL)) == ["ENETDOWN"]


async def test_a_route_takes_the_place_of_another_of_its_key(whole: Bench, clock: Clock) -> None:
    for route in (
        replace(TUNNEL, kind=RouteKind.UNREACHABLE, link=None, source=None),
        replace(TUNNEL, link="br-edge", source=None),
        TUNNEL,
    ):
        assert await whole.do((Kind.ROUTE_SET, route)) == []
        assert (await whole.seen())["routes"] == {route, REFUSED}


async def test_a_removal_of_another_kind_comes_too_late(whole: Bench, clock: Clock) -> None:
    other = replace(TUNNEL, kind=RouteKind.UNREACHABLE, link=None, source=None)
    assert await whole.do((Kind.ROUTE_REMOVE, other)) == []
    assert (await whole.seen())["routes"] == {TUNNEL, REFUSED}


# ---------------------------------------------------------------- what hands do

CONSEQUENCES = {
    "link delete fabric0": {REFUSED},
    "link set fabric0 down": {REFUSED},
    "link delete br-edge": {TUNNEL, REFUSED},
    "link set br-edge down": {TUNNEL, REFUSED},
    "address delete 2.2.2.1/27 dev br-edge": {TUNNEL, REFUSED},
    "route delete 2.2.2.32/27 table 198": {REFUSED},
    "route replace 2.2.2.32/27 dev br-edge table 198 metric 100 protocol 198": {
        replace(TUNNEL, link="br-edge", source=None),
        REFUSED,
    },
    "route replace blackhole 2.2.2.32/27 table 198 metric 100 protocol 198": {
        replace(TUNNEL, kind=RouteKind.BLACKHOLE, link=None, source=None),
        REFUSED,
    },
    "route replace 2.2.2.32/27 dev br-edge table 198 metric 100": {REFUSED},
    "link set fabric0 alias stolen": {TUNNEL, REFUSED},
    "link add docker0 type bridge": {TUNNEL, REFUSED},
    "route add 172.16.0.0/12 dev br-edge": {TUNNEL, REFUSED},
}


@pytest.mark.parametrize("command", CONSEQUENCES)
async def test_what_becomes_of_our_routes(whole: Bench, clock: Clock, command: str) -> None:
    whole.ip(command)
    assert (await whole.seen())["routes"] == CONSEQUENCES[command]


async def test_an_address_goes_with_its_link(whole: Bench, clock: Clock) -> None:
    whole.ip("link delete br-edge")
    assert ("br-edge", "2.2.2.1/27") not in (await whole.see()).addresses


async def test_only_the_main_table_s_routes_go_with_their_source(
    whole: Bench, clock: Clock
) -> None:
    door = replace(TUNNEL, table=254, metric=16)
    tunnel6 = Route(NUMBER, Prefix("fd00:3::/64"), link="fabric0", source=SIX, metric=100)
    added = IfAddress("br-edge", f"{SIX}/64", NUMBER)
    steps: list[tuple[Kind, Item]] = [
        (Kind.ADDRESS_ADD, added),
        (Kind.ROUTE_SET, door),
        (Kind.ROUTE_SET, tunnel6),
    ]
    assert await whole.do(*steps) == []
    whole.ip("address delete 2.2.2.1/27 dev br-edge")
    whole.ip(f"address delete {SIX}/64 dev br-edge")
    assert (await whole.seen())["routes"] == {TUNNEL, REFUSED, replace(tunnel6, source=None)}


async def test_rules_of_hands(whole: Bench, clock: Clock) -> None:
    whole.ip("rule add priority 198 table 77")
    assert (await whole.seen())["rules"] == {RULE, NARROW}, "it is somebody else's"
    whole.ip("rule delete priority 197")
    assert (await whole.seen())["rules"] == {RULE}
    whole.ip("rule add to 2.0.0.0/8 priority 197 table main suppress_prefixlength 8 protocol 198")
    assert (await whole.seen())["rules"] == {RULE, NARROW}


async def test_a_rule_takes_the_place_of_ours_alone(whole: Bench, clock: Clock) -> None:
    whole.ip("rule delete priority 198")
    whole.ip("rule add priority 198 table 77 protocol 198")
    assert await whole.do((Kind.RULE_ADD, RULE)) == []
    assert (await whole.seen())["rules"] == {RULE, NARROW}


async def test_routes_of_others_keep_ours_out(whole: Bench, clock: Clock) -> None:
    whole.ip("route replace 2.2.2.32/27 dev br-edge table 198 metric 100")
    assert await whole.do((Kind.ROUTE_SET, TUNNEL)) == ["EEXIST"]
    assert await whole.do((Kind.ROUTE_REMOVE, TUNNEL)) == []
    whole.ip("route delete 2.2.2.32/27 table 198 metric 100")
    assert await whole.do((Kind.ROUTE_SET, TUNNEL)) == []


async def test_links_of_others_keep_ours_out(whole: Bench, clock: Clock) -> None:
    whole.ip("link set br-edge alias stolen")
    assert await whole.do((Kind.LINK_ADD, BRIDGE)) == ["EEXIST"]
    assert await whole.do((Kind.LINK_REMOVE, BRIDGE)) == []
    assert (await whole.see()).links["br-edge"].alias == "stolen"


async def test_addresses_of_others_keep_ours_out(whole: Bench, clock: Clock) -> None:
    whole.ip("link add docker0 type bridge")
    whole.ip("address add 192.0.2.7/24 dev docker0")
    ours = IfAddress("docker0", "192.0.2.7/24", NUMBER)
    assert await whole.do((Kind.ADDRESS_ADD, ours)) == ["EEXIST"]
    assert (await whole.see()).addresses["docker0", "192.0.2.7/24"].protocol == 0


async def test_an_address_on_our_link_gets_its_mark_back(whole: Bench, clock: Clock) -> None:
    whole.ip("address delete 2.2.2.1/27 dev br-edge")
    whole.ip("address add 2.2.2.1/27 dev br-edge")
    assert (await whole.see()).addresses["br-edge", "2.2.2.1/27"] == replace(ADDRESS, protocol=0)
    assert await whole.do((Kind.ADDRESS_ADD, ADDRESS)) == []
    assert (await whole.see()).addresses["br-edge", "2.2.2.1/27"] == ADDRESS


# ---------------------------------------------------------------- what is told

TOLD = {
    "link delete fabric0": "link fabric0",
    "link set br-edge down": "link br-edge",
    "link set br-edge alias stolen": "link br-edge",
    "link add docker0 type bridge": "link docker0",
    "address delete 2.2.2.1/27 dev br-edge": "address 2.2.2.1/27",
    "address add 192.0.2.7/24 dev br-edge": "address 192.0.2.7/24",
    "route delete 2.2.2.32/27 table 198": "route 2.2.2.32/27",
    "route replace 2.2.2.32/27 dev br-edge table 198 metric 100": "route 2.2.2.32/27",
    "route add 9.9.9.0/24 dev br-edge table 198 metric 5 protocol 198": "route 9.9.9.0/24",
    "rule delete priority 198": "rule 198",
}


@pytest.mark.parametrize("command", TOLD)
async def test_what_hands_do_is_told(
    whole: Bench, clock: Clock, nursery: trio.Nursery, command: str
) -> None:
    say, heard = trio.open_memory_channel[str](1000)
    nursery.start_soon(whole.kernel.watch, say.send_nowait)
    await wait_all_tasks_blocked()
    whole.ip(command)
    with trio.fail_after(20):
        while await heard.receive() != TOLD[command]:
            pass


async def test_what_is_nobodys_business_is_not_told(
    whole: Bench, clock: Clock, nursery: trio.Nursery
) -> None:
    """Routes and rules of others, and our own."""
    said: list[str] = []
    nursery.start_soon(whole.kernel.watch, said.append)
    await wait_all_tasks_blocked()
    said.clear()
    whole.ip("route add 172.16.0.0/12 dev br-edge")
    whole.ip("rule add priority 300 table 77")
    assert await whole.do((Kind.ROUTE_REMOVE, TUNNEL), (Kind.RULE_REMOVE, RULE)) == []
    whole.ip("route add blackhole 9.9.9.0/24 table 198 protocol 198")
    with trio.fail_after(20):
        while "route 9.9.9.0/24" not in said:  # noqa: ASYNC110 - of both kinds of time
            await trio.sleep(0.01)
    assert {line for line in said if not line.startswith(("link", "address"))} == {
        "route 9.9.9.0/24"
    }
