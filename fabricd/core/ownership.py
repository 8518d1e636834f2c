"""Is this route, rule, link, address, connection ours? Told from the object alone, without memory.

What does not carry one of these marks is invisible: never changed, never removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # a config file is read without the whole of it
    from fabricd.core.state import IfAddress, KernelState, Link

NUMBER: Final = 198
"""One number to recognise everything by: it is free in iproute2's rt_protos and rt_tables."""

ROUTE_PROTOCOL: Final = NUMBER
"""rtm_protocol of our routes, FRA_PROTOCOL of our rules, IFA_PROTO of our addresses."""

TABLE: Final = NUMBER
"""Our routing table."""

RULE_PRIORITY: Final = NUMBER
"""Before charon's own rule (220) and the main table (32766), after the local table (0)."""

LINK_ALIAS: Final = "fabricd"

TABLE_NAME: Final = "fabricd"
"""Our table of nftables, of the family inet."""

CONN_PREFIX: Final = "fabric-"
"""Of connections and so of SAs: `fabric-PEER`."""

AUTHORITY_PREFIX: Final = "fabric-ca-"

DEAD_END: Final = "fabric0"
"""The link that our routes lead to when the kernel does ESP: a bridge without ports, out of
which no packet ever comes. Only an XFRM policy can turn a packet off the way to it, so a route
to it can't leak clear text, whatever charon does meanwhile."""


def owns_link(link: Link) -> bool:
    """Whether we made this link."""
    return link.alias == LINK_ALIAS


def owns_address(state: KernelState, item: IfAddress) -> bool:
    """Whether we put this address there: it says so itself, or its link is ours.

    The kernel adds link-local addresses to every link by itself: of those the link says nothing.
    """
    if item.protocol == ROUTE_PROTOCOL:
        return True
    link = state.links.get(item.link)
    return link is not None and owns_link(link) and not item.address.startswith("fe80:")


def owns_conn(name: str) -> bool:
    """Whether a connection or an SA of this name is ours."""
    return name.startswith(CONN_PREFIX)


def owns_authority(name: str) -> bool:
    """Whether a CA certificate loaded under this name is ours."""
    return name.startswith(AUTHORITY_PREFIX)


def conn_name(peer: str) -> str:
    """The connection to a peer."""
    return CONN_PREFIX + peer


def peer_of(conn: str) -> str:
    """The peer behind a connection of ours."""
    return conn.removeprefix(CONN_PREFIX)
