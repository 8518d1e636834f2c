"""Addresses of pods on disk: as host-local keeps them, none twice, none that a pod can't have."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fabricd.model import Prefix
from fabricd.pods import leases as module
from fabricd.pods.attachments import Attachments, Entry
from fabricd.pods.leases import Holder, Leases, NoLease

NET = (Prefix("2.2.2.0/27"),)
SMALL = (Prefix("2.2.2.0/29"),)
"""Pods have .2 to .6 of it."""
TWO = (Prefix("2.2.2.0/30"), Prefix("2.2.2.32/30"))
"""Pods have .2, and .34."""
BOTH = (Prefix("2.2.2.0/29"), Prefix("fd00:2::/64"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the leases are."""
    return tmp_path / "networks" / "fabric"


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "networks", "fabric")


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """Where the daemon has its entries of pods."""
    return tmp_path / "state" / "pods"


def give(
    leases: Leases,
    entries: Path,
    pod: str,
    subnets: tuple[Prefix, ...] = NET,
    *asked: str,
) -> tuple[str, ...]:
    """Addresses for a pod."""
    with leases.locked():
        chosen = leases.choose(subnets, asked)
        leases.take(chosen, Holder(pod, "eth0", entries), subnets)
    return chosen


def refused(leases: Leases, subnets: tuple[Prefix, ...], *asked: str) -> str:
    with leases.locked(), pytest.raises(NoLease) as caught:
        leases.choose(subnets, asked)
    return str(caught.value)


# ---------------------------------------------------------------- as host-local does


def test_a_lease_is_a_file_named_after_the_address_with_two_lines_that_end_as_in_dos(
    leases: Leases, folder: Path, entries: Path
) -> None:
    assert give(leases, entries, "c0ffee") == ("2.2.2.2/27",)
    assert sorted(path.name for path in folder.iterdir()) == [
        "2.2.2.2",
        "last_reserved_ip.0",
        "lock",
    ]
    container, ifname, ours = (folder / "2.2.2.2").read_bytes().split(b"\r\n")
    assert (container, ifname) == (b"c0ffee", b"eth0")
    assert ours == f"fabricd {entries}".encode()
    assert (folder / "last_reserved_ip.0").read_bytes() == b"2.2.2.2"
    assert stat.S_IMODE((folder / "2.2.2.2").stat().st_mode) == 0o600


def test_what_host_local_has_given_is_not_given_again(
    leases: Leases, folder: Path, entries: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "2.2.2.2").write_bytes(b"c0ffee\r\neth0")
    (folder / "last_reserved_ip.0").write_bytes(b"2.2.2.2")
    assert give(leases, entries, "pod1") == ("2.2.2.3/27",)
    assert refused(leases, NET, "2.2.2.2") == f"2.2.2.2 is taken: {folder / '2.2.2.2'}"


def test_a_file_that_host_local_has_written_is_replaced(
    leases: Leases, folder: Path, entries: Path
) -> None:
    """It is root's, and for root alone; the folder is the daemon's."""
    folder.mkdir(parents=True)
    (folder / "last_reserved_ip.0").write_text("2.2.2.7")
    theirs = folder.with_name("theirs")
    os.link(folder / "last_reserved_ip.0", theirs)
    assert give(leases, entries, "pod1") == ("2.2.2.8/27",)
    assert (folder / "last_reserved_ip.0").read_text() == "2.2.2.8"
    assert theirs.read_text() == "2.2.2.7", "not written to"


