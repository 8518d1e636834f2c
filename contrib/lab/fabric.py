"""The fabric of the first proof of concept, in network namespaces.

        2.2.2.0/27               2.2.2.32/27            10.233.96.0/24      10.233.90.0/24
        pod-edge2 .2             pod-edge3 .34          pod-node1 .2        pod-node2 .3
            | br-edge                | br-edge              | cni0              | cni0
          edge2 10.20.8.4          edge3 10.20.8.12       node1 10.20.8.141   node2 10.20.8.142
            +------------------------+------ wan -----------+-------------------+

node1 is the cloud's gateway and holds etcd. node2 stands for the rest of the cluster; neither
fabricd nor charon run there. The cluster's own network (c4) is as Calico makes it: BIRD on both
nodes, which also takes the way to the edges from node1 to node2; between the nodes IPIP where
the kernel has it. What belongs to fabricd, such as br-edge and its addresses, is not made here.

That is the layout `FIRST`; `lab.topology` has others, with more gateways, or an edge behind NAT.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.bird import TUNNEL, Bird, kernel_ipip
from lab.capture import Capture
from lab.charon import Charon, kernel_esp
from lab.etcd import Etcd
from lab.nat import BEHIND, INSIDE, Nat
from lab.netns import Namespace, veth
from lab.pki import Authority, Credentials, FirstAuthority
from lab.process import CommandError, LabError, Process, wait_until
from lab.topology import (
    CONFIG,
    FIRST,
    PODS,
    POOLS,
    RECORDS,
    UNDERLAY,
    Layout,
    Pod,
    Record,
    communities,
)

__all__ = ["PODS", "RECORDS", "UNDERLAY", "Fabric", "FabricNode", "Pod", "Record"]


@dataclass
class FabricNode:
    """A node that runs charon and fabricd."""

    name: str
    namespace: Namespace
    charon: Charon
    config: Path
    pki: Path
    """Its own copies: `ca.crt`, `node.crt`, `node.key`, perhaps `ca.crl`."""
    fabricd: Process | None = field(default=None)

    @property
    def processes(self) -> list[Process]:
        return [p for p in (self.fabricd, self.charon.process) if p is not None]

    def install(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """Put a file into its `pki`, in place of the one that is there, as install(1) does."""
        new = self.pki / f".{name}"
        new.touch(mode)
        new.write_bytes(content)
        new.rename(self.pki / name)

    def install_credentials(self, credentials: Credentials) -> None:
        """Key and certificate."""
        self.install("node.key", credentials.key.read_bytes())
        self.install("node.crt", credentials.cert.read_bytes())


class Fabric:
    """The whole of it. `prefix` begins the names of all its namespaces; `run` is its run
    directory. `start_all` brings it up; `lab.rundir.remove(run)` removes it.
    """

    def __init__(
        self,
        prefix: str,
        run: Path,
        layout: Layout = FIRST,
        *,
        userspace_esp: bool | None = None,
        ipip: bool | None = None,
        authority: Callable[[Path], Authority | FirstAuthority] = Authority,
        fabricd: tuple[str | Path, ...] = (Path(sys.executable).with_name("fabricd"),),
        fabricctl: tuple[str | Path, ...] = (Path(sys.executable).with_name("fabricctl"),),
    ) -> None:
        """`fabricd` and `fabricctl` are the command lines of the programs to try; `ipip`: whether
        the cluster's nodes have a tunnel between them; None: if this machine can. `authority` makes
        the CA in a folder.
        """
        self.prefix = prefix
        self.run = run
        self.layout = layout
        self.userspace_esp = not kernel_esp() if userspace_esp is None else userspace_esp
        self._authority = authority
        self.ipip = kernel_ipip() if ipip is None else ipip
        self.programs = {"fabricd": fabricd, "fabricctl": fabricctl}
        self.namespaces: dict[str, Namespace] = {}
        """Of nodes, of pods, of routers and of the underlay, `wan`; by name without the prefix."""
        self.nodes: dict[str, FabricNode] = {}
        self.birds: dict[str, Bird] = {}
        """Of the cluster's nodes."""
        self.routers: dict[str, Nat] = {}
        """By the edge that sits behind it."""
        self.records: dict[str, Record] = {}
        """The node records as they were last put."""
        self.before_fabricd: Callable[[str], object] = lambda _: None
        """Called with a node's name whenever its fabricd is about to be started."""

    # ------------------------------------------------------------ bringing it up

    def start_all(self, records: Mapping[str, Record] | None = None) -> None:
        """Networks, etcd, charons, records (those of the layout), daemons, pods; returns before
        tunnels are up.
        """
        self.build()
        self.start_services()
        for name, record in (self.layout.records if records is None else records).items():
            self.put_record(name, record)
        self.start_daemons()

    def build(self) -> None:
        """Namespaces, cables, certificates and configs: all that does not run."""
        wan = self._namespace("wan")
        wan.add_bridge("br0")
        for name, address in self.layout.underlay.items():
            self._on_underlay(name).add_address("eth0", on_link(address))
        for name, address in self.layout.second.items():
            self.namespaces[name].add_address("eth0", on_link(address))
        for name, address in self.layout.behind_nat.items():
            self._build_behind_nat(name, address)
        for pod in self.layout.pods:
            self._namespace(pod.name)
        self._build_cluster()
        store = self.layout.store
        host = self.layout.underlay[store]
        host = f"[{host}]" if ":" in host else host
        self.etcd = Etcd(self.run, namespace=self.namespaces[store], host=host)
        self.authority = self._authority(self.run / "pki")
        for name in self.layout.records:
            self.nodes[name] = self._build_node(name)

    def _on_underlay(self, name: str) -> Namespace:
        """A namespace with a cable to the underlay."""
        namespace, wan = self._namespace(name), self.namespaces["wan"]
        veth(namespace, "eth0", wan, f"p-{name}")
        wan.ip("link", "set", f"p-{name}", "master", "br0", "up")
        return namespace

    def _build_behind_nat(self, name: str, address: str) -> None:
        edge, router = self._namespace(name), self._on_underlay(f"nat-{name}")
        veth(edge, "eth0", router, "eth1")
        self.routers[name] = Nat(router, f"{address}/24")
        self.routers[name].start()
        edge.add_address("eth0", BEHIND)
        edge.add_route("default", INSIDE.partition("/")[0])

    def _build_cluster(self) -> None:
        """What Kubernetes and its CNI do on the cluster's nodes."""
        blocks, underlay = self.layout.blocks, self.layout.underlay
        for name, block in blocks.items():
            node = self.namespaces[name]
            base, _, rest = block.rpartition(".0/")
            node.add_bridge("cni0", f"{base}.1/{rest}")
            node.forward()
            if self.ipip:
                node.add_address(TUNNEL, f"{base}.0/32")
            self.birds[name] = Bird(
                node,
                self.run,
                name=f"{name}-bird",
                address=underlay[name],
                blocks=[block],
                peers={other: underlay[other] for other in blocks if other != name},
                pools=POOLS,
                ipip=self.ipip,
            )
        for pod in self.layout.pods:
            if pod.bridge == "cni0":
                self.attach(pod)

    def _build_node(self, name: str) -> FabricNode:
        namespace = self.namespaces[name]
        charon = Charon(
            namespace, self.run, name=f"{name}-charon", userspace_esp=self.userspace_esp
        )
        config = self.run / f"{name}.toml"
        config.write_text(
            CONFIG.format(
                name=name,
                etcd=self.etcd.endpoint,
                run=self.run,
                vici=charon.socket,
                networks=json.dumps(self.layout.networks),
            ),
            encoding="utf-8",
        )
        node = FabricNode(name, namespace, charon, config, self.run / f"{name}.pki")
        node.pki.mkdir()
        node.install("ca.crt", self.authority.cert.read_bytes())
        node.install_credentials(self.authority.issue(name, self.layout.records[name]["subnets"]))
        return node

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace.create(self.prefix + name, self.run)
        self.namespaces[name] = namespace
        return namespace

    def start_services(self) -> None:
        """etcd, the cluster's BIRDs and each node's charon; the cluster is joined then."""
        self.etcd.start()
        for node in self.nodes.values():
            node.charon.start()
        self.start_birds()

    def start_birds(self) -> None:
        """Join the cluster."""
        for bird in self.birds.values():
            bird.start()
        blocks = self.layout.blocks
        for name, bird in self.birds.items():
            bird.wait_learned(*(block for other, block in blocks.items() if other != name))

    def start_daemons(self) -> None:
        """Each node's fabricd; the edges' pods are attached as soon as it has made br-edge."""
        for name in self.nodes:
            self.spawn_fabricd(name)
        for name in self.nodes:
            self._wait_fabricd(name)
        for pod in self.layout.pods:
            if pod.bridge == "br-edge":
                self.attach(pod)

    def attach(self, pod: Pod) -> None:
        """Connect a pod to its node's bridge, as soon as that is there."""
        node, inside = self.namespaces[pod.node], self.namespaces[pod.name]
        wait_until(
            lambda: node.has_link(pod.bridge),
            f"{pod.node} has {pod.bridge}",
            watch=self.nodes[pod.node].processes if pod.node in self.nodes else (),
        )
        port = f"v-{pod.name}"
        veth(node, port, inside, "eth0")
        node.ip("link", "set", port, "master", pod.bridge, "up")
        inside.add_address("eth0", pod.address)
        inside.add_route("default", pod.gateway)

    # ------------------------------------------------------------ records

    def put_record(self, name: str, record: Record) -> None:
        """Write a node record with etcdctl."""
        self.etcd.put(f"/fabric/nodes/{name}", dict(record))
        self.records[name] = record

    def delete_record(self, name: str) -> None:
        self.etcd.delete(f"/fabric/nodes/{name}")
        self.records.pop(name, None)

    def point_to(self, **store: object) -> None:
        """Have every config name another etcd: `endpoints=[…]`, `ca=…`, `username=…`. A daemon
        obeys at its next start.
        """
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in store.items())
        for node in self.nodes.values():
            text = node.config.read_text(encoding="utf-8")
            head, rest = text.split('type = "etcd"\n', 1)
            tail = rest[rest.index("state_dir") :]
            node.config.write_text(f'{head}type = "etcd"\n{lines}{tail}', encoding="utf-8")

    # ------------------------------------------------------------ the programs

    def start_fabricd(self, name: str) -> None:
        """Start a node's fabricd and wait until it answers on its control socket."""
        self.spawn_fabricd(name)
        self._wait_fabricd(name)

    def spawn_fabricd(self, name: str) -> None:
        """Start a node's fabricd."""
        self.before_fabricd(name)
        node = self.nodes[name]
        argv = (*self.programs["fabricd"], "--config", node.config)
        node.fabricd = node.namespace.popen(*argv, name=f"{name}-fabricd")

    def _wait_fabricd(self, name: str) -> None:
        watch = [self._fabricd(name)]
        wait_until(lambda: self.ask(name, "/status"), f"{name}'s fabricd answers", 60, watch=watch)

    def stop_fabricd(self, name: str) -> None:
        """SIGTERM."""
        self._fabricd(name).stop()

    def kill_fabricd(self, name: str) -> None:
        """SIGKILL."""
        self._fabricd(name).kill()

    def _fabricd(self, name: str) -> Process:
        process = self.nodes[name].fabricd
        if process is None:
            raise LabError(f"{name}'s fabricd was never started")
        return process

    def fabricctl(self, name: str, *arguments: str) -> str:
        """Run `fabricctl ARGUMENTS` on a node; raises CommandError."""
        node = self.nodes[name]
        return node.namespace.run(
            *self.programs["fabricctl"], *arguments, "--config", str(node.config)
        )

    def status(self, name: str) -> dict[str, Any]:
        """The document of `fabricctl status -o json`."""
        document: dict[str, Any] = json.loads(self.fabricctl(name, "status", "-o", "json"))
        return document

    def ask(self, name: str, path: str) -> dict[str, Any]:
        """What a node's fabricd answers on its control socket: cheaper than `fabricctl`, to be
        asked again and again. Raises CommandError when nobody answers, which `wait_until` takes for
        "not yet".
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            try:
                sock.connect(str(self.run / f"{name}.sock"))
                sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
                document: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
            except (OSError, ValueError) as error:
                raise CommandError((name, path), "none", "", str(error)) from error
        return document

    # ------------------------------------------------------------ looking

    def wait_converged(self, nodes: Iterable[str] | None = None, timeout: float = 60) -> None:
        """Until each node is in sync and has exactly the peers that the records give it, all up.

        Raises LabError with what each node says and its logs' tails.
        """
        names = list(nodes or self.nodes)
        watch = [process for name in names for process in self.nodes[name].processes]

        def converged() -> bool:
            for name in names:
                status = self.ask(name, "/status")
                up = {peer["name"]: peer["up"] for peer in status["peers"]}
                if not status["synced"] or up != dict.fromkeys(self.expected_peers(name), True):
                    raise CommandError((name, "/status"), 0, "", f"{name}: {up}")
            return True

        wait_until(converged, "the fabric converges", timeout, watch=watch, interval=0.2)
        if any(record["role"] == "cloud" for record in self.records.values()):
            for name in self.layout.blocks.keys() - self.nodes.keys():
                self.birds[name].wait_learned("2.0.0.0/8")

    def expected_peers(self, name: str) -> set[str]:
        """The peers of a node by the records: cloud with edge, edges that share a community."""
        mine = self.records.get(name)
        if mine is None:
            return set()
        return {
            other
            for other, record in self.records.items()
            if other != name
            and (
                {mine["role"], record["role"]} == {"edge", "cloud"}
                or (
                    mine["role"] == record["role"] == "edge"
                    and communities(mine) & communities(record)
                )
            )
        }

    def uplink(self, name: str) -> Capture:
        """A capture of what a node sends and gets on the underlay; not started."""
        return Capture(self.namespaces["wan"], f"p-{name}", ("2.0.0.0/8", "10.233.0.0/16"))

    def kernel_sas(self, name: str) -> int:
        """How many ESP SAs a node's kernel holds."""
        return self.namespaces[name].ip("xfrm", "state").count("proto esp")

    def ping(
        self, source: str, target: str, count: int = 3, wait: float = 2, size: int = 56
    ) -> int:
        """How many of `count` pings of `size` bytes between two pods, by name or address, are
        lost: not answered within `wait` seconds.
        """
        pod = self.layout.pod
        return self.namespaces[pod(source).name].lost(pod(target).ip, count, wait=wait, size=size)

    def wait_ping(self, source: str, target: str, timeout: float = 60) -> None:
        """Until a ping between two pods is answered."""
        watch = [process for node in self.nodes.values() for process in node.processes]
        wait_until(
            lambda: self.ping(source, target, 1) == 0,
            f"{source} reaches {target}",
            timeout,
            watch=watch,
        )

    def tails(self, lines: int = 20) -> str:
        """The ends of all logs."""
        processes = [p for node in self.nodes.values() for p in node.processes]
        processes += [bird.process for bird in self.birds.values() if bird.process is not None]
        return "\n".join(process.tail(lines) for process in processes)


def on_link(address: str) -> str:
    """An address with the prefix length that the underlay has."""
    return f"{address}/{64 if ':' in address else 24}"
