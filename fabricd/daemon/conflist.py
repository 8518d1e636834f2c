"""The file by which container runtimes find `fabric-cni`, kept as it should be.

It is written when this node can take pods, for a runtime takes its being there as a word that the
network is ready; and it stays when the daemon ends, as pods do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from fabricd import atomic

VERSION: Final = "1.0.0"
"""Of the file: runtimes and `portmap` of Debian 12 know no later one. A runtime that does asks
`fabric-cni` for what it knows."""


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


def keep(path: Path, wanted: bytes) -> bool:
    """Write the file unless it is right; whether it was written. Raises OSError. Blocks."""
    try:
        if path.read_bytes() == wanted:
            return False
    except FileNotFoundError:
        pass
    atomic.write(path, wanted, 0o644)
    return True
