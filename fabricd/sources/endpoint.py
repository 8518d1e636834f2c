"""etcd's endpoints as operators write them: `http://10.20.8.141:2379`.

May not know of connections: the config is checked by this file too.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

DEFAULT_PORT: Final = 2379
"""etcd's client port, registered with IANA."""

_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")


class Endpoint(NamedTuple):
    """Where one etcd server listens."""

    host: str
    """DNS name or address, an IPv6 address without brackets."""
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}"

    @property
    def target(self) -> str:
        """Its name for gRPC (grpc/doc/naming.md); by its scheme no address is ever resolved."""
        try:
            address = ip_address(self.host)
        except ValueError:
            return f"dns:///{self.host}:{self.port}"
        if isinstance(address, IPv6Address):
            return f"ipv6:[{self.host}]:{self.port}"
        return f"ipv4:{self.host}:{self.port}"


def parse_endpoint(url: str) -> Endpoint:
    """Host, port and whether to use TLS; raises ValueError with one line for the operator."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in {"http", "https"}:
            raise ValueError("it does not start with http:// or https://")
        if ":" in host:
            ip_address(host)
        elif not _NAME.fullmatch(host):
            raise ValueError("no host" if not host else f"{host!r} is no host")
        if port == 0:
            raise ValueError("port 0")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("only host and port can be given")
    except ValueError as error:
        raise ValueError(
            f"{url!r} is no endpoint of etcd: {error}; write it as http://HOST:PORT"
        ) from error
    return Endpoint(host, port or DEFAULT_PORT, parts.scheme == "https")
