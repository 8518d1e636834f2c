"""The operator's writes: a record becomes labels and annotations of its Node, or a Community.

A record never makes or removes a Node: that is the kubelet's and the cluster's affair.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fabricd.core.unreadable import UNREADABLE
from fabricd.errors import Unavailable
from fabricd.sources.kube_client import JSON_PATCH, MERGE_PATCH, KubeClient, Refused
from fabricd.sources.kube_records import COMMUNITIES, NODES, ROLE, KubeNode, node_patch

API: Final = "/apis/fabricd.io/v1"
NODES_PATH: Final = "/api/v1/nodes"
COMMUNITIES_PATH: Final = f"{API}/communities"

ATTEMPTS: Final = 5
"""At a Node that others change at the same time."""


class RecordWriter:
    """Writes and deletes records. Every method raises Unavailable."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def put(self, key: str, value: bytes) -> None:
        """Write the whole record under `nodes/NAME` or `communities/NAME`."""
        folder, name = split(key)
        try:
            record = msgspec.json.decode(value, type=dict[str, Any])
        except UNREADABLE as error:
            raise Unavailable("store", f"{key}: only a JSON object can be written here") from error
        if folder == COMMUNITIES:
            await self._put_community(name, record)
        elif not await self._patch_node(name, record):
            raise Unavailable(
                "store", f"{key}: there is no Node {name}: it has to join the cluster first"
            )

    async def delete(self, key: str) -> bool:
        """Delete the record; False: it was not there."""
        folder, name = split(key)
        if folder == NODES:
            return await self._patch_node(name, None)
        try:
            await self._client.call("DELETE", f"{COMMUNITIES_PATH}/{quote(name, safe='')}")
        except Refused as error:
            if error.code == HTTPStatus.NOT_FOUND and error.known:
                return False
            raise
        return True

    async def _put_community(self, name: str, spec: dict[str, Any]) -> None:
        body = {
            "apiVersion": "fabricd.io/v1",
            "kind": "Community",
            "metadata": {"name": name},
            "spec": spec,
        }
        try:
            await self._client.call("POST", COMMUNITIES_PATH, body=body)
        except Refused as error:
            if error.code != HTTPStatus.CONFLICT:
                raise
            change = [{"op": "add", "path": "/spec", "value": spec}]
            path = f"{COMMUNITIES_PATH}/{quote(name, safe='')}"
            await self._client.call("PATCH", path, body=change, content_type=JSON_PATCH)

    async def _patch_node(self, name: str, record: dict[str, Any] | None) -> bool:
        """False: there is no such Node, or no record on it to be taken away."""
        path = f"{NODES_PATH}/{quote(name, safe='')}"
        for attempts_left in reversed(range(ATTEMPTS)):
            node = await read_node(self._client, name)
            if node is None or (record is None and ROLE not in (node.metadata.labels or {})):
                return False
            try:
                patch = node_patch(node, record)
                await self._client.call("PATCH", path, body=patch, content_type=MERGE_PATCH)
            except ValueError as error:
                raise Unavailable("store", f"nodes/{name}: {error}") from error
            except Refused as error:
                if error.code != HTTPStatus.CONFLICT or not attempts_left:
                    raise
            else:
                return True
        raise AssertionError("the last attempt returns or raises")


async def read_node(client: KubeClient, name: str) -> KubeNode | None:
    """A Node as it is now; None: there is none of that name. Raises Unavailable."""
    path = f"{NODES_PATH}/{quote(name, safe='')}"
    try:
        return msgspec.json.decode(await client.call("GET", path), type=KubeNode)
    except UNREADABLE as error:
        raise client.failure(path, f"the answer is no Node: {error}") from error
    except Refused as error:
        if error.code == HTTPStatus.NOT_FOUND and error.known:
            return None
        raise


def split(key: str) -> tuple[str, str]:
    """Folder and name of a key; raises ValueError for what is no key of a record or status."""
    folder, _, name = key.partition("/")
    if folder not in {NODES, COMMUNITIES, "status"} or not name or "/" in name or name[0] == ".":
        raise ValueError(f"{key!r} is no key of a record or a status")
    return folder, name
