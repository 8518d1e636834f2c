"""BIRD as a Calico node runs it: learns from the kernel, tells its mesh what lies in the pools.

Calico has a BIRD of its own, 1.6 with a patch, and configures it by templates; this is
Debian's BIRD 2, told the same. What differs:

- BIRD 2 has a protocol's imports, exports and next hops in its channel, `ipv4 { }`.
- `krt_tunnel = "tunl0"`, the patch: with it Calico's kernel filter sends the routes of a pool
  with `ipipMode: Always` into the tunnel. Here the peers' addresses are looked up in a table
  of their own (`igp table`), where they lie behind tunl0. The kernel gets the same route:
  `2.0.0.0/8 via 10.20.8.141 dev tunl0 proto bird onlink`.

Knows nothing of what the pools are for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lab.netns import Namespace
from lab.process import CommandError, LabError, Process, command, wait_until

BINARY = "/usr/sbin/bird"
CLIENT = "/usr/sbin/birdc"

AS_NUMBER = 64512
"""Calico's default."""

TUNNEL = "tunl0"
"""What the ipip module makes in each namespace: a tunnel to whoever is the next hop."""

CONF = """\
log stderr all;
router id {address};

# A node hands on its blocks, never what is in one of them.
function calico_aggr() {{
{aggregated}
}}

filter calico_export_to_bgp_peers {{
  if defined(ifname) && (ifname ~ "*.cali" || ifname ~ "*.calico") then reject;
  calico_aggr();
{exported}
  reject;
}}

# What the kernel has by itself is not written to it: BIRD 1.6 needs no word for that.
filter calico_kernel_programming {{
  if source = RTS_DEVICE then reject;
  accept;
}}

protocol device {{
  scan time 2;
}}

protocol direct {{
  ipv4;
  interface -"cali*", -"kube-ipvs*", "*";
}}

protocol kernel {{
  ipv4 {{
    import all;
    export filter calico_kernel_programming;
  }};
  learn;
  persist;
  scan time 2;
  merge paths on;
  graceful restart;
  metric 0;
}}

protocol static {{
  ipv4;
{blocks}
}}
{tunnel}
template bgp bgp_template {{
  local {address} as {number};
  multihop;
  graceful restart;
  connect delay time 2;
  connect retry time 5;
  error wait time 5, 30;
  ipv4 {{
    import all;
    export filter calico_export_to_bgp_peers;
    gateway recursive;{igp}
    add paths on;
  }};
}}

{mesh}
"""

PEER = """\
protocol bgp mesh_{name} from bgp_template {{
  neighbor {peer} as {number};{passive}
}}"""

BEHIND_TUNNEL = """
ipv4 table behind_tunnel;

protocol static {{
  ipv4 {{ table behind_tunnel; }};
{routes}
}}
"""


class Bird:
    """A BIRD inside a namespace, in a full mesh with its peers.

    address: the node's on the underlay. blocks: the pods' prefixes that Calico's IPAM gave to
    the node. peers: the other nodes' addresses, by name. pools: the CIDRs of the IPPools.
    ipip: each pool has `ipipMode: Always`; then tunl0 has to be there and up.
    """

    def __init__(
        self,
        namespace: Namespace,
        run: Path,
        *,
        name: str,
        address: str,
        blocks: Sequence[str],
        peers: Mapping[str, str],
        pools: Sequence[str],
        ipip: bool = False,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.address = address
        self.blocks = tuple(blocks)
        self.peers = dict(peers)
        self.pools = tuple(pools)
        self.ipip = ipip
        self.conf = run / f"{name}.conf"
        self.control = run / f"{name}.ctl"
        self.process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it answers; raises LabError with its log otherwise."""
        if self.process is not None and self.process.alive:
            raise LabError(f"{self.name} runs already")
        self._write()
        argv = (BINARY, "-f", "-c", self.conf, "-s", self.control)
        self.process = self.namespace.popen(*argv, name=self.name)
        wait_until(lambda: self.ctl("show", "status"), f"{self.name} answers", watch=[self.process])

    def stop(self) -> None:
        """Its routes stay in the kernel (`persist`)."""
        if self.process is not None:
            self.process.stop()

    def configure(self, pools: Sequence[str]) -> None:
        """Other pools from now on, as confd tells Calico's BIRD when an IPPool comes or goes."""
        self.pools = tuple(pools)
        self._write()
        self.ctl("configure")

    def ctl(self, *words: str) -> str:
        """birdc on this BIRD: `bird.ctl("show", "route", "all")`."""
        return command(CLIENT, "-s", self.control, *words)

    def learned(self) -> dict[str, dict[str, Any]]:
        """The kernel's IPv4 routes that BIRD put there, by prefix, as `ip -j route` has them."""
        found = json.loads(self.namespace.ip("-j", "route", "show", "proto", "bird"))
        return {route["dst"]: route for route in found}

    def wait_learned(self, *prefixes: str, timeout: float = 60) -> None:
        """Until the kernel has BIRD's routes to all of these."""
        watch = [] if self.process is None else [self.process]
        wait_until(
            lambda: set(prefixes) <= self.learned().keys(),
            f"{self.name} learns {', '.join(prefixes)}",
            timeout,
            watch=watch,
        )

    def _write(self) -> None:
        behind = BEHIND_TUNNEL.format(
            routes=_lines("  route {0}/32 via {0}%tunl0 onlink;", self.peers.values())
        )
        self.conf.write_text(
            CONF.format(
                address=self.address,
                number=AS_NUMBER,
                aggregated=_lines(
                    "  if net = {0} then accept;\n  if net ~ {0} then reject;", self.blocks
                ),
                exported=_lines("  if net ~ {0} then accept;", self.pools),
                blocks=_lines("  route {0} blackhole;", self.blocks),
                tunnel=behind if self.ipip else "",
                igp="\n    igp table behind_tunnel;" if self.ipip else "",
                mesh="\n".join(self._peer(name, peer) for name, peer in self.peers.items()),
            ),
            encoding="utf-8",
        )

    def _peer(self, name: str, peer: str) -> str:
        """One end of a session: the node with the higher address connects."""
        waits = ip_address(peer) > ip_address(self.address)  # type: ignore[operator]  # one family
        passive = "\n  passive on;" if waits else ""
        return PEER.format(name=name, peer=peer, number=AS_NUMBER, passive=passive)


def _lines(template: str, values: Iterable[str]) -> str:
    return "\n".join(template.format(value) for value in values)


@cache
def kernel_ipip() -> bool:
    """Whether the running kernel has IPIP tunnels: asks it for one in a scratch namespace."""
    name = f"lab-ipip-{os.getpid()}"
    command("ip", "netns", "add", name)
    try:
        tunnel = ("type", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2")
        command("ip", "-n", name, "link", "add", "probe", *tunnel)
    except CommandError:
        return False
    finally:
        command("ip", "netns", "delete", name)
    return True
