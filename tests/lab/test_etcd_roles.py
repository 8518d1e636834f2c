"""Who may do what in etcd once `contrib/etcd/roles.sh` has made users and roles: with passwords,
and with client certificates whose CN is the user.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import page
from lab.debian import CHECKOUT
from lab.etcd import Etcd
from lab.netns import Namespace
from lab.process import CommandError, Process, wait_until
from lab.topology import Record
from tests.lab.kube_pki import KubePki

ROLES = CHECKOUT / "contrib/etcd/roles.sh"

EDGE2 = {"endpoint": "192.0.2.1", "subnets": ["2.2.2.0/27"], "community": "app1"}
EDGE3 = {"endpoint": "192.0.2.2", "subnets": ["2.2.2.32/27"], "community": "app1"}

CONFIG = """\
[node]
name = "edge2"
[store]
endpoints = ["{endpoint}"]
ca = "{ca}"
{credential}
state_dir = "{run}/state"
[ike]
socket = "unix://{run}/nobody.vici"
ca = ["{run}/none.crt"]
cert = "{run}/none.crt"
key = "{run}/none.key"
[control]
socket = "{run}/edge2.sock"
"""

TOKEN = 1
"""Seconds that a token of etcd's lives."""


@dataclass
class Guarded:
    """An etcd with TLS that asks everybody who he is, as the docs have an operator set it up."""

    kind: str
    """`password`, or `certificate`: every client needs one then."""
    namespace: Namespace
    run: Path
    pki: KubePki
    etcd: Etcd = field(init=False)

    def __post_init__(self) -> None:
        self.pki.server("127.0.0.1")
        files = {name: str(self.pki.folder / name) for name in ("server.crt", "server.key")}
        flags = ["--cert-file", files["server.crt"], "--key-file", files["server.key"]]
        flags += ["--auth-token-ttl", str(TOKEN)]
        if self.kind == "certificate":
            flags += ["--client-cert-auth", "--trusted-ca-file", str(self.pki.ca)]
        self.etcd = Etcd(
            self.run, namespace=self.namespace, scheme="https", flags=flags, ctl_flags=()
        )
        self.etcd.ctl_flags = self.flags("root") if self.kind == "certificate" else self._tls
        self.etcd.start()

    def credential(self, user: str) -> tuple[str, ...]:
        """What `roles.sh` is told of how a user will prove who it is."""
        if self.kind == "certificate":
            return ("--certificate",)
        return ("--password-file", str(self.password(user)))

    def password(self, user: str) -> Path:
        path = self.run / f"{user}.password"
        path.write_text(f"secret-of-{user}\n", encoding="ascii")
        return path

    def roles(self, *arguments: str, by: str = "root") -> str:
        """`roles.sh`: all that it says; raises CommandError."""
        env = {"ETCDCTL_ENDPOINTS": self.etcd.endpoint, "ETCDCTL_CACERT": str(self.pki.ca)}
        if self.kind == "certificate":
            cert, key = self.pki.client(by)
            env |= {"ETCDCTL_CERT": str(cert), "ETCDCTL_KEY": str(key)}
        else:
            env |= {"ETCDCTL_USER": by, "ETCDCTL_PASSWORD": f"secret-of-{by}"}
        script = ("bash", "-c", '"$0" "$@" 2>&1', ROLES)
        try:
            return self.namespace.run(*script, *arguments, env=env)
        except CommandError as error:
            raise CommandError(("roles.sh", *arguments), error.status, "", error.output) from error

    def make(self) -> None:
        """All users, and then etcd asks for them."""
        self.roles("operator", *self.credential("operator"))
        self.roles("node", "edge2", *self.credential("edge2"))
        self.roles("node", "edge3", *self.credential("edge3"))
        self.roles("enable", *self.credential("root"))
        self.etcd.ctl_flags = self.flags("root")

    def flags(self, user: str) -> tuple[str, ...]:
        """etcdctl's flags for a user."""
        if self.kind == "certificate":
            cert, key = self.pki.client(user)
            return (*self._tls, "--cert", str(cert), "--key", str(key))
        return (*self._tls, "--user", f"{user}:secret-of-{user}")

    @property
    def _tls(self) -> tuple[str, ...]:
        return ("--cacert", str(self.pki.ca))

    def ctl(self, user: str, *arguments: str, stdin: str | None = None) -> str:
        """etcdctl as a user; raises CommandError."""
        argv = ("etcdctl", "--endpoints", self.etcd.endpoint, *self.flags(user), *arguments)
        return self.namespace.run(*argv, stdin=stdin, env={"ETCDCTL_API": "3"})

    def refused(self, user: str, *arguments: str, stdin: str | None = None) -> bool:
        """Whether etcd denies a user this; any other failure is raised."""
        try:
            self.ctl(user, *arguments, stdin=stdin)
        except CommandError as error:
            if "permission denied" not in error.errors:
                raise
            return True
        return False

    def lease(self, user: str, key: str) -> str:
        """A user puts a key under a lease of its own; its id."""
        granted = self.ctl(user, "lease", "grant", "60")
        lease = granted.split()[1]
        self.ctl(user, "put", "--lease", lease, key, "x")
        return lease


