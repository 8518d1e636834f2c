"""What an API server answers: pages of objects, lines of a watch; and a kubeconfig."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio

from fabricd.core.records import decode
from fabricd.errors import Unavailable
from fabricd.sources.kube_access import Kubeconfig
from fabricd.sources.kube_records import (
    KubeCommunity,
    KubeNode,
    node_patch,
    put_of_community,
    put_of_node,
)
from fabricd.sources.kube_watch import Resource, _Lines, _read
from tests.fuzz.harness import Target
from tests.fuzz.operator import TEMPLATE

NODE: Final = {
    "metadata": {
        "name": "edge2",
        "uid": "1",
        "resourceVersion": "77",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"fabricd.io/role": "edge", "community.fabricd.io/app1": ""},
        "annotations": {
            "fabricd.io/subnets": "2.2.2.0/27, 2.2.2.32/27",
            "fabricd.io/priority": "7",
        },
    },
    "spec": {"podCIDR": "10.233.0.0/24", "podCIDRs": ["10.233.0.0/24", "fd00::/64"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]},
}

COMMUNITY: Final = {
    "metadata": {"name": "app1", "resourceVersion": "78"},
    "spec": {"members": ["edge2"]},
}

NODES: Final = Resource("/api/v1/nodes", KubeNode)
COMMUNITIES: Final = Resource("/apis/fabricd.io/v1/communities", KubeCommunity)


class _Client:
    """As far as a failure needs one."""

    def failure(self, path: str, reason: str) -> Unavailable:
        return Unavailable("store", f"https://k8s:6443{path}: {reason}")


class _Body:
    """A response's body, in pieces of 40 bytes."""

    def __init__(self, data: bytes) -> None:
        self._pieces = [data[start : start + 40] for start in range(0, len(data), 40)]

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""


def _judge(found: Any) -> object:
    put = put_of_node(found) if isinstance(found, KubeNode) else put_of_community(found)
    if put is None:
        return ""
    decoded = decode(put.key, put.value, TEMPLATE)
    if isinstance(found, KubeNode):
        fields = msgspec.json.decode(put.value)
        if isinstance(fields, dict) and decoded.record is not None:
            with suppress(ValueError):  # as documented: not every field has a place on a Node
                node_patch(found, fields)
    return [str(fault) for fault in decoded.faults]


async def _follow(resource: Resource[Any], data: bytes) -> list[object]:
    body: Any = _Body(data)
    client: Any = _Client()
    lines, said = _Lines(body), list[object]()
    while (line := await lines.next()) is not None:
        found, version, _ = _read(client, resource, line)
        said.append(version if found is None else _judge(found))
    return said


def _watch(data: bytes) -> object:
    resource: Resource[Any] = COMMUNITIES if data[:1] == b"c" else NODES
    return trio.run(_follow, resource, data[1:])


def _watches() -> Iterator[bytes]:
    for first, document in ((b"n", NODE), (b"c", COMMUNITY)):
        frames = [
            {"type": "ADDED", "object": document},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99"}}},
            {"type": "DELETED", "object": document},
        ]
        yield first + b"\n".join(json.dumps(frame).encode() for frame in frames)


def _page(data: bytes) -> object:
    resource: Resource[Any] = COMMUNITIES if data[:1] == b"c" else NODES
    page = resource.page(data[1:])
    return [_judge(found) for found in page.items or ()]


def _pages() -> Iterator[bytes]:
    for first, document in ((b"n", NODE), (b"c", COMMUNITY)):
        page = {"metadata": {"resourceVersion": "5", "continue": "x"}, "items": [document] * 2}
        yield first + json.dumps(page).encode()


class _File:
    """A kubeconfig in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.parent = self

    def __str__(self) -> str:
        return "kubeconfig"

    def __truediv__(self, name: str) -> _Absent:
        return _Absent(name)

    def read_bytes(self) -> bytes:
        return self._data


class _Absent:
    """Any file that it names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name

    def read_bytes(self) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", self._name)


def _kubeconfig(data: bytes) -> object:
    path: Any = _File(data)
    config = Kubeconfig(path)
    return config.server(), config.access().url


def _kubeconfigs() -> Iterator[bytes]:
    yield b"""apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "https://10.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: abc}}]
contexts: [{name: test, context: {cluster: test, user: me}}]
"""


TARGETS: Final = (
    Target(
        "kube-watch",
        _watch,
        _watches,
        rejections=(Unavailable,),
        words=(
            b'"type"',
            b'"object"',
            b'"ERROR"',
            b'"code": 410',
            b'"labels"',
            b'"annotations"',
            b"null",
        ),
    ),
    Target("kube-page", _page, _pages, rejections=(msgspec.MsgspecError, UnicodeDecodeError)),
    Target(
        "kubeconfig",
        _kubeconfig,
        _kubeconfigs,
        rejections=(Unavailable,),
        words=(b"&a ", b"*a", b"!!"),
    ),
)
