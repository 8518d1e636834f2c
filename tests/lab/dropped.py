"""ESP that does not arrive, while IKE does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.fabric import Fabric


@contextmanager
def esp_dropped(fabric: Fabric, source: str, target: str) -> Iterator[None]:
    """ESP between two nodes does not arrive in this direction, by itself or in UDP (RFC 3948: what
    does not begin with four zeros is not IKE).
    """
    namespace = fabric.namespaces[target]
    table = f"drop-{source}"
    address = fabric.layout.underlay[source]
    rules = f"""
        table ip {table} {{
            chain input {{
                type filter hook input priority -300
                ip saddr {address} ip protocol esp drop
                ip saddr {address} udp dport 4500 @th,64,32 != 0 counter drop
            }}
        }}
    """
    namespace.run("nft", "-f", "-", stdin=rules)
    try:
        yield
    finally:
        namespace.run("nft", "delete", "table", "ip", table)
