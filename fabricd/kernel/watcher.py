"""What the kernel's notifications are about: enough to say "look again", and why.

Says nothing of what is there now; that is for the observer to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from fabricd.kernel import codec, routes
from fabricd.kernel.netlink import NLM_F_REPLACE, Message, Netlink

GROUPS: Final = (1, 5, 7, 8, 9, 11, 19)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE of
linux/rtnetlink.h."""

OVERRUN: Final = "netlink overrun"


async def watch(events: Netlink, own_port: int, changed: Callable[[str], None]) -> NoReturn:
    """Call `changed` for each notification that may concern us, as `Kernel.watch` says.

    `own_port` is the socket of our own requests: what they cause is no news.
    """
    while True:
        messages = await events.receive()
        if messages is None:
            changed(OVERRUN)
            continue
        for message in messages:
            subject = None if message.port == own_port else describe(message)
            if subject is not None:
                changed(subject)


def describe(message: Message) -> str | None:
    """The object that a notification is about; None for objects that are not our concern."""
    match message.kind:
        case codec.RTM_NEWLINK | codec.RTM_DELLINK:
            interface = codec.decode_link(message.data)
            return None if interface is None else f"link {interface[1].name}"
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
