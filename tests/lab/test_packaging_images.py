"""Two nodes out of containers: the images are built from the Dockerfiles and run as
contrib/compose.yaml says, with nothing more than it gives them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import rundir
from lab.edges import RECORDS
from lab.images import Container, Images, give, services
from lab.netns import Namespace, veth
from lab.pki import Authority
from lab.process import CommandError, Process, wait_until

pytestmark = pytest.mark.packaging

UID = 9815
"""Of the user and the group `fabricd` in both images."""

CAP_NET_ADMIN = 1 << 12

CONFIG = """\
[node]
name = "{name}"
[store]
type = "dir"
path = "/etc/fabricd/records"
"""

# This kernel may lack ESP: charon does it itself (docs/install.md).
USERSPACE_ESP = "charon { plugins { kernel-libipsec { load = yes } } }\n"


@dataclass
class Node:
    """One node's two containers, running."""

    namespace: Namespace
    charon: Container
    fabricd: Container
    processes: dict[str, Process]

    @classmethod
    def start(cls, images: Images, namespace: Namespace, volumes: Path) -> Node:
        found = services()
        node = cls(
            namespace=namespace,
            charon=images.container(namespace, found["charon"], volumes),
            fabricd=images.container(namespace, found["fabricd"], volumes),
            processes={},
        )
        conf = volumes / "userspace-esp.conf"
        conf.write_text(USERSPACE_ESP, encoding="utf-8")
        more = f"--volume={conf}:/etc/strongswan.d/userspace-esp.conf:ro"
        node.processes["charon"] = node.charon.start(more)
        node.processes["fabricd"] = node.fabricd.start()
        return node

    def up(self) -> bool:
        """Whether fabricd calls the tunnel to the one peer up."""
        document = json.loads(self.fabricd.exec("fabricctl", "status", "-o", "json"))
        return [peer["state"] for peer in document["peers"]] == ["up"]

    def has_bridge(self) -> bool:
        return self.namespace.has_link("br-edge")


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    directory = rundir.make("img-", Path("/tmp"))
    yield directory
    rundir.remove(directory)


@pytest.fixture(scope="module")
def images(run: Path) -> Iterator[Images]:
    made = Images(run)
    try:
        made.build(services())
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def nodes(images: Images, run: Path) -> Iterator[dict[str, Node]]:
    authority = Authority(run / "pki")
    spaces = {name: Namespace.create(f"{run.name}-{name}", run) for name in RECORDS}
    pods = {name: Namespace.create(f"{run.name}-pod-{name}", run) for name in RECORDS}
    veth(spaces["edge2"], "u0", spaces["edge3"], "u0")
    for name, record in RECORDS.items():
        spaces[name].add_address("u0", f"{record['endpoint']}/24")
        spaces[name].forward()
        _furnish(run / name, authority, name)
    made = {name: Node.start(images, spaces[name], run / name) for name in RECORDS}
    for name, address, gateway in (
        ("edge2", "2.2.2.2", "2.2.2.1"),
        ("edge3", "2.2.2.34", "2.2.2.33"),
    ):
        space, pod = spaces[name], pods[name]
        watch = list(made[name].processes.values())
        wait_until(made[name].has_bridge, f"{name}'s bridge", watch=watch)
        veth(space, "v0", pod, "eth0")
        space.ip("link", "set", "v0", "master", "br-edge", "up")
        pod.add_address("eth0", f"{address}/27")
        pod.add_route("default", gateway)
    yield made
    for node in made.values():
        for process in node.processes.values():
            process.stop()


def _furnish(volumes: Path, authority: Authority, name: str) -> None:
    """The directories that the compose file mounts, as docs/install.md has them on a node."""
    give(volumes / "charon", 0, UID, 0o750)
    give(volumes / "state", UID, UID, 0o700)
    give(volumes / "run/fabricd", UID, UID, 0o700)
    etc = give(volumes / "etc/fabricd", 0, 0, 0o755)
    (etc / "fabricd.toml").write_text(CONFIG.format(name=name), encoding="utf-8")
    records = give(etc / "records/nodes", 0, 0, 0o755)
    for node, record in RECORDS.items():
        (records / f"{node}.json").write_text(json.dumps(record), encoding="utf-8")
    credentials = authority.issue(name, RECORDS[name]["subnets"])
    pki = give(etc / "pki", 0, UID, 0o750)
    (pki / "ca.crt").write_bytes(authority.cert.read_bytes())
    (pki / "node.crt").write_bytes(credentials.cert.read_bytes())
    key = pki / "node.key"
    key.write_bytes(credentials.key.read_bytes())
    key.chmod(0o600)
    os.chown(key, UID, UID)


def test_two_nodes_out_of_images_make_a_tunnel(nodes: dict[str, Node], run: Path) -> None:
    for name, node in nodes.items():
        watch = list(node.processes.values())
        wait_until(node.up, f"{name}'s tunnel is up", 60, watch=watch)

    pod = Namespace(f"{run.name}-pod-edge2", run)
    assert pod.lost("2.2.2.34") == 0


def test_both_say_that_they_are_healthy(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        assert node.charon.healthy()
        assert node.fabricd.healthy()


def test_fabricd_is_a_user_with_one_capability(nodes: dict[str, Node]) -> None:
    daemon = nodes["edge2"].fabricd.exec("python3", "-c", "print(open('/proc/self/status').read())")

    values = dict(line.split(":\t", 1) for line in daemon.splitlines() if ":\t" in line)
    assert values["Uid"].split() == [str(UID)] * 4
    assert int(values["CapEff"], 16) == CAP_NET_ADMIN


def test_fabricd_ends_and_the_tunnel_carries_on(nodes: dict[str, Node], run: Path) -> None:
    node = nodes["edge2"]
    uri = "unix:///var/run/charon/charon.vici"
    before = _spis(node.charon.exec("swanctl", "--list-sas", "--raw", "--uri", uri))
    pod = Namespace(f"{run.name}-pod-edge2", run)

    node.processes["fabricd"].kill()
    assert pod.lost("2.2.2.34") == 0
    with pytest.raises(CommandError):
        node.fabricd.healthy()

    node.processes["fabricd"] = node.fabricd.start()
    watch = [node.processes["fabricd"]]
    wait_until(node.up, "edge2 is there again", 60, watch=watch)
    assert _spis(node.charon.exec("swanctl", "--list-sas", "--raw", "--uri", uri)) == before
    assert pod.lost("2.2.2.34") == 0


def test_the_image_is_small(images: Images) -> None:
    # Beside its base: Python, nftables, and 75 MB of packages, most of it grpc and cryptography.
    assert images.size("fabricd") < 150e6


def _spis(listed: str) -> set[str]:
    return {word for word in listed.split() if word.startswith("spi-")}
