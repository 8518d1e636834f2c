"""A router that masquerades: who sits behind it has no address that the others could reach.

The kernel's own NAT, by nft(8). Knows nothing of IKE.
"""

from __future__ import annotations

from typing import Final

from lab.netns import Namespace

INSIDE: Final = "192.168.8.1/24"
BEHIND: Final = "192.168.8.2/24"
"""Addresses of the router and of the one node behind it."""

RULES: Final = """\
table ip lab-nat
delete table ip lab-nat
table ip lab-nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" meta l4proto udp masquerade to :{first}-{last}
    oifname "eth0" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "eth1" accept
    ct state established,related accept
  }}
}}
"""

PORTS: Final = 1000
"""How many ports there are to translate to at a time."""


class Nat:
    """A router between `eth0`, the underlay, and `eth1`; its links are made by others."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        """`address`: on the underlay, with prefix length."""
        self.namespace = namespace
        self.address = address
        self._first = 20_000

    def start(self) -> None:
        """Addresses, forwarding and masquerading."""
        self.namespace.add_address("eth0", self.address)
        self.namespace.add_address("eth1", INSIDE)
        self.namespace.forward()
        self._translate()

    def forget(self) -> None:
        """Forget all mappings; what is translated from now on comes from other ports."""
        self._first += PORTS
        self._translate()
        # The kernel drops what it masqueraded out of a link when that goes down.
        self.namespace.ip("link", "set", "eth0", "down")
        self.namespace.ip("link", "set", "eth0", "up")

    def move(self, address: str) -> None:
        """Another address on the underlay; the mappings go with the old one."""
        self.namespace.ip("address", "delete", self.address, "dev", "eth0")
        self.namespace.add_address("eth0", address)
        self.address = address

    def _translate(self) -> None:
        rules = RULES.format(first=self._first, last=self._first + PORTS - 1)
        self.namespace.run("nft", "-f", "-", stdin=rules)
