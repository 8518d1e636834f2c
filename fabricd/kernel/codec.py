"""Links, addresses and rules between rtnetlink messages and `core.state`, by pyroute2's classes.

Knows bytes and state types, no socket. Formats: linux/if_link.h, linux/if_addr.h,
linux/fib_rules.h; rtnetlink(7).
"""

from __future__ import annotations

from ipaddress import ip_interface
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import Any, Final

from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.core.state import IfAddress, Link, Rule
from fabricd.kernel.messages import fibmsg, ifaddrmsg, ifinfmsg
from fabricd.kernel.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request
from fabricd.model import network, prefix

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

_IFF_UP: Final = 0x1
_RTEXT_FILTER_SKIP_STATS: Final = 1 << 3
_IFA_F_NODAD: Final = 0x02
_FR_ACT_TO_TBL: Final = 1

_FAMILIES: Final = {4: AF_INET, 6: AF_INET6}

_KNOWN_OF_RULES: Final = frozenset(
    {"FRA_TABLE", "FRA_PRIORITY", "FRA_PROTOCOL", "FRA_DST", "FRA_SUPPRESS_PREFIXLEN"}
)
_NO_SUPPRESSION: Final = 0xFFFFFFFF

Attributes = list[tuple[str, Any]]

# ---------------------------------------------------------------- links


def dump_links() -> Request:
    """Ask for all links, without their counters."""
    return _request(RTM_GETLINK, ifinfmsg(), [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)])


def create_link(link: Link) -> Request:
    """Create a link, down and without alias: the kernel takes an alias only afterwards."""
    return _request(
        RTM_NEWLINK,
        ifinfmsg(),
        [
            ("IFLA_IFNAME", link.name),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", link.kind)]}),
        ],
        NLM_F_CREATE | NLM_F_EXCL,
    )


def finish_link(link: Link) -> Request:
    """Give a link that was just created, found by its name, its alias and state."""
    message = _with_state(ifinfmsg(), up=link.up)
    return _request(
        RTM_SETLINK, message, [("IFLA_IFNAME", link.name), ("IFLA_IFALIAS", link.alias)]
    )


def discard_link(link: Link) -> Request:
    """Delete a link that was just created, found by its name."""
    return _request(RTM_DELLINK, ifinfmsg(), [("IFLA_IFNAME", link.name)])


def set_link(index: int, *, up: bool) -> Request:
    """Set a link's administrative state."""
    message = _with_state(ifinfmsg(), up=up)
    message["index"] = index
    return _request(RTM_SETLINK, message, [])


def remove_link(index: int) -> Request:
    """Delete a link."""
    message = ifinfmsg()
    message["index"] = index
    return _request(RTM_DELLINK, message, [])


def decode_link(data: bytes) -> tuple[int, Link] | None:
    """Index and link; None for a bridge's word about one of its ports (family AF_BRIDGE)."""
    message = _decoded(ifinfmsg(data))
    if message["family"] != AF_UNSPEC:
        return None
    return message["index"], Link(
        name=message.get_attr("IFLA_IFNAME"),
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        up=bool(message["flags"] & _IFF_UP),
        alias=message.get_attr("IFLA_IFALIAS") or "",
    )


def _with_state(message: Any, *, up: bool) -> Any:
    message["flags"] = _IFF_UP if up else 0
    message["change"] = _IFF_UP
    return message


# ---------------------------------------------------------------- addresses


def dump_addresses(address_family: int) -> Request:
    """Ask for all addresses of AF_INET or AF_INET6."""
    message = ifaddrmsg()
    message["family"] = address_family
    return _request(RTM_GETADDR, message, [])


def add_address(item: IfAddress, index: int, *, replace: bool = False) -> Request:
    """Put an address on a link, with its mark; `replace`: also if it is there already.

    An IPv6 address does without duplicate address detection: the records say whose it is, and
    on a bridge without ports detection would never end.
    """
    message, attributes = _address(item, index)
    attributes.append(("IFA_PROTO", item.protocol))
    if message["family"] == AF_INET6:
        attributes.append(("IFA_FLAGS", _IFA_F_NODAD))
    existing = NLM_F_REPLACE if replace else NLM_F_EXCL
    return _request(RTM_NEWADDR, message, attributes, NLM_F_CREATE | existing)


