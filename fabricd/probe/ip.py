"""What iproute2 tells: where a packet would go, XFRM policies and SAs, who answers on a link.

Formats: `ip -j route get` and `ip -j neighbour` (ip-route(8), ip-neighbour(8)), `ip xfrm policy`
and `ip xfrm state`, which have no JSON (ip-xfrm(8)).
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from fabricd.core.facts import Lookup, Policy
from fabricd.core.machine import KernelSa
from fabricd.model import Address, network
from fabricd.probe.tool import run, try_run

_REFUSED: Final = {
    "Invalid argument": "blackhole",
    "No route to host": "unreachable",
    "Network is unreachable": "no route",
    "Permission denied": "prohibited",
}
"""What the kernel's errors mean here: RTN_* of linux/rtnetlink.h, fib_props in fib_semantics.c."""


async def lookup(target: Address, source: Address | None = None, link: str = "") -> Lookup:
    """Where a packet would go. `link`: it comes in there, otherwise it is the node's own.

    Raises Unavailable.
    """
    words: list[str] = [target]
    words += ["from", source] if source else []
    words += ["iif", link] if link else []
    packet = " ".join(words)
    said, refused = await try_run("ip", "-j", "-d", "route", "get", *words)
    if refused:
        reason = refused.removeprefix("RTNETLINK answers: ")
        meaning = _REFUSED.get(reason)
        return Lookup(packet, refused=f"{meaning} ({reason})" if meaning else reason)
    route: dict[str, Any] = json.loads(said)[0]
    kind = route.get("type", "unicast")
    if kind not in {"unicast", "local"}:
        return Lookup(packet, refused=kind)
    return Lookup(
        packet, route.get("dev", ""), str(route.get("table", "")), route.get("prefsrc", "")
    )


async def neighbour(pod: Address, link: str) -> str:
    """The NUD state of an address on a link; empty: the kernel knows nothing of it.

    Raises Unavailable.
    """
    said = await run("ip", "-j", "neighbour", "show", "to", pod, "dev", link)
    entries = json.loads(said or "[]")
    return " ".join(entries[0].get("state", [])) if entries else ""


async def policies(local: Address, remote: Address) -> tuple[Policy, ...]:
    """The XFRM policies that packets between two addresses meet. Raises Unavailable."""
    found = read_policies(await run("ip", "xfrm", "policy"))
    pairs = {"out": (local, remote), "in": (remote, local), "fwd": (remote, local)}
    return tuple(p for p in found if _matches(p.selector, *pairs[p.direction]))


_HEAD: Final = re.compile(r"src (\S+) dst (\S+)")
_DIRECTION: Final = re.compile(r"\tdir (out|in|fwd)\b(.* action block\b)?.* priority (\d+)")
_TEMPLATE: Final = re.compile(r"\ttmpl src (\S+) dst (\S+)")


def read_policies(text: str) -> list[Policy]:
    """The policies in what `ip xfrm policy` prints, but those of single sockets.

    One that needs more than addresses to match (a protocol, a port, a mark) is left out.
    """
    found = []
    for block in re.split(r"\n(?=src )", text):
        head, direction = _HEAD.match(block), _DIRECTION.search(block)
        plain = head is not None and not block.partition("\n")[0][head.end() :].strip()
        if head is None or direction is None or not plain or "\n\tmark " in block:
            continue
        template = _TEMPLATE.search(block)
        found.append(
            Policy(
                direction=direction[1],
                selector=f"{head[1]} to {head[2]}",
                priority=int(direction[3]),
                block=direction[2] is not None,
                template=f"{template[1]} to {template[2]}" if template else "",
            )
        )
    return found


async def sas() -> frozenset[KernelSa]:
    """The SAs in the kernel, without their keys. Raises Unavailable."""
    return frozenset(read_sas(await run("ip", "xfrm", "state", "list", "nokeys")))


_SA: Final = re.compile(r"src (\S+) dst (\S+)\n\tproto (esp|ah) spi (0x[0-9a-f]+)")
_ALGORITHM: Final = re.compile(r"\n\t(aead|enc|auth|auth-trunc) ")


def read_sas(text: str) -> list[KernelSa]:
    """The SAs in what `ip xfrm state` prints. One without an algorithm is still in the making: only
    its SPI is taken.
    """
    found = []
    for block in re.split(r"\n(?=src )", text):
        head = _SA.match(block)
        if head is not None and _ALGORITHM.search(block):
            found.append(KernelSa(head[1], head[2], head[3], int(head[4], 16)))
    return found


def _matches(selector: str, source: Address, destination: Address) -> bool:
    nets = selector.split(" to ")
    return all(
        network(f"{pod}/{128 if ':' in pod else 32}").subnet_of(net)  # type: ignore[arg-type]
        if (net := network(text)).version == (6 if ":" in pod else 4)
        else False
        for text, pod in zip(nets, (source, destination), strict=True)
    )
