"""The kernel's side against the real kernel, each test in a network namespace of its own."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fabricd.core.action import Action, Disruption, Item, Kind
from fabricd.core.ownership import LINK_ALIAS, NUMBER
from fabricd.core.state import IfAddress, KernelState, Link, Route, RouteKind, Rule, Sysctl
from fabricd.errors import Unavailable
from fabricd.kernel import Kernel, routes
from fabricd.kernel.netlink import Netlink
from fabricd.model import Address, Prefix, prefix
from lab.netns import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/no/such/switch")
BRIDGE = Link("br-edge", "bridge", up=True, alias=LINK_ALIAS, mtu=1500)
DOWN = replace(BRIDGE, up=False)
ADDRESS4 = IfAddress("br-edge", "2.2.2.1/27", NUMBER)
ADDRESS6 = IfAddress("br-edge", "fd00:2::1/64", NUMBER)
SOURCE4, SOURCE6 = Address("2.2.2.1"), Address("fd00:2::1")


@pytest.fixture
def netns(namespace: Callable[[str], Namespace]) -> Iterator[str]:
    """A namespace around the test's thread."""
    made = namespace("kernel")
    with made.around_thread():
        yield made.name


@pytest.fixture
def ip(netns: str) -> Callable[[str], str]:
    """Run an `ip` command in the namespace."""

    def run(command: str) -> str:
        done = subprocess.run(
            ["ip", "-n", netns, *command.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ip {command}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture
async def kernel(netns: str) -> AsyncIterator[Kernel]:
    async with Kernel(SYSCTLS) as opened:
        yield opened


def action(kind: Kind, item: Item) -> Action:
    target = item.prefix if isinstance(item, Route) else getattr(item, "name", "something")
    return Action(kind, target, Disruption.NONE, "a test", item)


async def apply(kernel: Kernel, *steps: tuple[Kind, Item]) -> list[str]:
    """What was refused."""
    actions = [action(kind, item) for kind, item in steps]
    outcomes = await kernel.apply(actions)
    assert [outcome.action for outcome in outcomes] == actions
    return [outcome.error for outcome in outcomes if outcome.error]


async def bridge_up(kernel: Kernel) -> None:
    steps: list[tuple[Kind, Item]] = [
        (Kind.LINK_ADD, BRIDGE),
        (Kind.ADDRESS_ADD, ADDRESS4),
        (Kind.ADDRESS_ADD, ADDRESS6),
    ]
    assert await apply(kernel, *steps) == []


def route(text: str, metric: int = 0, link: str | None = "br-edge") -> Route:
    return Route(NUMBER, prefix(text), link=link, metric=metric)


def dead_end(text: str, kind: RouteKind, metric: int = 0) -> Route:
    return Route(NUMBER, prefix(text), kind, metric=metric)


def routes_of(state: KernelState) -> set[Route]:
    return set(state.routes.values())


# ---------------------------------------------------------------- links


async def test_a_link_comes_goes_up_and_down_and_goes(kernel: Kernel) -> None:
    assert await apply(kernel, (Kind.LINK_ADD, DOWN)) == []
    assert (await kernel.observe()).links["br-edge"] == DOWN
    assert await apply(kernel, (Kind.LINK_SET, BRIDGE)) == []
    assert (await kernel.observe()).links["br-edge"] == BRIDGE
    assert await apply(kernel, (Kind.LINK_SET, DOWN)) == []
    assert (await kernel.observe()).links["br-edge"] == DOWN
    assert await apply(kernel, (Kind.LINK_REMOVE, DOWN)) == []
    assert "br-edge" not in (await kernel.observe()).links


async def test_a_link_added_twice_or_removed_twice_is_no_failure(kernel: Kernel) -> None:
    assert await apply(kernel, (Kind.LINK_ADD, DOWN), (Kind.LINK_ADD, BRIDGE)) == []
    assert (await kernel.observe()).links["br-edge"] == BRIDGE
    assert await apply(kernel, (Kind.LINK_REMOVE, BRIDGE), (Kind.LINK_REMOVE, BRIDGE)) == []
    assert "br-edge" not in (await kernel.observe()).links


async def test_a_link_of_somebody_else_is_seen_but_neither_taken_nor_removed(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    ip("link add br-edge type bridge")
    foreign = Link("br-edge", "bridge", up=False, mtu=1500)
    (refused,) = await apply(kernel, (Kind.LINK_ADD, BRIDGE))
    assert refused.startswith("link.add br-edge: EEXIST (another bridge link has this name")
    assert await apply(kernel, (Kind.LINK_REMOVE, BRIDGE)) == []
    assert (await kernel.observe()).links["br-edge"] == foreign


async def test_a_link_that_cannot_be_marked_is_not_left_behind(kernel: Kernel) -> None:
    too_long = replace(BRIDGE, alias="x" * 300)  # IFALIASZ is 256
    (refused,) = await apply(kernel, (Kind.LINK_ADD, too_long))
    assert refused.startswith("link.add br-edge: ")
    assert "br-edge" not in (await kernel.observe()).links


async def test_a_link_cancelled_in_its_making_has_its_mark(kernel: Kernel) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await apply(kernel, (Kind.LINK_ADD, BRIDGE))
    assert (await kernel.observe()).links["br-edge"] == BRIDGE


async def test_a_kind_of_link_that_the_kernel_lacks(kernel: Kernel) -> None:
    (refused,) = await apply(kernel, (Kind.LINK_ADD, replace(BRIDGE, kind="nonsense")))
    assert refused == (
        "link.add br-edge: EOPNOTSUPP (Unknown device type): "
        "this kernel lacks the feature; load or enable its module"
    )


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize("address", [ADDRESS4, ADDRESS6], ids=["IPv4", "IPv6"])
async def test_an_address_comes_and_goes(kernel: Kernel, address: IfAddress) -> None:
    key = (address.link, address.address)
    add, remove = (Kind.ADDRESS_ADD, address), (Kind.ADDRESS_REMOVE, address)
    assert await apply(kernel, (Kind.LINK_ADD, BRIDGE), add, add) == []
    assert (await kernel.observe()).addresses[key] == address
    assert await apply(kernel, remove, remove) == []
    assert key not in (await kernel.observe()).addresses


async def test_addresses_of_others_are_seen_without_a_mark_and_refused(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    ip("link add other type bridge")
    ip("address add 2.2.2.1/27 dev other")
    foreign = IfAddress("other", "2.2.2.1/27")
    (refused,) = await apply(kernel, (Kind.ADDRESS_ADD, replace(foreign, protocol=NUMBER)))
    assert "EEXIST (another program put it there: remove it)" in refused
    assert (await kernel.observe()).addresses["other", "2.2.2.1/27"] == foreign


@pytest.mark.parametrize("address", [ADDRESS4, ADDRESS6], ids=["IPv4", "IPv6"])
async def test_an_address_that_lost_its_mark_on_a_link_of_ours_gets_it_back(
    kernel: Kernel, ip: Callable[[str], str], address: IfAddress
) -> None:
    assert await apply(kernel, (Kind.LINK_ADD, BRIDGE)) == []
    ip(f"address add {address.address} dev br-edge")
    key = (address.link, address.address)
    assert (await kernel.observe()).addresses[key] == replace(address, protocol=0)
    assert await apply(kernel, (Kind.ADDRESS_ADD, address)) == []
    assert (await kernel.observe()).addresses[key] == address


async def test_an_address_on_a_link_that_is_not_there(kernel: Kernel) -> None:
    (refused,) = await apply(kernel, (Kind.ADDRESS_ADD, ADDRESS4))
    assert "ENODEV (there is no link br-edge)" in refused
    assert await apply(kernel, (Kind.ADDRESS_REMOVE, ADDRESS4)) == []


async def test_the_far_end_of_a_point_to_point_link_is_not_its_address(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    ip("link add other type bridge")
    ip("address add 10.0.0.1 peer 10.0.0.2/32 dev other")
    assert ("other", "10.0.0.1/32") in (await kernel.observe()).addresses


# ---------------------------------------------------------------- routes

ROUTES = [
    replace(route("2.2.2.32/27"), source=SOURCE4),
    route("2.2.2.64/27", metric=7),
    route("0.0.0.0/0", metric=4_000_000_000),
    dead_end("2.0.0.0/8", RouteKind.BLACKHOLE),
    dead_end("3.0.0.0/8", RouteKind.UNREACHABLE, metric=9),
    dead_end("4.0.0.0/8", RouteKind.THROW),
    replace(dead_end("5.0.0.0/8", RouteKind.BLACKHOLE), table=254),
    replace(route("6.0.0.0/8"), table=70000),
    replace(route("fd00:3::/64", metric=1), source=SOURCE6),
    route("::ffff:1.2.3.0/120", metric=1024),
    dead_end("fd00::/16", RouteKind.BLACKHOLE, metric=1024),
    dead_end("fd01::/16", RouteKind.UNREACHABLE, metric=5),
    dead_end("::/0", RouteKind.THROW, metric=5),
]


async def test_routes_come_stay_and_go(kernel: Kernel) -> None:
    await bridge_up(kernel)
    sets: list[tuple[Kind, Item]] = [(Kind.ROUTE_SET, item) for item in ROUTES]
    for _ in range(2):
        assert await apply(kernel, *sets) == []
        assert routes_of(await kernel.observe()) == set(ROUTES)
    removals: list[tuple[Kind, Item]] = [(Kind.ROUTE_REMOVE, item) for item in ROUTES]
    for _ in range(2):
        assert await apply(kernel, *removals) == []
        assert routes_of(await kernel.observe()) == set()


@pytest.mark.parametrize(
    ("text", "source", "metric"),
    [("2.2.2.32/27", SOURCE4, 0), ("fd00:3::/64", SOURCE6, 1024)],
    ids=["IPv4", "IPv6"],
)
async def test_a_route_is_replaced_by_one_of_the_same_key(
    kernel: Kernel, text: str, source: Address, metric: int
) -> None:
    await bridge_up(kernel)
    other = replace(BRIDGE, name="fabric0")
    assert await apply(kernel, (Kind.LINK_ADD, other)) == []
    for item in (
        route(text, metric),
        replace(route(text, metric), source=source),
        route(text, metric, link="fabric0"),
        dead_end(text, RouteKind.UNREACHABLE, metric),
        dead_end(text, RouteKind.BLACKHOLE, metric),
        route(text, metric),
    ):
        assert await apply(kernel, (Kind.ROUTE_SET, item)) == []
        assert routes_of(await kernel.observe()) == {item}


async def test_of_two_routes_with_one_key_in_a_batch_the_later_one_stands(kernel: Kernel) -> None:
    await bridge_up(kernel)
    first, second = route("2.2.2.32/27"), dead_end("2.2.2.32/27", RouteKind.BLACKHOLE)
    set_both = [(Kind.ROUTE_SET, first), (Kind.ROUTE_SET, second)]
    assert await apply(kernel, *set_both) == []
    assert routes_of(await kernel.observe()) == {second}
    assert await apply(kernel, *set_both, (Kind.ROUTE_SET, first)) == []
    assert routes_of(await kernel.observe()) == {first}


@pytest.mark.parametrize("table", [NUMBER, 254], ids=["our table", "main table"])
@pytest.mark.parametrize(
    ("text", "metric"), [("2.2.2.32/27", 0), ("fd00:3::/64", 1024)], ids=["IPv4", "IPv6"]
)
async def test_routes_of_others_are_neither_seen_nor_replaced_nor_removed(
    kernel: Kernel, ip: Callable[[str], str], text: str, metric: int, table: int
) -> None:
    await bridge_up(kernel)
    ip(f"route add {text} dev br-edge table {table} protocol static metric {metric}")
    mine = replace(route(text, metric), table=table)
    (refused,) = await apply(kernel, (Kind.ROUTE_SET, mine))
    assert "EEXIST (another program has a route to the same prefix: remove it)" in refused
    assert await apply(kernel, (Kind.ROUTE_REMOVE, mine)) == []
    assert routes_of(await kernel.observe()) == set()
    family = "-6" if ":" in text else "-4"
    assert "static" in ip(f"{family} route show table {table} {text}")


async def test_the_kernel_itself_leaves_out_the_routes_of_others(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    await bridge_up(kernel)
    ip("route add 2.2.2.64/27 dev br-edge protocol static")
    ip("route add fd00:3::/64 dev br-edge protocol static")
    assert await apply(kernel, (Kind.ROUTE_SET, route("2.2.2.32/27"))) == []
    netlink = Netlink.open()
    assert len(await netlink.dump(routes.dump(socket.AF_INET))) == 1
    assert len(await netlink.dump(routes.dump(socket.AF_INET6))) == 0
    netlink.close()


async def test_where_bird_s_routes_in_the_main_table_lead_is_seen(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    await bridge_up(kernel)
    assert (await kernel.observe()).learned == set()
    ip("route add 2.2.2.32/28 via 2.2.2.9 protocol bird")
    ip("route add 2.2.2.48/28 protocol bird nexthop via 2.2.2.9 nexthop via 2.2.2.10")
    ip("route add fd00:3::/64 via fd00:2::9 protocol bird")
    ip("route add 2.2.2.64/28 via 2.2.2.9 protocol static")
    ip("route add 2.2.2.80/28 via 2.2.2.9 protocol bird table 77")
    ip("route add unreachable 2.2.2.96/28 protocol bird")
    assert (await kernel.observe()).learned == {"2.2.2.32/28", "2.2.2.48/28", "fd00:3::/64"}


async def test_a_route_bent_to_a_gateway_is_seen_as_bent_and_set_right(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    await bridge_up(kernel)
    wanted = {route("2.2.2.32/27"), route("fd00:3::/64", metric=5)}
    ip("route add 2.2.2.32/27 via 2.2.2.9 table 198 protocol 198")
    ip("route add fd00:3::/64 via fd00:2::9 table 198 protocol 198 metric 5")
    bent = routes_of(await kernel.observe())
    assert bent == {replace(item, link=None) for item in wanted}
    assert await apply(kernel, *[(Kind.ROUTE_SET, item) for item in wanted]) == []
    assert routes_of(await kernel.observe()) == wanted


@pytest.mark.parametrize("text", ["2.2.2.32/27", "fd00:3::/64"], ids=["IPv4", "IPv6"])
async def test_a_route_turned_into_a_kind_that_we_never_make_is_set_right_or_removed(
    kernel: Kernel, ip: Callable[[str], str], text: str
) -> None:
    await bridge_up(kernel)
    wanted = route(text, metric=5)
    odd = replace(wanted, link=None)
    for cure, left in (
        ((Kind.ROUTE_SET, wanted), {wanted}),
        ((Kind.ROUTE_REMOVE, odd), set()),
    ):
        ip(f"route replace prohibit {text} table 198 protocol 198 metric 5")
        assert routes_of(await kernel.observe()) == {odd}
        assert await apply(kernel, cure) == []
        assert routes_of(await kernel.observe()) == left


async def test_a_removal_that_comes_too_late_leaves_the_dead_end_behind(kernel: Kernel) -> None:
    await bridge_up(kernel)
    tunnel, behind = route("2.2.2.32/27"), dead_end("2.2.2.32/27", RouteKind.UNREACHABLE, 9)
    steps = [(Kind.ROUTE_SET, tunnel), (Kind.ROUTE_SET, behind)]
    assert await apply(kernel, *steps, *[(Kind.ROUTE_REMOVE, tunnel)] * 2) == []
    assert routes_of(await kernel.observe()) == {behind}


@pytest.mark.parametrize(
    ("text", "metric"), [("2.2.2.32/27", 0), ("fd00:3::/64", 1024)], ids=["IPv4", "IPv6"]
)
async def test_what_another_has_put_in_the_place_of_ours_since_the_last_look_is_left_alone(
    kernel: Kernel, ip: Callable[[str], str], text: str, metric: int
) -> None:
    await bridge_up(kernel)
    mine = route(text, metric)
    assert await apply(kernel, (Kind.ROUTE_SET, mine)) == []
    assert routes_of(await kernel.observe()) == {mine}
    ip(f"route replace {text} dev br-edge table 198 protocol static metric {metric}")
    changed = dead_end(text, RouteKind.UNREACHABLE, metric)
    (refused,) = await apply(kernel, (Kind.ROUTE_SET, changed))
    assert "EEXIST (another program has a route to the same prefix: remove it)" in refused
    family = "-6" if ":" in text else "-4"
    assert "dev br-edge proto static" in ip(f"{family} route show table 198 {text}")


async def test_routes_that_are_gone_changed_and_new_since_the_last_look_are_all_set(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    await bridge_up(kernel)
    bare = [route(f"10.0.{number}.0/24") for number in range(200)]
    gone, changed, new, came = bare[:50], bare[50:100], bare[100:150], bare[150:]
    assert await apply(kernel, *[(Kind.ROUTE_SET, item) for item in gone + changed]) == []
    assert routes_of(await kernel.observe()) == {*gone, *changed}
    for item in gone:
        ip(f"route del {item.prefix} table 198")
    for item in came:
        ip(f"route add unreachable {item.prefix} table 198 protocol 198")
    wanted = [replace(item, source=SOURCE4) for item in (*gone, *changed, *new, *came)]
    assert await apply(kernel, *[(Kind.ROUTE_SET, item) for item in wanted]) == []
    assert routes_of(await kernel.observe()) == set(wanted)


async def test_a_route_that_stays_is_not_read_anew_unless_its_link_has_another_name(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    await bridge_up(kernel)
    wanted = route("2.2.2.32/27")
    assert await apply(kernel, (Kind.ROUTE_SET, wanted)) == []
    first, second = [(await kernel.observe()).routes for _ in range(2)]
    assert first == second == {wanted.key: wanted}
    assert first[wanted.key] is second[wanted.key]
    ip("link set br-edge down")  # which takes the route with it
    ip("link set br-edge name other")
    ip("link set other up")
    ip("route add 2.2.2.32/27 dev other table 198 protocol 198")
    assert routes_of(await kernel.observe()) == {replace(wanted, link="other")}


async def test_one_bad_route_in_a_thousand_is_the_only_one_refused(kernel: Kernel) -> None:
    await bridge_up(kernel)
    items = [route(f"10.{i >> 8}.{i & 255}.0/24") for i in range(1000)]
    bad = replace(items[500], source=Address("9.9.9.9"))
    items[500] = bad
    outcomes = await kernel.apply([action(Kind.ROUTE_SET, item) for item in items])
    assert [outcome.action.item for outcome in outcomes] == items
    (refused,) = [outcome for outcome in outcomes if outcome.error]
    assert refused.action.item == bad
    assert refused.error == "route.set 10.1.244.0/24: EINVAL (Invalid prefsrc address)"
    assert routes_of(await kernel.observe()) == set(items) - {bad}


async def test_a_route_to_a_link_that_is_not_there_hides_no_other(kernel: Kernel) -> None:
    await bridge_up(kernel)
    good, lost, last = route("2.2.2.32/27"), route("2.2.2.64/27", link="no"), route("2.2.2.96/27")
    (refused,) = await apply(kernel, *[(Kind.ROUTE_SET, item) for item in (good, lost, last)])
    assert refused == (
        "route.set 2.2.2.64/27: ENODEV (there is no link no): "
        "make it, or correct its name in the configuration"
    )
    assert routes_of(await kernel.observe()) == {good, last}


async def test_a_route_out_of_a_link_that_is_down(kernel: Kernel) -> None:
    down: list[tuple[Kind, Item]] = [
        (Kind.LINK_ADD, DOWN),
        (Kind.ROUTE_SET, route("2.2.2.32/27")),
    ]
    (refused,) = await apply(kernel, *down)
    assert refused.startswith("route.set 2.2.2.32/27: ENETDOWN (")
    assert refused.endswith("the link is down; set it up first")


async def test_a_dump_cancelled_half_way_does_not_spoil_the_next(kernel: Kernel) -> None:
    await bridge_up(kernel)
    wanted = [route(f"10.{i >> 8}.{i & 255}.0/24") for i in range(3000)]
    assert await apply(kernel, *[(Kind.ROUTE_SET, item) for item in wanted]) == []
    cut_short = 0
    for patience in range(20):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel(after: int = patience, scope: trio.CancelScope = scope) -> None:
                    for _ in range(after):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                await kernel.observe()
        cut_short += scope.cancelled_caught
        assert routes_of(await kernel.observe()) == set(wanted)
    assert cut_short > 10


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("family", [4, 6])
async def test_a_rule_comes_and_goes(kernel: Kernel, family: int) -> None:
    rule = Rule(family, NUMBER, NUMBER)
    far = Rule(family, 30000, 70000)
    add = [(Kind.RULE_ADD, rule), (Kind.RULE_ADD, far)]
    assert await apply(kernel, *add, *add) == []
    assert set((await kernel.observe()).rules.values()) == {rule, far}
    assert await apply(kernel, (Kind.RULE_REMOVE, rule), (Kind.RULE_REMOVE, rule)) == []
    assert (await kernel.observe()).rules == {(family, 30000): far}


@pytest.mark.parametrize(("family", "to"), [(4, "2.0.0.0/8"), (6, "fd00:2::/32")])
async def test_a_rule_for_a_network_that_leaves_short_prefixes_out(
    kernel: Kernel, ip: Callable[[str], str], family: int, to: str
) -> None:
    length = int(to.partition("/")[2])
    rule = Rule(family, 197, 254, Prefix(to), length)
    assert await apply(kernel, (Kind.RULE_ADD, rule), (Kind.RULE_ADD, rule)) == []
    words = f"197:\tfrom all to {to} lookup main suppress_prefixlength {length} proto 198"
    assert words in ip(f"-{family} rule show")
    assert (await kernel.observe()).rules == {(family, 197): rule}
    other = replace(rule, suppress=None)
    assert await apply(kernel, (Kind.RULE_ADD, other)) == []
    assert (await kernel.observe()).rules == {(family, 197): other}
    assert await apply(kernel, (Kind.RULE_REMOVE, other)) == []
    assert (await kernel.observe()).rules == {}


async def test_rules_of_others_are_neither_seen_nor_removed(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    rule = Rule(4, NUMBER, NUMBER)
    ip("rule add priority 198 table 198")
    assert (await kernel.observe()).rules == {}
    assert await apply(kernel, (Kind.RULE_REMOVE, rule)) == []
    assert "198:\tfrom all lookup 198" in ip("rule show")
    assert await apply(kernel, (Kind.RULE_ADD, rule)) == []
    assert (await kernel.observe()).rules == {(4, NUMBER): rule}
    assert await apply(kernel, (Kind.RULE_REMOVE, rule)) == []
    assert "198:\tfrom all lookup 198" in ip("rule show")


async def test_a_rule_of_ours_that_was_narrowed_is_seen_and_replaced(
    kernel: Kernel, ip: Callable[[str], str]
) -> None:
    rule = Rule(4, NUMBER, NUMBER)
    ip("rule add from 10.0.0.0/8 priority 198 table 198 protocol 198")
    (narrowed,) = (await kernel.observe()).rules.values()
    assert narrowed == replace(rule, table=0)
    assert await apply(kernel, (Kind.RULE_REMOVE, narrowed), (Kind.RULE_ADD, rule)) == []
    assert (await kernel.observe()).rules == {(4, NUMBER): rule}


async def test_a_narrowed_rule_gives_way(kernel: Kernel, ip: Callable[[str], str]) -> None:
    rule = Rule(4, NUMBER, NUMBER)
    ip("rule add from 10.0.0.0/8 priority 198 table 198 protocol 198")
    ip("rule add priority 198 table 77 protocol 198")
    assert await apply(kernel, (Kind.RULE_ADD, rule)) == []
    assert (await kernel.observe()).rules == {(4, NUMBER): rule}
    assert ip("rule show priority 198").count("lookup") == 1


# ---------------------------------------------------------------- sysctls


async def test_a_sysctl_is_read_and_set(kernel: Kernel) -> None:
    forward = "net/ipv4/ip_forward"
    assert (await kernel.observe()).sysctls[forward] == Sysctl(forward, "0")
    assert await apply(kernel, (Kind.SYSCTL_SET, Sysctl(forward, "1"))) == []
    observed = (await kernel.observe()).sysctls
    assert observed[forward] == Sysctl(forward, "1")
    assert "net/no/such/switch" not in observed
    (refused,) = await apply(kernel, (Kind.SYSCTL_SET, Sysctl("net/no/such/switch", "1")))
    assert refused.startswith("sysctl.set net/no/such/switch: ENOENT")


# ---------------------------------------------------------------- notifications


class Heard:
    """What `watch` has called out."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self._news = trio.Event()

    def __call__(self, subject: str) -> None:
        self.subjects.append(subject)
        self._news.set()
        self._news = trio.Event()

    async def wait_for(self, subject: str) -> None:
        with trio.fail_after(60):
            while subject not in self.subjects:
                await self._news.wait()


DAMAGE = [
    ("link set br-edge down", "link br-edge"),
    ("link set br-edge alias stolen", "link br-edge"),
    ("link delete br-edge", "link br-edge"),
    ("link add other type bridge", "link other"),
    ("address delete 2.2.2.1/27 dev br-edge", "address 2.2.2.1/27"),
    ("address delete fd00:2::1/64 dev br-edge", "address fd00:2::1/64"),
    ("address add 9.9.9.9/32 dev br-edge", "address 9.9.9.9/32"),
    ("route delete 2.2.2.32/27 table 198", "route 2.2.2.32/27"),
    ("route delete fd00:3::/64 table 198", "route fd00:3::/64"),
    ("route replace blackhole 2.2.2.32/27 table 198 protocol 198", "route 2.2.2.32/27"),
    ("route replace 2.2.2.32/27 dev br-edge table 198 protocol static", "route 2.2.2.32/27"),
    ("route replace fd00:3::/64 dev br-edge table 198 metric 9", "route fd00:3::/64"),
    ("route add prohibit 9.0.0.0/8 table 198 protocol 198", "route 9.0.0.0/8"),
    ("rule delete priority 198", "rule 198"),
    ("-6 rule delete priority 198", "rule 198"),
]


@pytest.mark.parametrize(("command", "subject"), DAMAGE, ids=[command for command, _ in DAMAGE])
async def test_damage_is_called_out(
    kernel: Kernel, ip: Callable[[str], str], command: str, subject: str, nursery: trio.Nursery
) -> None:
    await bridge_up(kernel)
    steps: list[tuple[Kind, Item]] = [
        (Kind.ROUTE_SET, route("2.2.2.32/27")),
        (Kind.ROUTE_SET, route("fd00:3::/64", metric=9)),
        (Kind.RULE_ADD, Rule(4, NUMBER, NUMBER)),
        (Kind.RULE_ADD, Rule(6, NUMBER, NUMBER)),
    ]
    assert await apply(kernel, *steps) == []
    heard = Heard()
    nursery.start_soon(kernel.watch, heard)
    await wait_all_tasks_blocked()
    heard.subjects.clear()
    ip(command)
    await heard.wait_for(subject)


async def test_neither_routes_and_rules_of_others_nor_our_own_doing_are_called_out(
    kernel: Kernel, ip: Callable[[str], str], nursery: trio.Nursery
) -> None:
    await bridge_up(kernel)
    heard = Heard()
    nursery.start_soon(kernel.watch, heard)
    await wait_all_tasks_blocked()
    heard.subjects.clear()
    ip("route add 2.2.2.64/27 dev br-edge table 198")
    ip("route delete 2.2.2.64/27 dev br-edge table 198")
    ip("rule add priority 300 table 198")
    steps: list[tuple[Kind, Item]] = [
        (Kind.ROUTE_SET, route("2.2.2.32/27")),
        (Kind.ROUTE_REMOVE, route("2.2.2.32/27")),
        (Kind.RULE_ADD, Rule(4, NUMBER, NUMBER)),
    ]
    assert await apply(kernel, *steps) == []
    ip("route add blackhole 2.2.2.96/27 table 198 protocol 198")  # the last one, and the first told
    await heard.wait_for("route 2.2.2.96/27")
    assert [s for s in heard.subjects if not s.startswith(("link ", "address "))] == [
        "route 2.2.2.96/27"
    ]


async def test_lost_notifications_are_called_out(
    netns: str, ip: Callable[[str], str], nursery: trio.Nursery
) -> None:
    async with Kernel((), event_buffer=1) as kernel:
        for number in range(50):
            ip(f"route add blackhole 10.0.{number}.0/24 table 198 protocol 198")
        heard = Heard()
        nursery.start_soon(kernel.watch, heard)
        await heard.wait_for("netlink overrun")
        ip("route add blackhole 11.0.0.0/8 table 198 protocol 198")
        await heard.wait_for("route 11.0.0.0/8")
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- permission


def test_without_permission_it_looks_and_says_what_it_needs(netns: str) -> None:
    program = textwrap.dedent("""
        import trio
        from fabricd.core.action import Action, Disruption, Kind
        from fabricd.core.state import Link, Route, RouteKind
        from fabricd.kernel import Kernel

        async def main():
            async with Kernel(["net/ipv4/ip_forward"]) as kernel:
                print(sorted((await kernel.observe()).links))
                for kind, item in (
                    (Kind.LINK_ADD, Link("br-edge", "bridge", True, "fabricd")),
                    (Kind.ROUTE_SET, Route(198, "2.0.0.0/8", RouteKind.BLACKHOLE)),
                ):
                    action = Action(kind, "it", Disruption.NONE, "a test", item)
                    for outcome in await kernel.apply([action]):
                        print(outcome.error)

        trio.run(main)
    """)
    no_net_admin = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"]
    done = subprocess.run(
        [*no_net_admin, sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stderr == ""
    needs = "EPERM (Operation not permitted): fabricd needs CAP_NET_ADMIN in this network namespace"
    assert done.stdout.splitlines() == ["['lo']", f"link.add it: {needs}", f"route.set it: {needs}"]


async def test_a_socket_that_cannot_be_had_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("fabricd.kernel.netlink.socket.socket", forbidden)
    with pytest.raises(Unavailable, match=r"kernel: cannot open a netlink socket: EPERM"):
        async with Kernel(()):
            pass