def remove_address(item: IfAddress, index: int) -> Request:
    """Take an address off a link."""
    return _request(RTM_DELADDR, *_address(item, index))


def decode_address(data: bytes) -> tuple[int, str, int]:
    """Index of the link, address with prefix length, protocol."""
    message = _decoded(ifaddrmsg(data))
    # IFA_ADDRESS is the other end of a point-to-point link, if there is an IFA_LOCAL.
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    address = ip_interface(f"{text}/{message['prefixlen']}")
    return message["index"], str(address), message.get_attr("IFA_PROTO") or 0


def _address(item: IfAddress, index: int) -> tuple[Any, Attributes]:
    text, _, length = item.address.partition("/")
    message = ifaddrmsg()
    message["family"] = AF_INET6 if ":" in text else AF_INET
    message["prefixlen"] = int(length)
    message["index"] = index
    return message, [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]


# ---------------------------------------------------------------- rules


def dump_rules(address_family: int) -> Request:
    """Ask for all rules of AF_INET or AF_INET6; the kernel can't pick ours."""
    message = fibmsg()
    message["family"] = address_family
    return _request(RTM_GETRULE, message, [])


def add_rule(rule: Rule) -> Request:
    """Create a rule; refused when there is one like it, whosever it is."""
    message = _rule(rule)
    message["action"] = _FR_ACT_TO_TBL
    return _request(
        RTM_NEWRULE,
        message,
        _rule_attributes(rule),
        NLM_F_CREATE | NLM_F_EXCL,
    )


def remove_rule(rule: Rule) -> Request:
    """Delete a rule of ours; one that shows table 0 whatever its table is."""
    return _request(RTM_DELRULE, _rule(rule), _rule_attributes(rule))


def decode_rule(data: bytes) -> Rule | None:
    """A rule with our protocol number; None for those of others.

    One with more to it than `Rule` can say has table 0: none of ours is like that, so it differs
    from all that could be asked for.
    """
    message = _decoded(fibmsg(data))
    if message.get_attr("FRA_PROTOCOL") != ROUTE_PROTOCOL:
        return None
    plain = (
        message["action"] == _FR_ACT_TO_TBL
        and not any(message[name] for name in ("src_len", "tos", "flags"))
        and _KNOWN_OF_RULES.issuperset(name for name, _ in message["attrs"])
    )
    destination, suppress = (
        message.get_attr(name) for name in ("FRA_DST", "FRA_SUPPRESS_PREFIXLEN")
    )
    return Rule(
        family=6 if message["family"] == AF_INET6 else 4,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"] if plain else 0,
        to=prefix(f"{destination}/{message['dst_len']}") if destination else None,
        suppress=None if suppress in (None, _NO_SUPPRESSION) else suppress,
    )


def _rule(rule: Rule) -> Any:
    message = fibmsg()
    message["family"] = _FAMILIES[rule.family]
    message["dst_len"] = network(rule.to).prefixlen if rule.to is not None else 0
    return message


def _rule_attributes(rule: Rule) -> Attributes:
    attributes: Attributes = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_PROTOCOL", ROUTE_PROTOCOL),
        ("FRA_TABLE", rule.table),
    ]
    if rule.to is not None:
        attributes.append(("FRA_DST", str(network(rule.to).network_address)))
    if rule.suppress is not None:
        attributes.append(("FRA_SUPPRESS_PREFIXLEN", rule.suppress))
    return attributes


# ---------------------------------------------------------------- pyroute2


def _request(kind: int, message: Any, attributes: Attributes, flags: int = 0) -> Request:
    message["attrs"] = attributes
    message.encode()
    return Request(kind, flags, bytes(message.data[HEADER.size :]))


def _decoded(message: Any) -> Any:
    message.decode()
    return message
