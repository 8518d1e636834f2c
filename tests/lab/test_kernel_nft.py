"""Our table of nftables against the real nft: what is loaded is what is shown, also to somebody who
did not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fabricd.core.filtering import collapsed
from fabricd.core.state import Filter
from fabricd.kernel.nft import Nftables
from fabricd.model import Prefix
from lab.netns import Namespace

ADJACENT = ("10.233.0.0/17", "10.233.128.0/18", "10.233.192.0/32", "2.0.0.0/8", "fd00::/64")
"""Prefixes without a gap between them that are no prefix together."""

MANY = tuple(f"2.{n >> 8}.{n & 255}.{32 * (n % 8)}/27" for n in range(0, 5000, 2))


@pytest.fixture
def inside(namespace: Callable[[str], Namespace]) -> Iterator[Namespace]:
    """A namespace around the test's thread."""
    made = namespace("nft")
    with made.around_thread():
        yield made


@pytest.mark.parametrize(
    "wanted",
    [
        Filter((), (), ""),
        Filter((), (), "br-edge"),
        Filter((Prefix("2.2.2.0/27"),), (Prefix("2.0.0.0/8"),), "br-edge"),
        Filter((Prefix("fd00:2::/64"),), (Prefix("fd00::/16"), Prefix("fd99::1/128")), "pods"),
        Filter((Prefix("2.2.2.2/32"),), collapsed(map(Prefix, ADJACENT)), "br-edge"),
        Filter((), collapsed(map(Prefix, MANY)), ""),
    ],
    ids=["nothing", "a bridge", "IPv4", "IPv6", "adjacent", "many"],
)
async def test_what_is_loaded_is_what_is_shown(inside: Namespace, wanted: Filter) -> None:
    table = Nftables()
    assert await table.observe() == (None, "")
    assert await table.load(wanted) is None
    assert await table.observe() == (wanted, "")
    assert await Nftables().observe() == (wanted, ""), "after a restart"
    assert await table.load(Filter((), (), "other")) is None
    assert await table.observe() == (Filter((), (), "other"), "")
    assert await table.remove() is None
    assert await table.remove() is None
    assert await table.observe() == (None, "")
    assert inside.run("nft", "list", "tables") == ""


async def test_what_cannot_be_loaded_leaves_what_is_there(inside: Namespace) -> None:
    right = Filter((Prefix("2.2.2.0/27"),), (Prefix("2.0.0.0/8"),), "br-edge")
    table = Nftables()
    assert await table.load(right) is None
    refusal = await table.load(Filter((), (), "a name that is far too long for a link"))
    assert refusal is not None
    assert refusal.message.startswith("nft: ")
    assert await table.observe() == (right, refusal.message), "one transaction; not tried each time"
    assert await table.load(right) is None
    assert await table.observe() == (right, "")
