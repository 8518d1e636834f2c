"""A cluster for tests, in the test's own process: `kube_server` on loopback behind a TCP proxy that
can fail in the ways networks do, and the store that reads from it.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import trio

from fabricd.core.events import Changed, Event, Listed, Put
from fabricd.sources import Store
from fabricd.sources.kube import KubeStore
from fabricd.sources.kube_access import Kubeconfig
from tests.lab.kube_api import KINDS, Kind, KubeApi, Object
from tests.lab.kube_pki import KubePki
from tests.lab.kube_server import KubeServer

NODES, EVENTS, COMMUNITIES, FABRIC_NODES = KINDS.values()

TOKEN = "token-of-the-operator"


class KubeCluster:
    """An API server with TLS and these kinds, its proxy, and a kubeconfig for it."""

    def __init__(
        self,
        folder: Path,
        nursery: trio.Nursery,
        kinds: Mapping[str, Kind] = MappingProxyType(KINDS),
    ) -> None:
        self.pki = KubePki(folder)
        self.pki.server("127.0.0.1")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.pki.ca)
        tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        tls.verify_mode = ssl.CERT_OPTIONAL
        self.api = KubeApi(dict(kinds))
        self.server = KubeServer(self.api, tls, tokens={TOKEN: "operator"})
        self.proxy = Proxy(nursery, self.server.serve)
        self.kubeconfig = self.pki.kubeconfig(self.proxy.url, token=TOKEN)

    def store(self, kubeconfig: Path | None = None, **options: Any) -> KubeStore:
        """A client; its watches last a second, so that many follow one another."""
        settings: dict[str, Any] = {"rng": random.Random(1), "watch_seconds": 1, "patience": 1.0}
        settings |= options
        return KubeStore(Kubeconfig(kubeconfig or self.kubeconfig), **settings)

    def add(
        self,
        name: str,
        role: str | None = "edge",
        annotations: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        cidr: str = "",
        addresses: dict[str, str] | None = None,
    ) -> Object:
        """A Node."""
        all_labels = {**({"fabricd.io/role": role} if role is not None else {}), **(labels or {})}
        spec = {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}
        listed = [{"type": kind, "address": at} for kind, at in (addresses or {}).items()]
        return self.api.create(
            NODES,
            {
                "metadata": {
                    "name": name,
                    "labels": all_labels,
                    "annotations": dict(annotations or {}),
                },
                "spec": spec,
                "status": {"addresses": listed},
            },
        )

    def label(self, name: str, **labels: str | None) -> None:
        """`kubectl label node`: `fabricd_io__role` is `fabricd.io/role`."""
        changes = {k.replace("__", "/").replace("_", "."): v for k, v in labels.items()}
        self.api.patch(NODES, name, {"metadata": {"labels": changes}})

    def annotate(self, name: str, **annotations: str | None) -> None:
        """`kubectl annotate node`, each below `fabricd.io/`."""
        changes = {f"fabricd.io/{k}": v for k, v in annotations.items()}
        self.api.patch(NODES, name, {"metadata": {"annotations": changes}})


class Proxy:
    """Passes TCP on to a server; or lets none in, or is silent, or cuts what is idle."""

    def __init__(self, nursery: trio.Nursery, serve: Callable[[trio.SocketListener], Any]) -> None:
        self._nursery = nursery
        self._inner = _listen(0)
        self._inner_port = self._inner.getsockname()[1]
        nursery.start_soon(serve, trio.SocketListener(self._inner))
        self.port = 0
        self.idle: float = float("inf")
        """Seconds without a byte after which a connection is closed."""
        self._running = trio.Event()
        self._running.set()
        self._scope = trio.CancelScope()
        self.connections = 0
        """How many there have been."""
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the port of the last time."""
        self._listening = _listen(self.port)
        self.port = self._listening.getsockname()[1]
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, self._listening, self._scope)

    def stop(self) -> None:
        """Break all connections off, and take no new ones."""
        self._scope.cancel()
        self._listening.close()

    def freeze(self) -> None:
        """Connections are taken and kept open, and nothing comes through."""
        self._running = trio.Event()

    def thaw(self) -> None:
        self._running.set()

    async def _serve(self, listening: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        with scope, suppress(trio.ClosedResourceError, OSError):
            await trio.serve_listeners(self._pass, [trio.SocketListener(listening)])

    async def _pass(self, outer: trio.SocketStream) -> None:
        self.connections += 1
        inner = await trio.open_tcp_stream("127.0.0.1", self._inner_port)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, outer, inner, nursery.cancel_scope)
                nursery.start_soon(self._pump, inner, outer, nursery.cancel_scope)
        finally:
            await trio.aclose_forcefully(outer)
            await trio.aclose_forcefully(inner)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            while True:
                with trio.fail_after(self.idle):
                    data = await source.receive_some(65536)
                if not data:
                    break
                await self._running.wait()
                await sink.send_all(data)
        scope.cancel()


def _listen(port: int) -> trio.socket.SocketType:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    return trio.socket.from_stdlib_socket(sock)


class AsText(Store):
    """A store whose records are whatever text a test likes, kept as real ones: a node's in its
    identity, a community's in its members.
    """

    def __init__(self, store: KubeStore, cluster: KubeCluster) -> None:
        self._store = store
        self._cluster = cluster

    async def run(self, feed: Callable[[Event], None]) -> NoReturn:
        await self._store.run(lambda event: feed(_as_text(event)))

    async def list(self) -> tuple[Put, ...]:
        return tuple(map(_put_as_text, await self._store.list()))

    async def put(self, key: str, value: bytes) -> None:
        folder, name = key.split("/")
        record: Object = {"members": [value.decode()]}
        if folder == "nodes":
            record = {"subnets": ["2.2.2.0/27"], "identity": value.decode()}
            if ("nodes", name) not in self._cluster.api.objects:
                self._cluster.add(name, role=None)
        await self._store.put(key, json.dumps(record).encode())

    async def delete(self, key: str) -> bool:
        return await self._store.delete(key)

    async def publish(self, key: str, value: bytes) -> None:
        await self._store.publish(key, value)

    async def aclose(self) -> None:
        await self._store.aclose()


def _as_text(event: Event) -> Event:
    match event:
        case Listed(records):
            return Listed(tuple(map(_put_as_text, records)))
        case Changed(changes):
            return Changed(tuple(_put_as_text(c) if isinstance(c, Put) else c for c in changes))
    return event


def _put_as_text(put: Put) -> Put:
    record = json.loads(put.value)
    text = record["identity"] if put.key.startswith("nodes/") else record["members"][0]
    return Put(put.key, text.encode(), put.created)
