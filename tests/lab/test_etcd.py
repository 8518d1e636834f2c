"""etcd's own troubles: deaths, wipes, compaction, freezes, authentication, leases, TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fabricd.core.events import Changed, Delete, Put
from fabricd.errors import Unavailable
from fabricd.sources import EtcdStore, etcd_watch, parse_endpoint
from fabricd.sources.etcd_client import Credentials, EtcdClient
from fabricd.sources.store import HistoryGone
from lab.etcd import Etcd, free_port
from lab.process import command, wait_until
from tests.lab.followed import following

PREFIX = "/fabric"


@pytest.fixture
async def stores() -> AsyncIterator[Callable[..., EtcdStore]]:
    """Make stores: `stores(endpoint, …)`. They are closed after the test."""
    made: list[EtcdStore] = []

    def make(*endpoints: str, **options: object) -> EtcdStore:
        made.append(EtcdStore(endpoints, PREFIX, rng=random.Random(1), **options))  # type: ignore[arg-type]  # passed on
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@dataclass
class Cable:
    """A TCP connection to etcd that can be cut and mended, so that only we lose it."""

    etcd: Etcd
    endpoint: str = ""
    whole: bool = True
    cuts: set[trio.CancelScope] = field(default_factory=set)

    def cut(self) -> None:
        self.whole = False
        for scope in self.cuts:
            scope.cancel()

    def mend(self) -> None:
        self.whole = True

    async def serve(self, client: trio.SocketStream) -> None:
        async with client:
            with trio.CancelScope() as scope:
                self.cuts.add(scope)
                if self.whole:
                    await self._connect(client)
            self.cuts.discard(scope)

    async def _connect(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.etcd.port)
        except OSError:
            return
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, server, nursery.cancel_scope)
            nursery.start_soon(_copy, server, client, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except trio.BrokenResourceError:
        pass
    both.cancel()


@asynccontextmanager
async def cable_to(etcd: Etcd) -> AsyncIterator[Cable]:
    cable = Cable(etcd)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, cable.serve, 0)
        cable.endpoint = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield cable
        nursery.cancel_scope.cancel()


def transaction(etcd: Etcd, *requests: str) -> None:
    """etcdctl txn: no compares, these requests, nothing otherwise."""
    etcd.ctl("txn", stdin="\n" + "\n".join(requests) + "\n\n\n")


def fill(etcd: Etcd, keys: Iterable[str], value: str = "x") -> None:
    requests = [f"put {PREFIX}/{key} {value}" for key in keys]
    for start in range(0, len(requests), 100):  # etcd takes 128 in one transaction
        transaction(etcd, *requests[start : start + 100])


# ---------------------------------------------------------------- what etcd can tell


async def test_one_transaction_is_one_changed(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    etcd.put(f"{PREFIX}/nodes/old", "x")
    async with following(stores(etcd.endpoint)) as seen:
        await seen.until(lambda: seen.in_sync)
        transaction(
            etcd,
            f"put {PREFIX}/nodes/edge1 one",
            f"put {PREFIX}/status/edge1 up",
            f"del {PREFIX}/nodes/old",
            f"put {PREFIX}/communities/app1 app",
        )
        transaction(etcd, f"put {PREFIX}/status/edge1 down")
        etcd.put(f"{PREFIX}/nodes/edge2", "two")
        await seen.until(lambda: "nodes/edge2" in seen.records)
    _, first, second = seen.events
    assert isinstance(first, Changed)
    assert isinstance(second, Changed)
    assert {change.key for change in first.changes} == {
        "nodes/edge1",
        "nodes/old",
        "communities/app1",
    }
    assert Delete("nodes/old") in first.changes
    assert [change.key for change in second.changes] == ["nodes/edge2"]


async def test_created_is_the_rank_of_creation(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    etcd.put(f"{PREFIX}/nodes/first", "x")
    etcd.put(f"{PREFIX}/nodes/second", "x")
    etcd.put(f"{PREFIX}/nodes/first", "y")
    listed = {put.key: put.created for put in await stores(etcd.endpoint).list()}
    assert 0 < listed["nodes/first"] < listed["nodes/second"]


async def test_a_snapshot_of_many_pages_is_of_one_moment(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    """First and last key are always written together, so they are always equal."""
    fill(etcd, [f"nodes/n{number:04}" for number in range(3000)])
    store, moments = stores(etcd.endpoint), set[bytes]()

    def keep_writing() -> None:
        for number in range(50):
            put = [f"put {PREFIX}/{key} {number}" for key in ("communities/a", "nodes/z")]
            transaction(etcd, *put)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, keep_writing)
        while b"49" not in moments:
            first, *middle, last = await store.list()
            if last.key == "nodes/z":
                assert first.value == last.value
                assert len(middle) == 3000
                moments.add(first.value)
    assert len(moments) > 10


# ---------------------------------------------------------------- short breaks


async def test_after_a_short_break_the_watch_goes_on_where_it_was(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with cable_to(etcd) as cable, following(stores(cable.endpoint, patience=60)) as seen:
        await seen.until_records(edge1="one")
        cable.cut()
        etcd.put(f"{PREFIX}/nodes/edge2", "two")
        etcd.put(f"{PREFIX}/nodes/edge3", "three")
        etcd.delete(f"{PREFIX}/nodes/edge2")
        cable.mend()
        await seen.until_records(edge1="one", edge3="three")
        assert seen.kinds() == ["Listed", "Changed", "Changed", "Changed"]


async def test_compacted_while_away(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with cable_to(etcd) as cable, following(stores(cable.endpoint, patience=60)) as seen:
        await seen.until_records(edge1="one")
        cable.cut()
        etcd.put(f"{PREFIX}/nodes/edge2", "two")
        etcd.delete(f"{PREFIX}/nodes/edge1")
        etcd.put(f"{PREFIX}/nodes/edge3", "three")
        etcd.compact()
        cable.mend()
        await seen.until_records(edge2="two", edge3="three")
        assert seen.kinds() == ["Listed", "Listed"]


@pytest.mark.parametrize("refill", [0, 50])
async def test_wiped_while_away(etcd: Etcd, stores: Callable[..., EtcdStore], refill: int) -> None:
    """Whether the new store's revisions are below what we saw, or have overtaken it."""
    for number in range(10):
        etcd.put(f"{PREFIX}/nodes/edge1", f"{number}")
    async with following(stores(etcd.endpoint, patience=60)) as seen:
        await seen.until_records(edge1="9")
        etcd.kill()
        shutil.rmtree(etcd.data)
        etcd.start()
        names = [f"edge{number}" for number in range(100, 100 + refill)]
        fill(etcd, [f"other/{name}" for name in names])
        for name in names:
            etcd.put(f"{PREFIX}/nodes/{name}", "x")
        await seen.until_records(**dict.fromkeys(names, "x"))
        assert "Listed" in seen.kinds()[1:]
        assert not seen.lost()
        etcd.put(f"{PREFIX}/nodes/last", "x")
        await seen.until_records(**dict.fromkeys([*names, "last"], "x"))


