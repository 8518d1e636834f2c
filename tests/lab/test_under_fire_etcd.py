"""A fabric whose records are in a cluster of three etcds, by TLS and for users with passwords: what
befalls them loses no ping. Each test goes on where the last one ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Final

import pytest

from lab.etcd import Etcd, join
from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS, UNDERLAY
from tests.lab.kube_pki import KubePki
from tests.lab.observe import (
    SOON,
    metrics,
    or_else,
    status,
    wait_converged,
    wait_peers,
    wait_status,
    wait_unready,
    whole,
)
from tests.lab.under_fire import ALL, NODES, change_is_obeyed, under_fire, unharmed

TOKEN: Final = 1
"""Seconds that a token of etcd's lives."""

METRICS: Final = 12_390
"""The first member's port for them."""


fabric = pytest.fixture(scope="module")(under_fire)


@dataclass(frozen=True)
class Cluster:
    """Three members on node1, users `root` and `fabricd`."""

    members: tuple[Etcd, ...]
    pki: KubePki

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        """Those that don't run."""
        for member in self.members:
            if member.process is None or not member.process.alive:
                member.spawn()
        for member in self.members:
            member.wait_ready()

    def restart(self, *flags: str) -> None:
        """All at once, with more flags."""
        for member in self.members:
            member.stop()
            member.flags += flags
        self.start()

    def leader(self) -> Etcd:
        """Once there is one."""
        [found, *_] = wait_until(
            lambda: [member for member in self.members if self._leads(member)], "a leader", SOON
        )
        return found

    def _leads(self, member: Etcd) -> bool:
        [answer] = json.loads(member.ctl("endpoint", "status", "-w", "json"))
        return bool(answer["Status"]["leader"] == answer["Status"]["header"]["member_id"])

    def grant(self, verb: str = "grant") -> None:
        right = ("readwrite",) if verb == "grant" else ()
        self.members[0].ctl(
            *("role", f"{verb}-permission", "fabric", "--prefix=true", *right, "/fabric/")
        )

    def refused_tokens(self) -> float:
        """How often the members, since they run, have refused what came with an old token."""
        found = 0.0
        for number, member in enumerate(self.members):
            assert member.namespace is not None
            with member.namespace.around_thread():
                asked = HTTPConnection("127.0.0.1", METRICS + number, timeout=10)
                asked.request("GET", "/metrics")
                lines = asked.getresponse().read().decode().splitlines()
                asked.close()
            found += sum(
                float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith('grpc_server_handled_total{grpc_code="Unauthenticated"')
            )
        return found


@pytest.fixture(scope="module")
def cluster(fabric: Fabric) -> Cluster:
    """It serves, and holds the records; no node knows of it."""
    host = UNDERLAY["node1"]
    pki = KubePki(fabric.run / "etcd-pki")
    pki.server(host, "127.0.0.1")
    flags = (
        "--cert-file",
        str(pki.folder / "server.crt"),
        "--auth-token-ttl",
        str(TOKEN),
    )
    key = ("--key-file", str(pki.folder / "server.key"))
    members = tuple(
        Etcd(
            fabric.run,
            name=f"etcd{number}",
            namespace=fabric.namespaces["node1"],
            host=host,
            port=12_379 + 2 * number,
            peer_port=12_380 + 2 * number,
            flags=(*flags, *key, "--listen-metrics-urls", f"http://127.0.0.1:{METRICS + number}"),
            scheme="https",
            ctl_flags=("--cacert", str(pki.ca)),
        )
        for number in range(3)
    )
    join(members)
    found = Cluster(members, pki)
    found.start()
    for name, record in RECORDS.items():
        members[0].put(f"/fabric/nodes/{name}", dict(record))
    for user in ("root:secret", "fabricd:secret"):
        members[0].ctl("user", "add", user)
    members[0].ctl("role", "add", "fabric")
    found.grant()
    members[0].ctl("user", "grant-role", "root", "root")
    members[0].ctl("user", "grant-role", "fabricd", "fabric")
    members[0].ctl("auth", "enable")
    for member in members:
        member.ctl_flags += ("--user", "root:secret")
    return found


