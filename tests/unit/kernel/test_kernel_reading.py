"""Objects of others that nobody can read."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from fabricd.core.state import IfAddress, Rule
from fabricd.kernel import codec, watcher
from fabricd.kernel.netlink import HEADER, Message, Request
from fabricd.kernel.reading import read_each, tell


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    tell.cache_clear()


def message(request: Request, octets: int = 1000) -> bytes:
    """As it comes in, or the first octets of it, as if that were all."""
    kind, flags, body = request[0], request[1], request[2][:octets]
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


ADDRESS = codec.add_address(IfAddress("br-edge", "2.2.2.1/27", 198), 7)
GOOD, NO_ADDRESS = message(ADDRESS), message(ADDRESS, 8)


def test_one_that_cant_be_read_is_left_out_and_told_of_once() -> None:
    with capture_logs() as logs:
        for _ in range(3):
            found = read_each(codec.decode_address, [NO_ADDRESS, GOOD, NO_ADDRESS, GOOD])
            assert list(found) == [(7, "2.2.2.1/27", 198)] * 2
    [line] = logs
    assert line["rtnetlink_type"] == codec.RTM_NEWADDR
    assert line["reason"] == "an address of which the kernel does not say which"


def test_a_notification_that_cant_be_read_is_no_news() -> None:
    def heard(kind: int, data: bytes) -> str | None:
        return watcher.describe(Message(kind, 0, 1, 99, data, None))

    assert heard(codec.RTM_NEWADDR, GOOD) == "address 2.2.2.1/27"
    assert heard(codec.RTM_NEWADDR, NO_ADDRESS) is None
    rule = codec.add_rule(Rule(4, 198, 198))
    assert heard(codec.RTM_NEWRULE, message(rule)) == "rule 198"
    assert heard(codec.RTM_NEWRULE, message(rule, 5)) is None