async def test_a_watch_from_the_future_is_not_taken_for_peace(etcd: Etcd) -> None:
    """Of a store that was wiped between the look at its history and the watch."""
    client = EtcdClient([parse_endpoint(etcd.endpoint)], Credentials(), random.Random(1), 5)
    with pytest.raises(HistoryGone, match="went back from revision 999 to"):
        await etcd_watch.watch(client, b"a", b"b", 1000, opened=print, deliver=print)
    await client.aclose()


async def test_restored_from_a_backup_while_away(
    etcd: Etcd, stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "saved")
    backup = tmp_path / "backup"
    etcd.ctl("snapshot", "save", str(backup))
    etcd.put(f"{PREFIX}/nodes/edge1", "unsaved")
    etcd.put(f"{PREFIX}/nodes/edge2", "unsaved")
    async with following(stores(etcd.endpoint)) as seen:
        await seen.until_records(edge1="unsaved", edge2="unsaved")
        etcd.kill()
        shutil.rmtree(etcd.data)
        peer = f"http://127.0.0.1:{etcd.peer_port}"
        etcd.ctl(
            *("snapshot", "restore", str(backup), "--data-dir", str(etcd.data)),
            *("--name", etcd.name, "--initial-cluster", f"{etcd.name}={peer}"),
            *("--initial-advertise-peer-urls", peer),
        )
        etcd.start()
        for _ in range(5):
            etcd.put(f"{PREFIX}/status/edge1", "x")
        await seen.until_records(edge1="saved")


