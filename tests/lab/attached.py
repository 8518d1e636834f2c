"""Pods that fabricd attaches: their namespaces, what there is of them in kernel and on disk, and
programs that talk from within.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.fabric import Fabric
from lab.netns import Namespace
from lab.process import CommandError, wait_until
from lab.topology import Pod
from tests.lab.observe import SOON


@dataclass(frozen=True)
class Attached:
    """A pod that was attached."""

    name: str
    node: str
    namespace: Namespace
    document: dict[str, Any]
    """What the daemon has said of it."""

    @property
    def addresses(self) -> list[str]:
        """Without prefix lengths, IPv4 first."""
        return [text.partition("/")[0] for text in self.document["addresses"]]

    @property
    def ip(self) -> str:
        return self.addresses[0]

    @property
    def port(self) -> str:
        """Its end on the bridge."""
        return str(self.document["port"])


def namespace(fabric: Fabric, name: str) -> Namespace:
    """A new one, where a pod is to be."""
    return Namespace.create(fabric.prefix + name, fabric.run)


def attach(fabric: Fabric, node: str, name: str, *words: str) -> Attached:
    """By `fabricctl pod attach`, in a namespace of its own."""
    inside = namespace(fabric, name)
    argv = ("pod", "attach", name, "--netns", str(inside.path), *words, "-o", "json")
    document = json.loads(fabric.fabricctl(node, *argv))
    return Attached(name, node, inside, document)


def post(fabric: Fabric, node: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """At the daemon's control socket, as fabricctl does, without its start. Raises CommandError
    when it is refused, or broken off.
    """
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2 * SOON)
        try:
            sock.connect(str(fabric.run / f"{node}.sock"))
            sock.sendall(head + data)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError as error:
            raise CommandError((node, path), "none", "", str(error)) from error
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status:
        raise CommandError((node, path), status.decode(), rest.decode(), "")
    document: dict[str, Any] = json.loads(rest.partition(b"\r\n\r\n")[2])
    return document


def attach_quickly(fabric: Fabric, node: str, name: str, inside: Namespace) -> Attached:
    """Without fabricctl."""
    wish = {"name": name, "netns": str(inside.path)}
    return Attached(name, node, inside, post(fabric, node, "/pods/attach", wish))


def known_to_the_layout(fabric: Fabric, pod: Attached) -> None:
    """So that it can be pinged by its name as others are."""
    gateway = ""
    described = Pod(pod.name, pod.node, pod.document["addresses"][0], gateway, "br-edge")
    fabric.layout = replace(fabric.layout, pods=(*fabric.layout.pods, described))
    fabric.namespaces[pod.name] = pod.namespace


# ---------------------------------------------------------------- what there is of pods


def entries(fabric: Fabric, node: str) -> dict[str, dict[str, Any]]:
    """The daemon's entries on disk, by pod."""
    texts = _files(fabric.run / f"{node}.state" / "pods").items()
    found = [json.loads(text) for name, text in texts if name.endswith(".json")]
    return {entry["name"]: entry for entry in found}


def _files(folder: Path) -> dict[str, bytes]:
    """What is in a folder from which others remove things meanwhile."""
    found = {}
    for path in folder.glob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            found[path.name] = path.read_bytes()
    return found


def leases(fabric: Fabric, node: str) -> dict[str, str]:
    """Holders by address."""
    return {
        name: content.split(b"\r\n")[0].decode()
        for name, content in _files(fabric.run / f"{node}.leases" / "fabric").items()
        if name[0].isdigit() or ":" in name
    }


def ports(fabric: Fabric, node: str) -> set[str]:
    """Links of ours on a node that are no bridge."""
    links = json.loads(fabric.nodes[node].namespace.ip("-j", "-d", "link"))
    return {
        link["ifname"]
        for link in links
        if link.get("ifalias") == "fabricd" and link.get("linkinfo", {}).get("info_kind") == "veth"
    }


