"""What the kernel's notifications are about: enough to say "look again", and why.

Says nothing of what is there now; that is for the observer to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from fabricd.core.ownership import TABLE_NAME
from fabricd.kernel import codec, links, routes
from fabricd.kernel.netlink import HEADER, NLM_F_REPLACE, Message, Netlink, attributes
from fabricd.kernel.reading import read_each

RTNL_GROUPS: Final = (1, 5, 7, 8, 9, 11, 19)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE of
linux/rtnetlink.h."""

NFNL_GROUPS: Final = (7,)
"""NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h."""

NETLINK_NETFILTER: Final = 12
"""linux/netlink.h."""

_NFGENMSG: Final = 4
_NFNL_SUBSYS_NFTABLES: Final = 10
_NFTA_TABLE: Final = 1
"""NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE … are all the first."""

NFTABLES: Final = "nftables"

OVERRUN: Final = "netlink overrun"


async def watch(
    events: Netlink,
    own_port: int,
    changed: Callable[[str], None],
    elsewhere: Callable[[int], str | None],
) -> NoReturn:
    """Call `changed` for each notification that may concern us, as `Kernel.watch` says.

    `own_port` is the socket of our own requests: what they cause is no news. `elsewhere` tells
    which pod's network namespace has a number, if any.
    """
    while True:
        messages = await events.receive()
        if messages is None:
            changed(OVERRUN)
            continue
        for message in messages:
            if message.netns_id is not None:
                pod = elsewhere(message.netns_id)
                subject = f"pod {pod}" if pod is not None else None
            else:
                subject = None if message.port == own_port else describe(message)
            if subject is not None:
                changed(subject)


def describe(message: Message) -> str | None:
    """The object that a notification is about; None for objects that are not our concern, and for
    what can't be read.
    """
    return next(read_each(lambda _: _subject(message), [message.data]), None)


def _subject(message: Message) -> str | None:
    match message.kind:
        case links.RTM_NEWLINK | links.RTM_DELLINK:
            interface = links.decode(message.data)
            return None if interface is None else f"link {interface.link.name}"
        case codec.RTM_NEWADDR | codec.RTM_DELADDR:
            return f"address {codec.decode_address(message.data)[1]}"
        case routes.RTM_NEWROUTE | routes.RTM_DELROUTE:
            # A replacement tells of the new route alone; what it replaced may have been ours.
            replacement = message.flags & NLM_F_REPLACE
            if replacement or routes.is_ours(message.data):
                return f"route {routes.destination(message.data)}"
        case codec.RTM_NEWRULE | codec.RTM_DELRULE:
            rule = codec.decode_rule(message.data)
            return None if rule is None else f"rule {rule.priority}"
    return None


async def watch_nftables(events: Netlink, changed: Callable[[str], None]) -> NoReturn:
    """Call `changed` with `NFTABLES` for what happens to our table, and when that may have been
    missed.
    """
    while True:
        messages = await events.receive()
        if messages is None or any(map(_is_our_table, messages)):
            changed(NFTABLES)


def _is_our_table(message: Message) -> bool:
    if message.kind >> 8 != _NFNL_SUBSYS_NFTABLES:
        return False
    found = dict(attributes(message.data, HEADER.size + _NFGENMSG))
    return found.get(_NFTA_TABLE, b"").rstrip(b"\0") == TABLE_NAME.encode()