Make = Callable[[str], Guarded]


@pytest.fixture
def guarded(run_dir: Path, namespace: Callable[[str], Namespace]) -> Make:
    """Make one of a kind, without users: nobody is asked yet."""

    def make(kind: str) -> Guarded:
        return Guarded(kind, namespace("etcd"), run_dir, KubePki(run_dir / "pki"))

    return make


kinds = pytest.mark.parametrize("kind", ["password", "certificate"])


# ---------------------------------------------------------------- who may what


@kinds
def test_a_node_writes_its_own_status_and_nothing_else(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    etcd.ctl("operator", "put", "/fabric/nodes/edge3", json.dumps(EDGE3))
    others = etcd.lease("edge3", "/fabric/status/edge3")

    assert etcd.ctl("edge2", "put", "/fabric/status/edge2", "up") == "OK\n"
    assert etcd.ctl("edge2", "get", "--keys-only", "--prefix", "/fabric/").split() == [
        "/fabric/nodes/edge3",
        "/fabric/status/edge2",
        "/fabric/status/edge3",
    ]
    for key in (
        "/fabric/status/edge3",
        "/fabric/status/edge22",
        "/fabric/status/",
        "/fabric/nodes/edge2",
        "/fabric/nodes/edge3",
        "/fabric/communities/app1",
        "/fabric",
        "/registry/secrets",
    ):
        assert etcd.refused("edge2", "put", key, "x"), key
        assert etcd.refused("edge2", "del", key), key
        assert etcd.refused("edge2", "txn", stdin=f"\nput {key} x\n\n\n"), key
    assert etcd.refused("edge2", "del", "--prefix", "/fabric/status/edge2")
    assert etcd.refused("edge2", "get", "/registry/secrets")
    assert etcd.refused("edge2", "lease", "revoke", others)
    assert etcd.refused("edge2", "put", "--lease", others, "/fabric/status/edge2", "x")
    assert etcd.refused("edge2", "user", "list")
    assert etcd.refused("edge2", "role", "grant-permission", "/fabric/nodes/edge2", "write", "/a")
    assert etcd.ctl("operator", "get", "/fabric/status/edge3").split() == [
        "/fabric/status/edge3",
        "x",
    ]


@kinds
def test_an_operator_writes_records_and_no_status(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    etcd.ctl("edge2", "put", "/fabric/status/edge2", "up")

    for key in ("/fabric/nodes/edge9", "/fabric/communities/app1"):
        assert etcd.ctl("operator", "put", key, "{}") == "OK\n"
        assert etcd.ctl("operator", "del", key) == "1\n"
    assert etcd.ctl("operator", "get", "--print-value-only", "/fabric/status/edge2") == "up\n"
    for key in ("/fabric/status/edge2", "/fabric/nodes", "/fabric/other", "/registry/secrets"):
        assert etcd.refused("operator", "put", key, "x"), key
        assert etcd.refused("operator", "del", key), key
    assert etcd.refused("operator", "user", "list")


@kinds
def test_who_has_no_role_may_nothing(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    etcd.etcd.ctl("user", "add", "guest:secret-of-guest")

    assert etcd.refused("guest", "get", "/fabric/nodes/edge2")
    nobody = ("etcdctl", "--endpoints", etcd.etcd.endpoint, "--cacert", etcd.pki.ca)
    with pytest.raises(CommandError):
        etcd.namespace.run(*nobody, "get", "/fabric/nodes/edge2", env={"ETCDCTL_API": "3"})


def test_another_prefix_is_another_fabric(guarded: Make) -> None:
    etcd = guarded("certificate")
    etcd.roles("node", "edge2", "--prefix", "/site/two", "--user", "two-edge2", "--certificate")
    etcd.make()

    assert etcd.ctl("two-edge2", "put", "/site/two/status/edge2", "up") == "OK\n"
    assert etcd.refused("two-edge2", "get", "/fabric/nodes/edge2")
    assert etcd.refused("edge2", "get", "/site/two/nodes/edge2")


@pytest.mark.parametrize(
    ("kind", "heading"), [("password", "By password"), ("certificate", "By certificate")]
)
def test_set_up_by_the_words_of_the_docs(guarded: Make, kind: str, heading: str) -> None:
    etcd = guarded(kind)
    etcd.pki.client("root")
    for user in ("operator", "edge2", "root"):
        etcd.password(user).rename(etcd.pki.folder / f"{user}.password")
    [words] = page.commands("docs/etcd.md", heading)
    words = words.replace("10.20.8.141", "127.0.0.1").replace("contrib/etcd/roles.sh", str(ROLES))
    given = {"ETCDCTL_ENDPOINTS": etcd.etcd.endpoint, "ETCDCTL_CACERT": "ca.crt"}

    etcd.namespace.run("bash", "-ec", f"cd {etcd.pki.folder}\n{words}", env=given)

    etcd.ctl("operator", "put", "/fabric/nodes/edge2", json.dumps(EDGE2))
    assert etcd.ctl("edge2", "put", "/fabric/status/edge2", "up") == "OK\n"
    assert etcd.refused("edge2", "put", "/fabric/nodes/edge2", "x")


# ---------------------------------------------------------------- the script


def everything(etcd: Guarded) -> dict[str, str]:
    """All users and roles."""
    users, roles = (etcd.etcd.ctl(kind, "list").split() for kind in ("user", "role"))
    return {
        **{f"user {name}": etcd.etcd.ctl("user", "get", name) for name in users},
        **{f"role {name}": etcd.etcd.ctl("role", "get", name) for name in roles},
    }


@kinds
def test_done_again_it_changes_nothing(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    before = everything(etcd)

    said = [
        etcd.roles("operator", *etcd.credential("operator")),
        etcd.roles("node", "edge2", *etcd.credential("edge2")),
    ]

    assert everything(etcd) == before
    # It has etcd change nothing at all, but a password: every change has all users log in anew.
    assert said == (["", ""] if kind == "certificate" else ["Password updated\n"] * 2)
    etcd.roles("enable", *etcd.credential("root"))
    assert everything(etcd) == before
    assert etcd.ctl("edge2", "put", "/fabric/status/edge2", "up") == "OK\n"


def test_what_was_begun_is_completed_and_what_is_too_much_is_named(guarded: Make) -> None:
    etcd = guarded("certificate")
    etcd.etcd.ctl("role", "add", "/fabric/nodes/edge2")
    etcd.etcd.ctl("user", "add", "edge2", "--no-password")
    etcd.make()
    assert etcd.ctl("edge2", "put", "/fabric/status/edge2", "up") == "OK\n"

    etcd.etcd.ctl("role", "grant-permission", "/fabric/nodes/edge2", "write", "/other")
    said = etcd.roles("node", "edge2", "--certificate")
    assert "the role /fabric/nodes/edge2 grants something else beside" in said


def test_another_password_is_another_password(guarded: Make) -> None:
    etcd = guarded("password")
    etcd.make()
    other = etcd.run / "other"
    other.write_text("another", encoding="ascii")
    etcd.roles("node", "edge2", "--password-file", str(other))

    with pytest.raises(CommandError, match="invalid user ID or password"):
        etcd.ctl("edge2", "get", "/fabric/nodes/edge2")
    etcd.roles("node", "edge2", *etcd.credential("edge2"))
    assert etcd.ctl("edge2", "get", "/fabric/nodes/edge2") == ""


def test_a_node_that_is_forgotten_may_nothing(guarded: Make) -> None:
    etcd = guarded("certificate")
    etcd.make()
    before = everything(etcd)
    etcd.roles("node", "edge4", "--certificate")
    assert etcd.ctl("edge4", "put", "/fabric/status/edge4", "up") == "OK\n"

    etcd.roles("forget", "edge4")
    etcd.roles("forget", "edge4")
    assert everything(etcd) == before
    assert etcd.refused("edge4", "get", "/fabric/nodes/edge2")


REFUSED = {
    "node root --certificate": "the user root may do everything: choose another with --user",
    "node edge2 --user root --certificate": "the user root may do everything",
    "forget root": "the user root may do everything",
    "node operator --certificate": "the user operator has the role /fabric/operator, not",
    "forget operator": "the user operator has the role /fabric/operator, not",
    "operator edge2 --certificate": "the user edge2 has the role /fabric/nodes/edge2, not",
    "node Edge_2 --certificate": "Edge_2 is no node's name",
    "node edge2": "--password-file FILE or --certificate is missing",
    "node edge2 --password-file {blank}": "a password with blanks in it can't be told",
    "node edge2 --password-file {empty}": "is empty: it has to hold a password",
    "node edge2 --password-file {absent}": "No such file",
    "node edge2 --password-file {good}": "it was made for a certificate",
    "node edge2 --prefix fabric --certificate": "--prefix fabric: has to begin with /",
    "node edge2 --force": "roles.sh node NAME",
    "remove edge2": "roles.sh node NAME",
    "node": "roles.sh node NAME",
    "": "roles.sh node NAME",
}


def test_what_makes_no_sense_is_refused_and_changes_nothing(guarded: Make) -> None:
    etcd = guarded("certificate")
    etcd.make()
    files = {"absent": etcd.run / "absent"}
    for name, text in {"blank": "pass word\n", "empty": "", "good": "good\n"}.items():
        files[name] = etcd.run / name
        files[name].write_text(text, encoding="ascii")
    before = everything(etcd)

    for words, message in REFUSED.items():
        with pytest.raises(CommandError, match=re.escape(message)):
            etcd.roles(*words.format(**files).split())
        assert everything(etcd) == before, words


def test_it_does_not_lock_everybody_out(guarded: Make) -> None:
    etcd = guarded("certificate")
    etcd.roles("operator", "--certificate")
    with pytest.raises(CommandError, match="no certificate with the CN root"):
        etcd.roles("enable", "--certificate", by="operator")
    assert etcd.ctl("operator", "put", "/other", "x") == "OK\n", "etcd asks nobody yet"


# ---------------------------------------------------------------- a node's daemon


def start(etcd: Guarded) -> Process:
    """edge2's fabricd, in etcd's namespace, with no charon."""
    fabricd = Path(sys.executable).with_name("fabricd")
    return etcd.namespace.popen(fabricd, "--config", config(etcd, "edge2"), name="edge2-fabricd")


def config(etcd: Guarded, user: str) -> Path:
    """A config that goes to the store as a user."""
    if etcd.kind == "certificate":
        cert, key = etcd.pki.client(user)
        credential = f'cert = "{cert}"\nkey = "{key}"'
    else:
        credential = f'username = "{user}"\npassword_file = "{etcd.password(user)}"'
    path = etcd.run / f"{user}.toml"
    path.write_text(
        CONFIG.format(
            endpoint=etcd.etcd.endpoint, ca=etcd.pki.ca, credential=credential, run=etcd.run
        ),
        encoding="utf-8",
    )
    return path


def fabricctl(etcd: Guarded, user: str, *arguments: str) -> str:
    program = Path(sys.executable).with_name("fabricctl")
    return etcd.namespace.run(program, *arguments, "--config", config(etcd, user))


def put(etcd: Guarded, user: str, name: str, record: Record) -> str:
    path = etcd.run / f"{name}.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return fabricctl(etcd, user, "node", "put", name, "--file", str(path))


def peers_published(etcd: Guarded) -> list[str]:
    """The peers in the status that edge2 has put into the store, or that there is none."""
    found = etcd.etcd.get("/fabric/status/edge2")
    return [peer["name"] for peer in json.loads(found)["peers"]] if found else ["no status"]


def lease(etcd: Guarded) -> int:
    """The lease of edge2's status."""
    [found] = json.loads(etcd.etcd.ctl("get", "/fabric/status/edge2", "-w", "json"))["kvs"]
    return int(found["lease"])


@kinds
def test_fabricd_does_its_work_as_its_node_s_user(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    assert put(etcd, "operator", "edge2", EDGE2) == "nodes/edge2: written\n"
    fabricd = start(etcd)
    watch = [fabricd]
    wait_until(lambda: peers_published(etcd) == [], "its status is published", watch=watch)
    first = lease(etcd)
    assert first != 0

    # Each token has run out by the time of the next record: the change still comes in, by the
    # watch, and the status still goes out.
    alone = {**EDGE3, "community": "x"}
    for record, peers in ((EDGE3, ["edge3"]), (alone, []), (EDGE3, ["edge3"])):
        time.sleep(2 * TOKEN)  # nothing tells when a token ends
        put(etcd, "operator", "edge3", record)
        wait_until(lambda: peers_published(etcd) == peers, f"peers {peers}", watch=watch)  # noqa: B023  # called now
    assert lease(etcd) == first

    # etcd forgets tokens when it starts, users not.
    etcd.etcd.restart()
    put(etcd, "operator", "edge3", alone)
    wait_until(lambda: peers_published(etcd) == [], "it goes on", watch=watch)

    # What was made anew or in other words meanwhile: nothing is missed.
    etcd.roles("node", "edge4", *etcd.credential("edge4"))
    etcd.roles("node", "edge2", *etcd.credential("edge2"))
    put(etcd, "operator", "edge3", EDGE3)
    wait_until(lambda: peers_published(etcd) == ["edge3"], "it goes on", watch=watch)


@kinds
def test_with_a_node_s_user_fabricctl_reads_and_does_not_write(guarded: Make, kind: str) -> None:
    etcd = guarded(kind)
    etcd.make()
    put(etcd, "operator", "edge2", EDGE2)

    listed = json.loads(fabricctl(etcd, "edge2", "node", "list", "-o", "json"))
    assert [node["name"] for node in listed["nodes"]] == ["edge2"]
    with pytest.raises(CommandError) as refused:
        put(etcd, "edge2", "edge3", EDGE3)
    assert refused.value.status == 1
    assert "permission denied: the user needs a role with write on /fabric/nodes/edge3" in (
        refused.value.errors
    )
    with pytest.raises(CommandError, match="needs a role with write on /fabric/nodes/edge2"):
        fabricctl(etcd, "edge2", "node", "delete", "edge2")
    assert etcd.etcd.keys("/fabric/nodes/") == ["/fabric/nodes/edge2"]
