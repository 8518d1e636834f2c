"""How every lab file ends: `fabricctl purge` on each node, after which kernels and charons are as
they were before fabricd first ran there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from lab.fabric import Fabric, FabricNode
from lab.process import CommandError, LabError, Process, wait_until

SOON: Final = 60

SWITCHES: Final = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
"""What the daemon switches on stays on: whether somebody else needs it by now can't be known."""

NOT_FABRICDS: Final = re.compile(
    "ipsec0|lookup 220|proto bird"  # charon and the cluster make it when they come
    "|'eth0'|dev eth0 (?!.*proto 198 )"  # the underlay: nodes move, and get other ways out
)
"""What may differ all the same, in lines of a dump."""

failed: Final = set[Path]()
"""Run directories of fabrics with which a test has failed: what is wrong there is told already."""

Look = Callable[[FabricNode], dict[str, Any]]


def dump(node: FabricNode, look: Look) -> list[str]:
    """All that fabricd could change on a node, a line a fact. `look`: what it sees of kernel and
    charon; nftables and switches are added.
    """
    found = {**look(node), "nftables": nftables(node)}
    lines = [line for line in _lines(found) if not NOT_FABRICDS.search(line)]
    values = node.namespace.run("sysctl", "-n", *SWITCHES).split()
    return lines + [f"{name} is on" for name, on in zip(SWITCHES, values, strict=True) if on == "1"]


def nftables(node: FabricNode) -> list[str]:
    """The whole ruleset, without what the kernel counts and numbers; empty where it has none."""
    try:
        document = json.loads(node.namespace.run("nft", "-j", "list", "ruleset"))
    except CommandError:
        return []
    items = (item for item in document["nftables"] if "metainfo" not in item)
    return [json.dumps(_lasting(item), sort_keys=True) for item in items]


def _lasting(value: Any) -> Any:
    match value:
        case dict():
            passing = {"handle", "packets", "bytes"}
            return {key: _lasting(item) for key, item in value.items() if key not in passing}
        case list():
            return [_lasting(item) for item in value]
    return value


def _lines(value: Any, path: str = "") -> Iterator[str]:
    match value:
        case dict():
            for key, item in value.items():
                yield from _lines(item, f"{path} {key}".strip())
        case list():
            for item in value:
                yield from _lines(item, path)
        case _:
            yield f"{path}: {value}"


def differences(before: list[str], now: list[str]) -> list[str]:
    """Line by line: `- ` what was there, `+ ` what is."""
    gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
    more = (line for line in new.elements() if not _others(line))
    return [f"- {line}" for line in gone.elements()] + [f"+ {line}" for line in more]


def _others(line: str) -> bool:
    """Whether a test may have made this in the place of others, or it stays on purpose."""
    if line.startswith("nftables: "):
        return not re.search('"family": "inet".*"(name|table)": "fabricd"', line)
    return line in {f"{name} is on" for name in SWITCHES}


@contextmanager
def purged_at_the_end(fabric: Fabric, look: Look) -> Iterator[None]:
    """If fabricd runs at the end of this block, and no test has failed: stop it and purge. What is
    not as it was before its first start is an error.
    """
    before: dict[str, list[str]] = {}

    def remember(name: str) -> None:
        if name not in before:
            before[name] = dump(fabric.nodes[name], look)

    fabric.before_fabricd = remember
    yield
    nodes = {name: node for name, node in fabric.nodes.items() if name in before}
    daemons = [node.fabricd for node in nodes.values() if node.fabricd and node.fabricd.alive]
    if fabric.run in failed or not daemons:
        return
    for pod in fabric.layout.pods:  # the lab's doing
        if pod.bridge == "br-edge":
            with suppress(CommandError):
                fabric.namespaces[pod.node].ip("link", "delete", f"v-{pod.name}")
    with ThreadPoolExecutor() as pool:
        list(pool.map(Process.stop, daemons))
        list(pool.map(lambda name: fabric.fabricctl(name, "purge"), nodes))

    left: list[str] = []

    def as_before() -> bool:
        left[:] = [
            f"{name}: {line}"
            for name, node in nodes.items()
            for line in differences(before[name], dump(node, look))
        ]
        return not left

    try:
        # charon takes its own routes, in table 220, away a moment after its SAs.
        wait_until(as_before, "every node is as it was before fabricd came", SOON)
    except LabError as error:
        raise LabError("\n".join([str(error), *left])) from error
