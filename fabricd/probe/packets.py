"""Which packets the packet filter of a node has to let through for one tunnel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fabricd.model import Address
from fabricd.probe.nftables import Packet

PORTS: Final = (500, 4500)
"""UDP ports of IKE, and of IKE and ESP behind NAT (RFC 7296, 2.23)."""


@dataclass(frozen=True, slots=True)
class Path:
    """The links that packets between two pods pass on this node."""

    local: Address
    remote: Address
    pods: str
    """The link to the local pod; `lo`: the address is the node's own."""
    tunnel: str
    """Where packets go before they are encrypted, and come from when they are decrypted."""
    answers: bool
    """The remote pod begins, the local one answers."""


def pods_packets(path: Path) -> tuple[Packet, Packet]:
    """One each way."""
    own = path.pods == "lo"
    return (
        Packet(
            f"{path.local} to {path.remote}",
            path.local,
            path.remote,
            ("output", "postrouting") if own else ("prerouting", "forward", "postrouting"),
            iif="" if own else path.pods,
            oif=path.tunnel,
            answer=path.answers,
        ),
        Packet(
            f"{path.remote} to {path.local}",
            path.remote,
            path.local,
            ("prerouting", "input") if own else ("prerouting", "forward", "postrouting"),
            iif=path.tunnel,
            oif="" if own else path.pods,
            answer=not path.answers,
        ),
    )


def ike_packets(
    link: str, own: Address, peer: Address, *, initiates: bool, esp: bool
) -> tuple[Packet, ...]:
    """IKE between two endpoints, both ways; `esp`: also ESP that is not in UDP."""
    found: list[Packet] = []
    for port in PORTS:
        what = f"IKE (UDP {port})"
        found += _both_ways(what, link, own, peer, "udp", (port, port), answers=not initiates)
    if esp:
        found += _both_ways("ESP", link, own, peer, "esp", None, answers=False)
    return tuple(found)


def _both_ways(
    what: str,
    link: str,
    own: Address,
    peer: Address,
    protocol: str,
    ports: tuple[int, int] | None,
    *,
    answers: bool,
) -> tuple[Packet, Packet]:
    """`answers`: the peer begins."""
    return (
        Packet(
            f"{what} to {peer}",
            own,
            peer,
            ("output", "postrouting"),
            oif=link,
            protocol=protocol,
            ports=ports,
            answer=answers,
        ),
        Packet(
            f"{what} from {peer}",
            peer,
            own,
            ("prerouting", "input"),
            iif=link,
            protocol=protocol,
            ports=ports,
            answer=not answers and protocol != "esp",
        ),
    )
