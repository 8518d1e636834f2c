"""What a node has to say, where kubectl shows it: its status document in a FabricNode that its
Node owns, and an Event on a Node whose record is rejected.

Everybody sees every rejection. So that a wrong label does not become an Event from each node, a
node tells of its own record only, and a gateway of all, under a name that they have in common.

May not know what else is in the document.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import quote

import msgspec
import trio

from fabricd.errors import Unavailable
from fabricd.sources.backoff import Backoff
from fabricd.sources.kube_client import JSON_PATCH, MERGE_PATCH, KubeClient, Refused
from fabricd.sources.kube_records import NODES, KubeNode, place
from fabricd.sources.kube_write import API, read_node, split

FABRIC_NODES: Final = f"{API}/fabricnodes"

EVENTS_NAMESPACE: Final = "default"
"""Where Events about objects without a namespace live."""


class _OwnerReference(msgspec.Struct, frozen=True):
    uid: str = ""


class _FabricNodeMeta(msgspec.Struct, frozen=True, rename="camel"):
    owner_references: list[_OwnerReference] | None = None


class _FabricNode(msgspec.Struct, frozen=True):
    metadata: _FabricNodeMeta


class StatusWriter:
    """Writes documents. `now`: Unix seconds; `backoff`: between attempts to write one again."""

    def __init__(self, client: KubeClient, now: Callable[[], float], backoff: Backoff) -> None:
        self._client = client
        self._now = now
        self._backoff = backoff
        self._told: set[str] = set()
        """Names of the Events that are there."""
        self._last: tuple[str, bytes] | None = None
        """What was published last: the Node's name and the document."""
        self._owner = ""
        """The Node's uid at that time."""
        self._ownerless = trio.Event()
        self._writing = trio.Lock()

    async def publish(self, key: str, value: bytes) -> None:
        """Write the document of `status/NAME`. Raises Unavailable."""
        _, name = split(key)
        async with self._writing:
            await self._publish(name, value)

    def saw(self, name: str, uid: str) -> None:
        """A Node is there. If it is ours and was made anew, what the old one owned is collected."""
        if self._last is not None and name == self._last[0] and uid != self._owner:
            self._ownerless.set()

    async def keep(self) -> NoReturn:
        """Write what was published last again, whenever a new Node has to own it."""
        while True:
            await self._ownerless.wait()
            self._ownerless = trio.Event()
            async with self._writing:
                assert self._last is not None, "saw() waits for it"
                try:
                    await self._publish(*self._last)
                    self._backoff.reset()
                except Unavailable:
                    self._ownerless.set()
            if self._ownerless.is_set():
                await trio.sleep(self._backoff.next())

    async def _publish(self, name: str, value: bytes) -> None:
        node = await read_node(self._client, name)
        if node is None:
            raise Unavailable("store", f"there is no Node {name} that could own its FabricNode")
        document = msgspec.json.decode(value, type=dict[str, Any])
        await self._write(node, document)
        self._last, self._owner = (name, value), node.metadata.uid
        everybody = document.get("role") == "cloud"
        await self._tell(node, document.get("rejected", []), everybody=everybody)

    async def _write(self, node: KubeNode, document: dict[str, Any]) -> None:
        name = node.metadata.name
        path = f"{FABRIC_NODES}/{quote(name, safe='')}"
        # "add" replaces what is there as a whole (RFC 6902, 4.1): no old peer stays behind.
        change = [{"op": "add", "path": "/status", "value": status_of(document)}]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}
        metadata = {"name": name, "ownerReferences": [owner]}

        async def write() -> bytes:
            return await self._client.call(
                "PATCH", f"{path}/status", body=change, content_type=JSON_PATCH
            )

        try:
            answer = await write()
        except Refused as error:
            if error.code != HTTPStatus.NOT_FOUND or not error.known:
                raise
            body = {"apiVersion": "fabricd.io/v1", "kind": "FabricNode", "metadata": metadata}
            await self._client.call("POST", FABRIC_NODES, body=body)
            answer = await write()
        owners = msgspec.json.decode(answer, type=_FabricNode).metadata.owner_references or ()
        if [each.uid for each in owners] != [node.metadata.uid]:
            # The Node was deleted and made anew: the cluster is about to collect what the old
            # one owned.
            await self._client.call(
                "PATCH", path, body={"metadata": metadata}, content_type=MERGE_PATCH
            )

    async def _tell(
        self, own: KubeNode, rejected: list[dict[str, str]], *, everybody: bool
    ) -> None:
        standing = set()
        for item in rejected:
            folder, name = item["key"].split("/")[-2:]
            if folder != NODES or not (everybody or name == own.metadata.name):
                continue
            digest = sha256(f"{item['field']}\0{item['reason']}".encode()).hexdigest()[:16]
            event = f"{name[:200]}.fabricd.{digest}"
            standing.add(event)
            if event not in self._told:
                # The status stands; an Event is a courtesy, tried again with the next one.
                with suppress(Unavailable):
                    await self._post(event, name, item, own.metadata.name)
                    self._told.add(event)
        self._told &= standing

    async def _post(self, event: str, name: str, item: dict[str, str], host: str) -> None:
        node = await read_node(self._client, name)
        if node is None:
            return
        moment = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event, "namespace": EVENTS_NAMESPACE},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": name,
                "uid": name,  # as kubelets have it: kubectl before 1.24 shows no other
            },
            "type": "Warning",
            "reason": "RecordRejected",
            "message": f"{place(item['field'], node)}: {item['reason']}"[:1024],
            "source": {"component": "fabricd", "host": host},
            "reportingComponent": "fabricd",
            "reportingInstance": host,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        try:
            path = f"/api/v1/namespaces/{EVENTS_NAMESPACE}/events"
            await self._client.call("POST", path, body=body)
        except Refused as error:
            if error.code != HTTPStatus.CONFLICT:  # another one told of it
                raise


def status_of(document: dict[str, Any]) -> dict[str, Any]:
    """`status` of a FabricNode: the document, and what its columns show."""
    peers = document.get("peers", [])
    return {
        "peers": len(peers),
        "up": sum(1 for peer in peers if peer.get("up")),
        "rejected": len(document.get("rejected", [])),
        "synced": bool(document.get("synced")),
        "document": document,
    }
