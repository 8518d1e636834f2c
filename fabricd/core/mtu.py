"""How large a packet may be that passes a tunnel whole.

ESP in tunnel mode (RFC 4303) puts around a packet: an outer IP header, a UDP header where an
address is translated on the way (RFC 3948), SPI and sequence number, the cipher's IV, padding with
two octets of trailer, and the ICV.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from fabricd.core.surroundings import Surroundings
from fabricd.model import Node, family

ETHERNET: Final = 1500
"""Octets: what the underlay carries as long as nothing else is known."""

SMALLEST: Final = {4: 576, 6: 1280}
"""What every link must carry: RFC 791; RFC 8200, section 5."""

_IP: Final = {4: 20, 6: 40}
_UDP: Final = 8
_ESP: Final = 8
_IV: Final = 8
"""AES-GCM (RFC 4106), which is what tunnels of ours use."""
_ICV: Final = 16
_ALIGNMENT: Final = 4
_TRAILER: Final = 2


def tunnel_mtu(underlay: int, outer: int) -> int:
    """Octets of the largest packet whose ESP packet the underlay's MTU lets pass; `outer` is the
    IP version of the outer header. UDP encapsulation is always reckoned with: whether there is a
    NAT on the way is known too late, and may change.
    """
    room = underlay - _IP[outer] - _UDP - _ESP - _IV - _ICV
    return room // _ALIGNMENT * _ALIGNMENT - _TRAILER


def underlay_mtu(self: Node | None, around: Surroundings) -> int:
    """Octets: the MTU of the link that has the node's endpoint; where none has, the smallest of
    the links that the node has addresses on.
    """
    if self is not None:
        for address, mtu in around.underlays:
            if address == self.endpoint:
                return mtu
    return min((mtu for _, mtu in around.underlays), default=ETHERNET)


def pod_mtu(self: Node | None, peers: Iterable[Node], around: Surroundings) -> int:
    """Octets: the MTU of this node's pods."""
    if around.mtu is not None:
        return around.mtu
    ends = [*peers, self] if self else peers
    outer = 6 if any(_may_be_ipv6(node.endpoint) for node in ends) else 4
    found = tunnel_mtu(underlay_mtu(self, around), outer)
    if around.userspace_mtu:
        found = min(found, around.userspace_mtu)
    families = {family(subnet) for subnet in self.subnets} if self else {4}
    return max(found, *(SMALLEST[number] for number in families))


@lru_cache(maxsize=65536)
def _may_be_ipv6(endpoint: str | None) -> bool:
    if endpoint is None:
        return False
    try:
        return ip_address(endpoint).version == 6
    except ValueError:
        return True  # a name: its address may change