def point_to(fabric: Fabric, cluster: Cluster, **more: str) -> None:
    """All nodes, one after the other."""
    password = fabric.run / "password"
    password.write_text("secret\n", encoding="ascii")
    fabric.point_to(
        endpoints=cluster.endpoints,
        ca=str(cluster.pki.ca),
        username="fabricd",
        password_file=str(password),
        **more,
    )
    for name in NODES:
        fabric.stop_fabricd(name)
        fabric.start_fabricd(name)


def refused(fabric: Fabric, words: str) -> None:
    """Each node says in these words why it does not hear the store, and keeps its tunnels."""
    for name in NODES:
        wait_status(
            fabric,
            name,
            f"says {words!r}",
            lambda seen: not seen["synced"] and words in seen["source"]["reason"],
        )
        assert wait_unready(fabric, name, "store")
        assert metrics(fabric, name)["fabricd_source_synced"] == 0
        wait_peers(fabric, name, *(set(NODES) - {name}))


def test_the_records_move_to_three_etcds_with_tls_and_passwords(
    fabric: Fabric, cluster: Cluster
) -> None:
    before = whole(fabric)
    with unharmed(fabric, *ALL):
        fabric.etcd.stop()
        fabric.etcd = cluster.members[0]
        point_to(fabric, cluster)
        wait_converged(fabric)
        change_is_obeyed(fabric, "moved")
    assert whole(fabric) == before


def test_the_leader_is_killed(fabric: Fabric, cluster: Cluster) -> None:
    before = whole(fabric)
    with or_else(cluster.start), unharmed(fabric, *ALL):
        leader = cluster.leader()
        leader.kill()
        fabric.etcd = next(member for member in cluster.members if member is not leader)
        fabric.etcd.wait_ready()
        change_is_obeyed(fabric, "without-it")
        assert [status(fabric, name)["synced"] for name in NODES] == [True, True, True]
        cluster.start()
        wait_converged(fabric)
    assert whole(fabric) == before


def test_tokens_that_run_out_are_replaced(fabric: Fabric, cluster: Cluster) -> None:
    """A status is published with a token that has not been used for longer than it lives."""
    before, refusals = whole(fabric), cluster.refused_tokens()
    with unharmed(fabric, *ALL):

        def replaced() -> bool:
            fabric.etcd.put("/fabric/nodes/wrong", "{")
            wait_until(lambda: rejections() == [1, 1, 1], "all say that it is wrong", SOON)
            fabric.etcd.delete("/fabric/nodes/wrong")
            wait_until(lambda: rejections() == [0, 0, 0], "nobody says so any more", SOON)
            return cluster.refused_tokens() >= refusals + len(NODES)

        def rejections() -> list[int]:
            found = (fabric.etcd.get(f"/fabric/status/{name}") for name in NODES)
            return [len(json.loads(each)["rejected"]) if each else -1 for each in found]

        wait_until(replaced, "etcd has refused as many old tokens as there are nodes", 2 * SOON)
        wait_converged(fabric)
    assert whole(fabric) == before


def test_a_user_loses_its_right_to_watch(fabric: Fabric, cluster: Cluster) -> None:
    before = whole(fabric)
    with or_else(cluster.grant), unharmed(fabric, *ALL):
        cluster.grant("revoke")
        cluster.restart()
        refused(fabric, "permission denied: the user needs a role with read on the prefix /fabric/")
        assert whole(fabric) == before
        cluster.grant()
        wait_converged(fabric)
        change_is_obeyed(fabric, "may-again")
    assert whole(fabric) == before


def test_etcd_asks_for_certificates_as_well(fabric: Fabric, cluster: Cluster) -> None:
    before = whole(fabric)
    cert, key = cluster.pki.client("fabricd")
    with unharmed(fabric, *ALL):
        for member in cluster.members:
            member.ctl_flags += ("--cert", str(cert), "--key", str(key))
        cluster.restart("--client-cert-auth", "--trusted-ca-file", str(cluster.pki.ca))
        refused(fabric, f"{UNDERLAY['node1']}:")
        assert whole(fabric) == before
        point_to(fabric, cluster, cert=str(cert), key=str(key))
        wait_converged(fabric)
        change_is_obeyed(fabric, "with-certificate")
    assert whole(fabric) == before
