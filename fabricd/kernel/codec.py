"""Addresses and rules between rtnetlink messages and `core.state`: written by pyroute2's classes,
which is seldom, and read by `struct`, in each look at the kernel.

Knows bytes and state types, no socket. Formats and numbers: linux/if_addr.h (struct ifaddrmsg,
IFA_*), linux/fib_rules.h (struct fib_rule_hdr, FRA_*); rtnetlink(7).
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6
from typing import Any, Final

from fabricd.core.ownership import ROUTE_PROTOCOL
from fabricd.core.state import IfAddress, Rule
from fabricd.kernel.messages import fibmsg, ifaddrmsg
from fabricd.kernel.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attributes,
)
from fabricd.kernel.reading import address_text
from fabricd.model import network, prefix

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

_IFA_F_NODAD: Final = 0x02
_FR_ACT_TO_TBL: Final = 1

FAMILIES: Final = {4: AF_INET, 6: AF_INET6}

_IFADDRMSG: Final = struct.Struct("=4BI")
"""Family, prefix length, flags, scope, index of the link."""
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_PROTO: Final = 11

_FIB_RULE_HDR: Final = struct.Struct("=8BI")
"""Family, destination length, source length, TOS, table, two without use, action, flags."""
_FRA_DST: Final = 1
_FRA_PRIORITY: Final = 6
_FRA_SUPPRESS_PREFIXLEN: Final = 14
_FRA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21
_KNOWN_OF_RULES: Final = frozenset(
    {_FRA_DST, _FRA_PRIORITY, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_PROTOCOL}
)
_U32: Final = struct.Struct("=I")
_NO_SUPPRESSION: Final = 0xFFFFFFFF

Attributes = list[tuple[str, Any]]

# ---------------------------------------------------------------- addresses


def dump_addresses(address_family: int) -> Request:
    """Ask for all addresses of AF_INET or AF_INET6."""
    return Request(RTM_GETADDR, 0, _IFADDRMSG.pack(address_family, 0, 0, 0, 0))


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
    _, length, _, _, index = _IFADDRMSG.unpack_from(data, HEADER.size)
    found = dict(attributes(data, HEADER.size + _IFADDRMSG.size))
    # IFA_ADDRESS is the other end of a point-to-point link, if there is an IFA_LOCAL.
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if not packed:
        raise ValueError("an address of which the kernel does not say which")
    if length > 8 * len(packed):
        raise ValueError(f"an address of {8 * len(packed)} bits with a prefix of {length}")
    (protocol,) = found.get(_IFA_PROTO, b"\0")
    return index, f"{address_text(packed)}/{length}", protocol


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
    return Request(RTM_GETRULE, 0, _FIB_RULE_HDR.pack(address_family, 0, 0, 0, 0, 0, 0, 0, 0))


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
    header = _FIB_RULE_HDR.unpack_from(data, HEADER.size)
    address_family, length, source_length, tos, table, _, _, action, flags = header
    found = dict(attributes(data, HEADER.size + _FIB_RULE_HDR.size))
    if found.get(_FRA_PROTOCOL) != bytes((ROUTE_PROTOCOL,)):
        return None
    plain = action == _FR_ACT_TO_TBL and not (source_length or tos or flags)
    plain = plain and found.keys() <= _KNOWN_OF_RULES
    destination = found.get(_FRA_DST)
    suppress = _number(found.get(_FRA_SUPPRESS_PREFIXLEN), _NO_SUPPRESSION)
    return Rule(
        family=6 if address_family == AF_INET6 else 4,
        priority=_number(found.get(_FRA_PRIORITY), 0),
        table=(_number(found.get(_FRA_TABLE), 0) or table) if plain else 0,
        to=prefix(f"{address_text(destination)}/{length}") if destination else None,
        suppress=None if suppress == _NO_SUPPRESSION else suppress,
    )


def _number(value: bytes | None, default: int) -> int:
    return default if value is None else int(_U32.unpack(value)[0])


def _rule(rule: Rule) -> Any:
    message = fibmsg()
    message["family"] = FAMILIES[rule.family]
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