def nothing_half_made(fabric: Fabric, node: str) -> None:
    """Kernel, leases, entries and the daemon's list have the same pods, whole."""
    found = entries(fabric, node)
    assert not any(entry.get("leaving") for entry in found.values())
    listed = {item["name"]: item for item in fabric.ask(node, "/pods")["pods"]}
    assert {name: item["state"] for name, item in listed.items()} == dict.fromkeys(
        found, "attached"
    )
    assert ports(fabric, node) == {item["port"] for item in listed.values()}
    holders = {
        address.partition("/")[0]: entry["holder"]
        for entry in found.values()
        for address in entry["addresses"]
    }
    assert leases(fabric, node) == holders


def is_whole(fabric: Fabric, node: str) -> bool:
    """As `nothing_half_made`, to be waited for."""
    try:
        nothing_half_made(fabric, node)
    except AssertionError:
        return False
    return True


def seen(fabric: Fabric, pod: Attached) -> dict[str, Any]:
    """Both ends of a pod's pair, its addresses and its default routes."""
    node, inside = fabric.nodes[pod.node].namespace, pod.namespace
    [port] = json.loads(node.ip("-j", "link", "show", "dev", pod.port))
    [link] = json.loads(inside.ip("-j", "address", "show", "dev", pod.document["ifname"]))
    return {
        "port": {key: port.get(key, "") for key in ("master", "mtu", "ifalias")}
        | {"up": "UP" in port["flags"]},
        "link": {"mtu": link["mtu"], "up": "UP" in link["flags"], "mac": link["address"]},
        "addresses": sorted(
            f"{item['local']}/{item['prefixlen']}"
            for item in link["addr_info"]
            if item["scope"] == "global"
        ),
        "ways": sorted(
            f"{route['dst']} via {route['gateway']} dev {route['dev']}"
            for family in ("-4", "-6")
            for route in json.loads(inside.ip("-j", family, "route"))
            if route["dst"] == "default"
        ),
    }


def looks(fabric: Fabric, pod: Attached) -> dict[str, Any]:
    """As `seen`; empty while there is nothing to see."""
    try:
        return seen(fabric, pod)
    except (CommandError, ValueError):
        return {}


def supplant(fabric: Fabric, pod: Attached) -> None:
    """Another link takes the name of a pod's interface, before the daemon can do anything."""
    fabricd = fabric.nodes[pod.node].fabricd
    assert fabricd is not None
    fabricd.freeze()
    pod.namespace.ip("link", "set", "eth0", "down")
    pod.namespace.ip("link", "set", "eth0", "name", "net9")
    pod.namespace.ip("link", "add", "eth0", "type", "bridge")
    fabricd.thaw()


# ---------------------------------------------------------------- talking


SERVER = """\
import socket, sys, threading
def serve(client, peer):
    with client:
        size = 0
        while piece := client.recv(1 << 16):
            size += len(piece)
        host = peer[0].removeprefix("::ffff:")
        client.sendall(f"{host} {size}".encode())
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=server.accept()).start()
"""
"""Tells who has called, and how many octets came."""

CLIENT = """\
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as server:
    server.sendall(bytes(int(sys.argv[3])))
    server.shutdown(socket.SHUT_WR)
    print(server.recv(1000).decode())
"""

PORT = "7777"


@contextmanager
def listening(inside: Namespace) -> Iterator[None]:
    """Somebody listens there."""
    process = inside.popen(sys.executable, "-c", SERVER, PORT, name=f"{inside.name}-server")
    try:
        wait_until(
            lambda: "listening" in process.log.read_text(encoding="utf-8"),
            f"{inside.name} listens",
            watch=[process],
        )
        yield
    finally:
        process.stop()
        process.log.unlink()


def call(inside: Namespace, address: str, size: int = 1) -> tuple[str, int]:
    """Send so many octets to a listener: by which address it knows who calls, and how many came."""
    said = inside.run(sys.executable, "-c", CLIENT, address, PORT, str(size), timeout=90)
    host, _, count = said.strip().partition(" ")
    return host, int(count)


def restart(fabric: Fabric, node: str, section: str, key: str, value: str) -> None:
    """Stop a node's daemon and start it with another value in its config."""
    config: Path = fabric.nodes[node].config
    lines = config.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(f"{key} = ")]
    kept.insert(kept.index(f"[{section}]") + 1, f"{key} = {value}")
    fabric.stop_fabricd(node)
    config.write_text("\n".join(kept) + "\n", encoding="utf-8")
    fabric.start_fabricd(node)