# ---------------------------------------------------------------- long ones


async def test_killed_and_back(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with following(stores(etcd.endpoint)) as seen:
        await seen.until_records(edge1="one")
        for number in range(3):
            etcd.kill()
            etcd.start()
            etcd.put(f"{PREFIX}/nodes/edge2", f"{number}")
            await seen.until_records(edge1="one", edge2=f"{number}")
        assert seen.deleted == []


async def test_frozen_and_thawed(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with following(stores(etcd.endpoint)) as seen:
        await seen.until_records(edge1="one")
        etcd.freeze()
        await seen.until(seen.lost, timeout=60)
        etcd.thaw()
        etcd.put(f"{PREFIX}/nodes/edge2", "two")
        await seen.until_records(edge1="one", edge2="two")
        assert seen.kinds()[:3] == ["Listed", "Lost", "Listed"]
        assert seen.deleted == []


async def test_silence_on_a_connection_that_lives_is_told_from_peace(
    etcd: Etcd, stores: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "PROGRESS_EVERY", 0.1)
    monkeypatch.setattr(etcd_watch, "SILENCE", 3.0)
    async with following(stores(etcd.endpoint, patience=0)) as seen:
        await seen.until(lambda: seen.in_sync)
        events = len(seen.events)
        await trio.sleep(7)  # nothing is awaited: nothing must happen, for two silences
        assert len(seen.events) == events
        etcd.freeze()
        await seen.until(lambda: not seen.in_sync)
        assert "no sign of life" in seen.lost()[-1]
        etcd.thaw()
        await seen.until(lambda: seen.in_sync)


async def test_nobody_there_costs_next_to_nothing(stores: Callable[..., EtcdStore]) -> None:
    store = stores(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")
    async with following(store) as seen:
        began, used = trio.current_time(), time.process_time()
        await seen.until(seen.lost)
        await trio.sleep(1)  # not waiting for anything: this is what is measured
        share = (time.process_time() - used) / (trio.current_time() - began)
    assert share < 0.2
    assert seen.kinds() == ["Lost"]
    assert seen.lost()[0].count("onnection refused") == 2, "it names both endpoints"


async def test_another_endpoint_takes_over(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with cable_to(etcd) as cable, cable_to(etcd) as spare:
        store = stores(cable.endpoint, spare.endpoint, patience=60)
        async with following(store) as seen:
            await seen.until_records(edge1="one")
            for broken, whole in ((cable, spare), (spare, cable), (cable, spare)):
                whole.mend()
                broken.cut()
                known = len(seen.records)
                etcd.put(f"{PREFIX}/nodes/edge{known + 1}", "x")
                await seen.until(lambda known=known: len(seen.records) > known)  # type: ignore[misc]  # bound now
            assert seen.kinds() == ["Listed", "Changed", "Changed", "Changed"]
        assert len(await store.list()) == 4


async def test_a_frozen_endpoint_is_passed_over(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    async with cable_to(etcd) as whole:
        etcd.put(f"{PREFIX}/nodes/edge1", "one")
        with trio.socket.socket() as silent:  # takes connections, says nothing
            await silent.bind(("127.0.0.1", 0))
            silent.listen()
            deaf = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for _ in range(2):  # whichever is tried first
                store = stores(deaf, whole.endpoint, timeout=2)
                assert [put.key for put in await store.list()] == ["nodes/edge1"]
                store = stores(whole.endpoint, deaf, timeout=2)
                assert [put.key for put in await store.list()] == ["nodes/edge1"]


# ---------------------------------------------------------------- who may


@pytest.fixture
def guarded(run_dir: Path) -> Etcd:
    """etcd with authentication: user `root`, user `fabricd` without any role; tokens of 1 s."""
    etcd = Etcd(run_dir, flags=("--auth-token-ttl", "1"))
    etcd.start()
    etcd.ctl("user", "add", "root:secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("user", "add", "fabricd:pass word")
    etcd.ctl("role", "add", "fabric")
    etcd.ctl("auth", "enable")
    etcd.ctl_flags = ("--user", "root:secret")
    return etcd


def grant(etcd: Etcd) -> None:
    etcd.ctl("role", "grant-permission", "fabric", "--prefix=true", "readwrite", f"{PREFIX}/")
    etcd.ctl("user", "grant-role", "fabricd", "fabric")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("pass word\n")
    return path


async def test_a_user_without_a_role_is_told_what_it_needs(
    guarded: Etcd, stores: Callable[..., EtcdStore], password: Path
) -> None:
    store = stores(guarded.endpoint, username="fabricd", password_file=password)
    async with following(store) as seen:
        await seen.until(seen.lost)
        assert seen.kinds() == ["Lost"]
        assert "permission denied" in seen.lost()[0]
        assert f"read on the prefix {PREFIX}/" in seen.lost()[0]
        grant(guarded)
        guarded.put(f"{PREFIX}/nodes/edge1", "one")
        await seen.until_records(edge1="one")


async def test_a_token_that_ran_out_is_replaced(
    guarded: Etcd, stores: Callable[..., EtcdStore], password: Path
) -> None:
    grant(guarded)
    async with cable_to(guarded) as cable:
        store = stores(cable.endpoint, username="fabricd", password_file=password)
        operator = stores(guarded.endpoint, username="fabricd", password_file=password)
        async with following(store) as seen:
            await seen.until(lambda: seen.in_sync)
            for number in range(3):
                await operator.put("nodes/edge1", b"%d" % number)
                await seen.until_records(edge1=f"{number}")
                if number == 1:
                    cable.cut()
                    cable.mend()
                await trio.sleep(2)  # twice what a token lives
            assert await operator.delete("nodes/edge1")
            await seen.until_records()
            assert await store.list() == ()


async def test_a_wrong_password_is_named(
    guarded: Etcd, stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    path = tmp_path / "password"
    store = stores(guarded.endpoint, username="fabricd", password_file=path)
    with pytest.raises(Unavailable, match=f"{path}: cannot be read: No such file"):
        await store.list()
    path.write_text("wrong\n")
    with pytest.raises(Unavailable, match="invalid user ID or password"):
        await store.list()
    path.write_text("pass word\n")
    grant(guarded)
    assert await store.list() == ()


async def test_a_password_for_an_etcd_that_wants_none(
    etcd: Etcd, stores: Callable[..., EtcdStore], password: Path
) -> None:
    assert await stores(etcd.endpoint, username="fabricd", password_file=password).list() == ()


async def test_authentication_switched_on_under_way(
    etcd: Etcd, stores: Callable[..., EtcdStore], password: Path
) -> None:
    store = stores(etcd.endpoint, username="fabricd", password_file=password)
    assert await store.list() == ()
    etcd.ctl("user", "add", "root:secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("user", "add", "fabricd:pass word")
    etcd.ctl("role", "add", "fabric")
    grant(etcd)
    etcd.ctl("auth", "enable")
    assert await store.list() == ()


# ---------------------------------------------------------------- TLS


@dataclass
class Pki:
    """A CA and what it signs, for etcd's TLS: PEM files."""

    directory: Path
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def ca(self) -> Path:
        return self._write("ca", self._sign("ca", self.key, authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.directory / f"{name}.key").write_bytes(pem)
        return self._write(name, self._sign(name, key)), self.directory / f"{name}.key"

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.directory / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            address = ipaddress.ip_address("127.0.0.1")
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(self.key, hashes.SHA256())


async def test_tls_both_ways(
    run_dir: Path, tmp_path: Path, stores: Callable[..., EtcdStore]
) -> None:
    pki = Pki(tmp_path)
    ca, (server, server_key), (client, client_key) = pki.ca, pki.issue("etcd"), pki.issue("node")
    etcd = Etcd(
        run_dir,
        scheme="https",
        flags=(
            *("--cert-file", str(server), "--key-file", str(server_key)),
            *("--client-cert-auth", "--trusted-ca-file", str(ca)),
        ),
        ctl_flags=("--cacert", str(ca), "--cert", str(client), "--key", str(client_key)),
    )
    etcd.start()
    etcd.put(f"{PREFIX}/nodes/edge1", "one")
    async with following(stores(etcd.endpoint, ca=ca, cert=client, key=client_key)) as seen:
        await seen.until_records(edge1="one")
    with pytest.raises(Unavailable):
        await stores(etcd.endpoint, ca=ca).list()  # no certificate of ours
    other_place = tmp_path / "other"
    other_place.mkdir()
    stranger = Pki(other_place).ca
    with pytest.raises(Unavailable):
        await stores(etcd.endpoint, ca=stranger, cert=client, key=client_key).list()


# ---------------------------------------------------------------- beside gRPC

CHILDREN = """
import random, subprocess, sys, trio
from fabricd.sources import EtcdStore
subprocess._USE_VFORK = False  # as where vfork(2) fails, or user= is given

async def main():
    store = EtcdStore([sys.argv[1]], "/fabric", rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, lambda event: None)
        for number in range(100):
            await store.put("nodes/edge1", b"x")
            subprocess.run(["true"], check=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


async def test_children_of_a_process_that_holds_a_store_live(etcd: Etcd) -> None:
    command(sys.executable, "-c", CHILDREN, etcd.endpoint, timeout=180)


# ---------------------------------------------------------------- leases


def published(etcd: Etcd, name: str) -> str:
    return etcd.get(f"{PREFIX}/status/{name}")


async def in_thread(condition: Callable[[], object], what: str) -> None:
    await trio.to_thread.run_sync(wait_until, condition, what)


async def test_what_is_published_lasts_while_its_owner_lives(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    store, watcher = stores(etcd.endpoint, lease_ttl=5), stores(etcd.endpoint, lease_ttl=5)
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        await store.publish("status/edge1", b"up")
        await watcher.publish("status/unkept", b"up")  # nobody runs that one
        await in_thread(lambda: not published(etcd, "unkept"), "a lease that nobody keeps ends")
        assert published(etcd, "edge1") == "up"
        etcd.kill()
        etcd.start()
        await in_thread(lambda: published(etcd, "edge1"), "the status survives etcd")
        etcd.wipe()
        await in_thread(lambda: published(etcd, "edge1"), "the status is written again")
        await store.publish("status/edge1", b"still up")
        assert published(etcd, "edge1") == "still up"
        assert etcd.ctl("del", f"{PREFIX}/status/edge1") == "1\n"
        await in_thread(lambda: published(etcd, "edge1"), "deleted by hand it is written again")
    await in_thread(lambda: not published(etcd, "edge1"), "its owner is gone")


async def test_one_lease_for_all_that_is_published(
    etcd: Etcd, stores: Callable[..., EtcdStore]
) -> None:
    store = stores(etcd.endpoint)
    for number in range(5):
        await store.publish("status/edge1", b"%d" % number)
    leases = json.loads(etcd.ctl("lease", "list", "--write-out", "json"))
    assert len(leases["leases"]) == 1
    (lease,) = leases["leases"]
    etcd.ctl("lease", "revoke", f"{lease['id']:x}")
    await store.publish("status/edge1", b"after")
    assert published(etcd, "edge1") == "after"


async def test_put_carries_bytes_as_they_are(etcd: Etcd, stores: Callable[..., EtcdStore]) -> None:
    store = stores(etcd.endpoint)
    await store.put("nodes/edge1", b"\x00\xff{")
    assert [put.value for put in await store.list()] == [b"\x00\xff{"]
    assert isinstance((await store.list())[0], Put)
