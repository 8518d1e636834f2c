"""Pods attached and detached between a fake kernel and a real disk, while daemons are killed."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from fabricd.core.action import Action, Outcome
from fabricd.core.events import Lost
from fabricd.core.pods import port_name
from fabricd.core.state import Link
from fabricd.daemon.pods import DEADLINE, REBOOT_GRACE, PodService, Refused, Wish
from fabricd.model import Prefix
from fabricd.pods.attachments import Attachments, Entry
from fabricd.pods.leases import Holder, Leases
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.fakes import RECORDS, FakeCharon, FakeKernel, SimulatedNode


class PowerCut(BaseException):
    """The process is gone, at once."""


@dataclass
class Fuse:
    """Blows at a step of those that leave something behind."""

    blows_at: int = 0
    burnt: int = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.burnt == self.blows_at:
            raise PowerCut


@dataclass
class MortalAttachments(Attachments):
    fuse: Fuse

    def __init__(self, state_dir: Path, fuse: Fuse) -> None:
        super().__init__(state_dir)
        self.fuse = fuse

    def save(self, entry: Entry) -> None:
        self.fuse.burn()
        super().save(entry)
        self.fuse.burn()

    def remove(self, name: str) -> None:
        self.fuse.burn()
        super().remove(name)
        self.fuse.burn()


class MortalLeases(Leases):
    def __init__(self, data_dir: Path, fuse: Fuse) -> None:
        super().__init__(data_dir, "fabric")
        self.fuse = fuse

    def take(
        self, addresses: Iterable[str], holder: Holder, subnets: Sequence[Prefix] = ()
    ) -> None:
        self.fuse.burn()
        super().take(addresses, holder, subnets)
        self.fuse.burn()

    def release(self, addresses: Iterable[str], holder: Holder) -> None:
        self.fuse.burn()
        super().release(addresses, holder)
        self.fuse.burn()


@dataclass
class MortalKernel(FakeKernel):
    fuse: Fuse = field(default_factory=Fuse)
    after_apply: Callable[[], None] = lambda: None

    async def apply(self, actions: Sequence[Action]) -> list[Outcome]:
        self.fuse.burn()
        outcomes = await super().apply(actions)
        self.fuse.burn()
        self.after_apply()
        return outcomes


@dataclass
class Machine:
    """What outlives a daemon: disk, kernel, charon."""

    path: Path
    pki: Pki
    boot: str = "boot1"

    def __post_init__(self) -> None:
        self.fuse = Fuse()
        self.kernel = MortalKernel(fuse=self.fuse)
        self.charon = FakeCharon()
        self.attachments = MortalAttachments(self.path / "state", self.fuse)
        self.folder = self.path / "networks" / "fabric"
        """Of leases."""

    def netns(self, name: str = "ns1") -> str:
        """A path that leads to a network namespace."""
        path = self.path / name
        if not path.is_symlink():
            path.symlink_to("/proc/self/ns/net")
        return str(path)

    def wish(self, name: str = "pod1", netns: str = "", **more: str | tuple[str, ...]) -> Wish:
        return Wish(name, netns or self.netns(f"ns-{name}"), **more)  # type: ignore[arg-type]

    def leased(self) -> dict[str, str]:
        """Holders by address."""
        return {
            path.name: path.read_bytes().split(b"\r\n")[0].decode()
            for path in self.folder.glob("2.*")
        }

    def addresses(self) -> dict[str, str]:
        """Those of the pods in the kernel, by pod."""
        pods = self.kernel.held.pods.values()
        return {pod.name: pod.addresses[0].partition("/")[0] for pod in pods}

    def ports(self) -> set[str]:
        return {name for name in self.kernel.held.links if name.startswith("pod")}

    def nothing_half_made(self) -> None:
        """Kernel, leases and entries have the same pods."""
        entries, faults = self.attachments.load()
        assert faults == []
        assert not any(entry.leaving for entry in entries.values())
        assert self.addresses() == {
            name: entry.addresses[0].partition("/")[0] for name, entry in entries.items()
        }
        assert self.leased() == {
            entry.addresses[0].partition("/")[0]: entry.holder for entry in entries.values()
        }
        assert self.ports() == set(map(port_name, entries))

    @asynccontextmanager
    async def daemon(self, *, synced: bool = True) -> AsyncIterator[Daemon]:
        """One life of a daemon; ends as by SIGKILL."""
        node = SimulatedNode(
            self.pki.keyring(), self.kernel, self.charon, pods=lambda: service.known
        )
        rib = node.reconciler.rib
        service = PodService(
            self.attachments,
            MortalLeases(self.path / "networks", self.fuse),
            self.boot,
            lambda: rib.in_force().nodes.get("edge2"),
            node.reconciler.pods_changed,
        )
        node.after_pass = lambda: service.after_pass(node.reconciler.picture)
        service.load()
        async with trio.open_nursery() as nursery:
            await node.start(nursery)
            if synced:
                node.list(*RECORDS)
                await node.at_rest()
            yield Daemon(node, service, nursery)
            nursery.cancel_scope.cancel()


@dataclass
class Daemon:
    node: SimulatedNode
    pods: PodService
    nursery: trio.Nursery

    async def refused(self, wish: Wish) -> str:
        with pytest.raises(Refused) as caught:
            await self.pods.attach(wish)
        return str(caught.value)

    def state(self, name: str) -> tuple[str, str]:
        [found] = [
            item
            for item in self.pods.documents(self.node.reconciler.picture)
            if item["name"] == name
        ]
        return found["state"], found["reason"]

    async def until(self, condition: Callable[[], object]) -> None:
        await self.node.until(condition)


@pytest.fixture
def machine(tmp_path: Path, pki: Pki, autojump_clock: MockClock) -> Machine:
    # What is done in threads is over before the clock jumps.
    autojump_clock.autojump_threshold = 0.02
    return Machine(tmp_path, pki)


# ---------------------------------------------------------------- there and away


async def test_attached_is_in_the_kernel_on_disk_and_leased(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        entry = await daemon.pods.attach(machine.wish(holder="c0ffee", network="fabric"))
        pod = machine.kernel.held.pods["pod1"]
        assert pod.addresses == entry.addresses == ("2.2.2.2/27",)
        assert (pod.bridge, pod.gateways, pod.up) == ("br-edge", ("2.2.2.1",), True)
        assert pod.mtu == daemon.node.reconciler.picture.desired.pod_mtu
        assert machine.leased() == {"2.2.2.2": "c0ffee"}
        assert machine.attachments.load() == ({"pod1": entry}, [])
        assert daemon.state("pod1") == ("attached", "")

        assert await daemon.pods.detach("pod1")
        assert machine.ports() == set()
        machine.nothing_half_made()
        assert not await daemon.pods.detach("pod1")


async def test_many_at_once_get_an_address_each(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        async with trio.open_nursery() as nursery:
            for number in range(29):
                nursery.start_soon(daemon.pods.attach, machine.wish(f"pod{number}"))
        assert len(set(machine.leased())) == 29
        machine.nothing_half_made()
        why = await daemon.refused(machine.wish("late"))
        assert why == "no address is free in 2.2.2.0/27: detach pods, or add a subnet"
        async with trio.open_nursery() as nursery:
            for number in range(29):
                nursery.start_soon(daemon.pods.detach, f"pod{number}")
        assert machine.leased() == {}
        machine.nothing_half_made()


async def test_the_same_again_is_done_already(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        first = await daemon.pods.attach(machine.wish())
        assert await daemon.pods.attach(machine.wish()) == first
        assert await daemon.pods.attach(machine.wish(addresses=("2.2.2.2",))) == first
        assert machine.kernel.names.count("pod.set pod1") == 1


async def test_the_same_twice_at_once(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(daemon.pods.attach, machine.wish())
        assert machine.leased() == {"2.2.2.2": "pod1"}


async def test_the_same_name_for_something_else(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        at = f"pod pod1 is attached already, as eth0 in {machine.netns('ns-pod1')}: detach it first"
        others = [
            machine.wish(netns=machine.netns("ns2")),
            machine.wish(ifname="net1"),
            machine.wish(addresses=("2.2.2.9",)),
            machine.wish(network="fabric"),
        ]
        for other in others:
            assert await daemon.refused(other) == at
        machine.nothing_half_made()


async def test_an_interface_that_another_pod_has(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        ns = machine.netns("ns-pod1")
        why = await daemon.refused(machine.wish("pod2", ns))
        assert why == f"pod pod1 is attached as eth0 in {ns}: detach it first"
        await daemon.pods.attach(machine.wish("pod2", ns, ifname="net1"))
        machine.nothing_half_made()


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish("", "/x"), "'' is no pod's name"),
        (Wish("a/b", "/x"), "'a/b' is no pod's name"),
        (Wish("../a", "/x"), "'../a' is no pod's name"),
        (Wish("p" * 129, "/x"), "'ppp"),
        (Wish("pod1", "/x", "a/b"), "'a/b' is no interface's name"),
        (Wish("pod1", "/x", ""), "'' is no interface's name"),
        (Wish("pod1", "/x", "lo"), "'lo' is no interface's name"),
        (Wish("pod1", "ns1"), "'ns1' is no absolute path of a network namespace"),
        (Wish("pod1", "/no/such"), "there is no network namespace at /no/such"),
        (Wish("pod1", "/proc/self/ns/mnt"), "there is no network namespace at /proc/self/ns/mnt"),
        (Wish("pod1", "/dev/null"), "there is no network namespace at /dev/null"),
    ],
)
async def test_what_cannot_be_attached(wish: Wish, why: str, machine: Machine) -> None:
    async with machine.daemon() as daemon:
        assert (await daemon.refused(wish)).startswith(why)
        assert machine.attachments.load() == ({}, [])


async def test_addresses_that_cannot_be_had_leave_nothing(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        why = await daemon.refused(machine.wish(addresses=("2.2.2.1",)))
        assert why == "2.2.2.1 is the bridge's own, the way out of 2.2.2.0/27"
        machine.nothing_half_made()


# ---------------------------------------------------------------- when something is not there


async def test_a_node_without_a_record(machine: Machine) -> None:
    async with machine.daemon(synced=False) as daemon:
        why = "this node has no record in force, and so no subnet to take an address of"
        assert daemon.pods.obstacle() == why
        assert await daemon.refused(machine.wish()) == why


async def test_a_node_that_has_booted_without_its_store(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.daemon(synced=False) as daemon:
        daemon.node.reconciler.rib.restore(RECORDS)
        await daemon.node.passes(1)
        await daemon.pods.attach(machine.wish())
        machine.nothing_half_made()


async def test_pods_come_and_go_while_the_store_is_down(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        daemon.node.reconciler.feed(Lost("connection refused"))
        await daemon.pods.attach(machine.wish("pod2"))
        await daemon.pods.detach("pod1")
        assert machine.addresses() == {"pod2": "2.2.2.3"}
        machine.nothing_half_made()


async def test_a_kernel_that_refuses(machine: Machine) -> None:
    why = "EEXIST (the namespace has another interface eth0: remove it, or name one)"
    machine.kernel.refused["pod.set pod1"] = f"pod.set pod1: {why}"
    async with machine.daemon() as daemon:
        assert await daemon.refused(machine.wish()) == why
        machine.nothing_half_made()
        assert machine.leased() == {}
        machine.kernel.refused.clear()
        await daemon.pods.attach(machine.wish())
        machine.nothing_half_made()


async def test_a_disk_that_fills_up_between_two_leases(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = MortalLeases.take

    def takes_and_fails(self: MortalLeases, *arguments: object) -> None:
        take(self, *arguments)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/cni/x")

    async with machine.daemon() as daemon:
        with monkeypatch.context() as patch:
            patch.setattr(MortalLeases, "take", takes_and_fails)
            why = await daemon.refused(machine.wish())
        assert why == "/var/lib/cni/x: No space left on device"
        assert machine.leased() == {}
        assert machine.attachments.load() == ({}, [])
        await daemon.pods.attach(machine.wish())


async def test_a_kernel_that_does_not_answer(machine: Machine, autojump_clock: MockClock) -> None:
    async with machine.daemon() as daemon:
        machine.kernel.away = "netlink did not answer"
        daemon.node.reconciler.look_again("test")
        await daemon.until(lambda: daemon.node.reconciler.picture.kernel is None)
        began = trio.current_time()
        why = await daemon.refused(machine.wish())
        assert why == f"it was not done within {DEADLINE:g} s: see fabricctl status"
        assert trio.current_time() - began < 3 * DEADLINE
        assert daemon.state("pod1")[0] == "leaving"
        machine.kernel.away = ""
        await daemon.until(lambda: not daemon.pods.entries())
        machine.nothing_half_made()


async def test_a_detach_that_the_kernel_refuses_is_finished_later(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        port = port_name("pod1")
        machine.kernel.refused[f"link.remove {port}"] = "EBUSY"
        with pytest.raises(Refused, match="it was not done within 10 s"):
            await daemon.pods.detach("pod1")
        assert machine.leased() == {"2.2.2.2": "pod1"}, "not free as long as it is used"
        assert daemon.state("pod1") == ("leaving", "")
        machine.kernel.refused.clear()
        assert await daemon.pods.detach("pod1")
        machine.nothing_half_made()


# ---------------------------------------------------------------- no address before its time


async def test_detached_in_the_pass_that_makes_it(machine: Machine) -> None:
    """What a pass has seen of the kernel before it made the pod says nothing of it.

    By a real clock: a simulated one would not wait for the disk.
    """
    async with machine.daemon() as daemon:

        def charon_is_slow() -> None:
            machine.charon.silence = 1.0
            daemon.node.reconciler.charon_changed("test")

        await trio.sleep(0.5)  # no pass is under way
        machine.kernel.after_apply = charon_is_slow
        daemon.nursery.start_soon(attach_in_vain, daemon, machine.wish())
        while not machine.ports():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
        machine.kernel.after_apply = lambda: None
        passes = daemon.node.reconciler.picture.passes
        machine.charon.silence = 0.0
        assert await daemon.pods.detach("pod1")
        assert daemon.node.reconciler.picture.passes > passes + 1, "the one was not enough"
        assert machine.ports() == set()
        machine.nothing_half_made()


async def attach_in_vain(daemon: Daemon, wish: Wish) -> None:
    with suppress(Refused):
        await daemon.pods.attach(wish)


async def test_detached_before_the_kernel_was_looked_at_again(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        daemon.nursery.start_soon(daemon.pods.detach, "pod1")
        await trio.testing.wait_all_tasks_blocked()
        daemon.pods.after_pass(daemon.node.reconciler.picture)  # as the loop does when it waits
        assert machine.leased() == {"2.2.2.2": "pod1"} or machine.ports() == set()
        await daemon.until(lambda: not machine.ports())
        await daemon.until(lambda: not daemon.pods.entries())
        machine.nothing_half_made()


async def test_a_namespace_that_goes_while_its_pod_is_written_to_be_leaving(
    machine: Machine,
) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        save = machine.attachments.save

        def save_late(entry: Entry) -> None:
            trio.from_thread.run_sync(lose_namespace, machine, "pod1")
            trio.from_thread.run(daemon.until, lambda: not daemon.pods.entries())
            save(entry)

        machine.attachments.save = save_late  # type: ignore[method-assign]
        assert await daemon.pods.detach("pod1")
        machine.nothing_half_made()
        assert daemon.pods.entries() == ()


# ---------------------------------------------------------------- namespaces that are gone


async def test_what_belongs_to_a_namespace_that_is_gone_is_collected(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        await daemon.pods.attach(machine.wish("pod2"))
        lose_namespace(machine, "pod1")
        await daemon.until(lambda: len(daemon.pods.entries()) == 1)
        assert machine.leased() == {"2.2.2.3": "pod2"}
        machine.nothing_half_made()


def lose_namespace(machine: Machine, pod: str) -> None:
    """The pair goes with it, and the kernel tells."""
    held = machine.kernel.held
    held.departed.add(held.pods[pod].netns)
    held.remove_link(port_name(pod))
    machine.kernel.tell(f"link {port_name(pod)}")


async def test_a_namespace_may_come_back_after_a_reboot(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        await daemon.pods.attach(machine.wish("pod2"))
    reboot(machine, "pod1", "pod2")
    async with machine.daemon() as daemon:
        ns = machine.netns("ns-pod1")
        assert daemon.state("pod1") == ("gone", f"there is no network namespace at {ns}")
        machine.kernel.held.departed.discard(ns)
        daemon.node.reconciler.look_again("test")
        await daemon.until(lambda: machine.addresses() == {"pod1": "2.2.2.2"})
        assert machine.leased() == {"2.2.2.2": "pod1", "2.2.2.3": "pod2"}, "it waits for pod2"
        began = trio.current_time()
        await daemon.until(lambda: len(daemon.pods.entries()) == 1)
        assert REBOOT_GRACE - 60 < trio.current_time() - began < REBOOT_GRACE + 60
        machine.nothing_half_made()


def reboot(machine: Machine, *lost: str) -> None:
    machine.boot = "boot2"
    paths = {machine.kernel.held.pods[pod].netns for pod in lost}
    machine.kernel = MortalKernel(fuse=machine.fuse)
    machine.kernel.held.departed |= paths


async def test_there_is_no_grace_for_one_of_this_boot(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
    lose_namespace(machine, "pod1")
    async with machine.daemon() as daemon:
        await daemon.until(lambda: not daemon.pods.entries())
        assert daemon.node.time < REBOOT_GRACE / 2
        machine.nothing_half_made()


async def test_detached_when_its_namespace_is_gone_already(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        machine.kernel.watchers.clear()  # it is not told
        lose_namespace(machine, "pod1")
        assert await daemon.pods.detach("pod1")
        machine.nothing_half_made()


# ---------------------------------------------------------------- lives and deaths


async def test_a_restart_does_nothing_to_pods_that_are_right(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
    machine.kernel.applied.clear()
    async with machine.daemon() as daemon:
        assert daemon.state("pod1") == ("attached", "")
        assert machine.kernel.names == []
        assert await daemon.pods.attach(machine.wish("pod2")) is not None
        machine.nothing_half_made()


async def test_a_lease_that_was_lost_is_taken_again_at_a_start(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
    (machine.folder / "2.2.2.2").unlink()
    async with machine.daemon() as daemon:
        assert machine.leased() == {"2.2.2.2": "pod1"}
        assert (await daemon.pods.attach(machine.wish("pod2"))).addresses == ("2.2.2.3/27",)


async def test_an_address_that_somebody_else_has_by_now_is_told_of(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        await daemon.pods.attach(machine.wish("pod2"))
    (machine.folder / "2.2.2.2").write_bytes(b"c0ffee\r\neth0")
    (machine.folder / "2.2.2.3").unlink()
    with capture_logs() as logs:
        async with machine.daemon():
            pass
    told = [line for line in logs if line["event"] == "a pod's address is not leased"]
    assert [(line["pod"], line["error"].partition(":")[0]) for line in told] == [
        ("pod1", "2.2.2.2 is taken")
    ]
    assert machine.leased() == {"2.2.2.2": "c0ffee", "2.2.2.3": "pod2"}


async def test_nothing_is_taken_from_a_pod_whose_entry_cannot_be_read(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.daemon() as daemon:
        await daemon.pods.attach(machine.wish())
        await daemon.pods.attach(machine.wish("pod2"))
    path = machine.attachments.folder / "pod1.json"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    async with machine.daemon() as daemon:
        [fault] = daemon.pods.faults
        assert fault.startswith(f"{path}: ")
        stray = "pod0123456789"
        machine.kernel.held.links[stray] = Link(stray, "veth", up=True, alias="fabricd")
        await daemon.pods.detach("pod2")
        await daemon.node.at_rest()
        assert machine.ports() == {port_name("pod1"), stray}, "whose is it?"
    path.write_bytes(content)
    async with machine.daemon() as daemon:
        await daemon.until(lambda: machine.ports() == {port_name("pod1")})
        machine.nothing_half_made()


async def test_leases_that_a_daemon_has_left_behind_are_found_when_there_is_no_other(
    machine: Machine,
) -> None:
    gone = Holder("pod0", "eth0", machine.path / "reinstalled" / "pods")
    addresses = [f"2.2.2.{number}/27" for number in range(2, 31)]
    with Leases(machine.path / "networks", "fabric").locked():
        Leases(machine.path / "networks", "fabric").take(addresses, gone)
    async with machine.daemon() as daemon:
        assert (await daemon.pods.attach(machine.wish())).addresses == ("2.2.2.2/27",)
        machine.nothing_half_made()


async def test_at_a_start_leases_of_daemons_that_are_no_more_are_free_and_no_others(
    machine: Machine,
) -> None:
    gone = Holder("pod0", "eth0", machine.path / "reinstalled" / "pods")
    with Leases(machine.path / "networks", "fabric").locked():
        Leases(machine.path / "networks", "fabric").take(["2.2.2.2/27"], gone)
    (machine.folder / "2.2.2.3").write_text("c0ffee\r\neth0")  # host-local's own
    async with machine.daemon() as daemon:
        assert machine.leased() == {"2.2.2.3": "c0ffee"}
        assert (await daemon.pods.attach(machine.wish())).addresses == ("2.2.2.2/27",)


async def test_ports_of_nobody_are_collected_and_no_other_link(machine: Machine) -> None:
    held = machine.kernel.held
    held.links["pod0123456789"] = Link("pod0123456789", "veth", up=True, alias="fabricd")
    held.links["podman0"] = Link("podman0", "veth", up=True)
    async with machine.daemon():
        assert machine.ports() == {"podman0"}


async def killed(machine: Machine, what: str, step: int) -> bool:
    """A daemon that is killed at this step of what it is asked for; False: it has not so many."""
    try:
        async with machine.daemon() as daemon:
            machine.fuse.burnt, machine.fuse.blows_at = 0, step
            if what == "attach":
                await daemon.pods.attach(machine.wish())
            else:
                await daemon.pods.detach("pod1")
    except BaseExceptionGroup as group:
        if not group.subgroup(PowerCut):
            raise
    finally:
        machine.fuse.blows_at = 0
    return machine.fuse.burnt >= step


@pytest.mark.parametrize("what", ["attach", "detach"])
async def test_killed_at_any_step_nothing_half_made_is_left(
    what: str, tmp_path: Path, pki: Pki, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    for step in count(1):
        path = tmp_path / f"{what}{step}"
        path.mkdir()
        machine = Machine(path, pki)
        async with machine.daemon() as daemon:
            await daemon.pods.attach(machine.wish("other"))
            if what == "detach":
                await daemon.pods.attach(machine.wish())
                await daemon.node.at_rest()
        if not await killed(machine, what, step):
            assert step > 6, "saved, leased, made: before and after each"
            return
        async with machine.daemon() as daemon:
            await daemon.node.at_rest()
            await daemon.until(lambda: not any(e.leaving for e in daemon.pods.entries()))
            machine.nothing_half_made()
            assert (await daemon.pods.attach(machine.wish())).name == "pod1"
            machine.nothing_half_made()
            assert await daemon.pods.detach("pod1")
            machine.nothing_half_made()
            assert set(machine.addresses()) == {"other"}