def test_whoever_writes_holds_the_lock_by_flock(leases: Leases, folder: Path) -> None:
    with leases.locked():
        descriptor = os.open(folder / "lock", os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):  # not even beside others
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    with held(folder):
        pass


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another program has the lock."""
    descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_a_lock_that_another_program_does_not_let_go_of(
    leases: Leases, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_DEADLINE", 0.05)
    folder.mkdir(parents=True)
    told = pytest.raises(NoLease, match=r"fabric/lock has been held for 0\.05 s by another")
    with held(folder), told, leases.locked():
        raise AssertionError("it is held")
    with leases.locked():
        pass


# ---------------------------------------------------------------- which address


def test_round_and_round_so_that_an_address_rests_before_it_is_given_again(
    leases: Leases, entries: Path
) -> None:
    given = []
    for number in range(7):
        [address] = give(leases, entries, f"pod{number}", SMALL)
        leases.release([address], Holder(f"pod{number}", "eth0", entries))
        given.append(address.partition("/")[0])
    assert given == [f"2.2.2.{last}" for last in (2, 3, 4, 5, 6, 2, 3)]


def test_a_full_subnet(leases: Leases, entries: Path) -> None:
    for number in range(5):
        give(leases, entries, f"pod{number}", SMALL)
    assert refused(leases, SMALL) == (
        "no address is free in 2.2.2.0/29: detach pods, or add a subnet"
    )
    leases.release(["2.2.2.4/29"], Holder("pod2", "eth0", entries))
    assert give(leases, entries, "next", SMALL) == ("2.2.2.4/29",)


def test_a_node_with_several_subnets_gives_addresses_of_each(leases: Leases, entries: Path) -> None:
    assert give(leases, entries, "pod1", TWO) == ("2.2.2.2/30",)
    assert give(leases, entries, "pod2", TWO) == ("2.2.2.34/30",)
    assert refused(leases, TWO).startswith("no address is free in 2.2.2.0/30, 2.2.2.32/30")
    leases.release(["2.2.2.2/30"], Holder("pod1", "eth0", entries))
    assert give(leases, entries, "pod3", TWO) == ("2.2.2.2/30",)


@pytest.mark.parametrize("last", ["2.2.2.31", "9.9.9.9", "fd00::1", "", "no address"])
def test_wherever_the_last_one_was(last: str, leases: Leases, folder: Path, entries: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "last_reserved_ip.0").write_text(last)
    assert give(leases, entries, "pod1") == ("2.2.2.2/27",)


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("2.2.2.0/30", ["2.2.2.2"]),
        ("2.2.2.0/31", ["2.2.2.1"]),
        ("2.2.2.0/32", []),
        ("fd00::/126", ["fd00::2", "fd00::3"]),  # IPv6 has no broadcast
        ("fd00::/127", ["fd00::1"]),
        ("fd00::/128", []),
    ],
)
def test_the_ends_of_a_subnet(
    subnet: str, addresses: list[str], leases: Leases, entries: Path
) -> None:
    subnets = (Prefix(subnet),)
    length = subnet.partition("/")[2]
    for number, address in enumerate(addresses):
        assert give(leases, entries, f"pod{number}", subnets) == (f"{address}/{length}",)
    assert "no address is free" in refused(leases, subnets)


def test_one_of_each_family(leases: Leases, folder: Path, entries: Path) -> None:
    assert give(leases, entries, "pod1", BOTH) == ("2.2.2.2/29", "fd00:2::2/64")
    assert give(leases, entries, "pod2", BOTH) == ("2.2.2.3/29", "fd00:2::3/64")
    assert (folder / "last_reserved_ip.0").read_text() == "2.2.2.3"
    assert (folder / "last_reserved_ip.1").read_text() == "fd00:2::3"


def test_who_asks_for_one_family_has_no_other(leases: Leases, folder: Path, entries: Path) -> None:
    assert give(leases, entries, "pod1", BOTH) == ("2.2.2.2/29", "fd00:2::2/64")
    assert give(leases, entries, "pod2", BOTH, "fd00:2::99") == ("fd00:2::99/64",)
    assert (folder / "last_reserved_ip.0").read_text() == "2.2.2.2", "of the other range"
    assert (folder / "last_reserved_ip.1").read_text() == "fd00:2::99"


# ---------------------------------------------------------------- an address that is asked for


def test_one_that_is_asked_for(leases: Leases, entries: Path) -> None:
    assert give(leases, entries, "pod1", NET, "2.2.2.9") == ("2.2.2.9/27",)
    assert give(leases, entries, "pod2", NET, "2.2.2.10/27") == ("2.2.2.10/27",)
    asked = ("fd00:2:0:0::7", "2.2.2.5")
    assert give(leases, entries, "pod3", BOTH, *asked) == ("2.2.2.5/29", "fd00:2::7/64")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["2.2.2.1"], "2.2.2.1 is the bridge's own, the way out of 2.2.2.0/27"),
        (["2.2.2.0"], "2.2.2.0 is no host of 2.2.2.0/27"),
        (["2.2.2.31"], "2.2.2.31 is no host of 2.2.2.0/27"),
        (["2.2.2.32"], "2.2.2.32 is in none of this node's subnets: 2.2.2.0/27"),
        (["fd00::2"], "fd00::2 is in none of this node's subnets: 2.2.2.0/27"),
        (["2.2.2.2/24"], "2.2.2.2/24: this node's subnet there is 2.2.2.0/27: ask for 2.2.2.2"),
        (["2.2.2.2/x"], "2.2.2.2/x: this node's subnet there is 2.2.2.0/27"),
        (["pod1"], "pod1 is no address"),
        ([""], " is no address"),
        (["2.2.2.2", "2.2.2.3"], "two IPv4 addresses are asked for: one is the most"),
    ],
)
def test_one_that_cannot_be_had(asked: list[str], why: str, leases: Leases) -> None:
    assert refused(leases, NET, *asked).startswith(why)


def test_one_that_is_taken_though_no_file_says_so(leases: Leases, folder: Path) -> None:
    with leases.locked():
        assert leases.choose(NET, (), held=["2.2.2.2/27"]) == ("2.2.2.3/27",)
        with pytest.raises(NoLease, match=r"2\.2\.2\.2 is taken"):
            leases.choose(NET, ["2.2.2.2"], held=["2.2.2.2/27"])


# ---------------------------------------------------------------- to whom they belong


def test_to_take_what_one_has_is_no_fault_and_what_another_has_is_one(
    leases: Leases, folder: Path, entries: Path
) -> None:
    mine, others = Holder("pod1", "eth0", entries), Holder("pod2", "eth0", entries)
    with leases.locked():
        leases.take(["2.2.2.2/27"], mine)
        leases.take(["2.2.2.2/27"], mine)
        with pytest.raises(NoLease, match=r"2\.2\.2\.2 is taken: .*/2\.2\.2\.2"):
            leases.take(["2.2.2.2/27"], others)
    leases.release(["2.2.2.2/27"], others)
    leases.release(["2.2.2.2/27"], Holder("pod1", "eth1", entries))
    assert (folder / "2.2.2.2").read_bytes() == mine.text.encode(), "nobody else lets go of it"
    leases.release(["2.2.2.2/27", "2.2.2.3/27"], mine)
    assert not (folder / "2.2.2.2").exists()


def test_a_lease_of_ours_without_an_entry_is_collected_and_no_other(
    leases: Leases, folder: Path, tmp_path: Path
) -> None:
    here, gone = Attachments(tmp_path / "here"), Attachments(tmp_path / "gone")
    here.save(Entry("pod1", "/run/netns/1", "eth0", ("2.2.2.2/27",), "pod1", "boot1"))
    give(leases, here.folder, "pod1")
    give(leases, here.folder, "pod2")
    give(leases, gone.folder, "pod3")
    (folder / "2.2.2.5").write_bytes(b"c0ffee\r\neth0")  # host-local's
    (folder / "notes").write_text("not an address\r\nat all")
    with leases.locked():
        leases.collect()
    kept = {"2.2.2.2", "2.2.2.5", "last_reserved_ip.0", "lock", "notes"}
    assert {path.name for path in folder.iterdir()} == kept


def test_nothing_is_collected_while_an_entry_cannot_be_read(
    leases: Leases, folder: Path, tmp_path: Path
) -> None:
    here = Attachments(tmp_path / "here")
    give(leases, here.folder, "pod1")
    here.folder.mkdir(parents=True)
    (here.folder / "pod2.json").write_text("{")
    with leases.locked():
        leases.collect()
    assert (folder / "2.2.2.2").exists()
