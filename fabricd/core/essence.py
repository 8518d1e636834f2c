"""What is news in a status document: the part whose change is worth telling anybody.

Byte counters, ages and the time are in the document, and change by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def essence(status: Mapping[str, Any]) -> Any:
    """That part, to be compared with `==`."""
    return (
        [
            (
                *(peer[key] for key in ("name", "up", "state", "reason", "remote")),
                (peer.get("certificate") or {}).get("serial"),
            )
            for peer in status["peers"]
        ],
        [status[key] for key in ("role", "version", "synced", "rejected", "held", "warnings")],
        status.get("pods"),
        [status[part]["reason"] for part in ("source", "kernel", "charon")],
    )
