"""The file by which container runtimes find `fabric-cni`, kept as it should be.

It is written when this node can take pods, for a runtime takes its being there as a word that the
network is ready; and it stays when the daemon ends, as pods do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
import trio

from fabricd import atomic

VERSION: Final = "1.0.0"
"""Of the file: runtimes and `portmap` of Debian 12 know no later one. A runtime that does asks
`fabric-cni` for what it knows."""

PAUSE: Final = 1.0
"""Seconds between two looks at the file."""

log = structlog.get_logger()


def content(network: str, socket: Path) -> bytes:
    """The configuration: fabric-cni, and portmap for ports of the host (CNI specification,
    section 1).
    """
    plugins: list[dict[str, Any]] = [
        {"type": "fabric-cni", "socket": str(socket)},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ]
    document = {"cniVersion": VERSION, "name": network, "plugins": plugins}
    return json.dumps(document, indent=2).encode() + b"\n"


async def keep(path: Path, wanted: bytes, obstacle: Callable[[], str]) -> NoReturn:
    """Keep the file as wanted, for ever, while no `obstacle` is in the way of taking pods."""
    fault = ""
    while True:
        await trio.sleep(PAUSE)
        if obstacle():
            continue
        try:
            if await trio.to_thread.run_sync(write, path, wanted):
                log.info("container runtimes are told of fabric-cni", path=str(path))
            fault = ""
        except OSError as error:
            if str(error) != fault:
                log.error("container runtimes can't be told of fabric-cni", error=str(error))
            fault = str(error)


def write(path: Path, wanted: bytes) -> bool:
    """Unless it is right; whether it was written. Blocks."""
    try:
        if path.read_bytes() == wanted:
            return False
    except FileNotFoundError:
        pass
    atomic.write(path, wanted, 0o644)
    return True
