"""Calico's etcd datastore: its IPPools, read and written as libcalico-go does.

A pool is JSON under `/calico/resources/v3/projectcalico.org/ippools/NAME` (libcalico-go,
lib/backend/model/resource.go), written by a transaction that fails when the key has changed
since it was read (lib/backend/etcdv3/etcdv3.go). Knows nothing of what a pool should be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc

from fabricd.sources.etcd_client import EtcdClient, Refused
from fabricd.sources.etcd_proto import PUT, RANGE, TXN, Method

PREFIX: Final = "/calico/resources/v3/projectcalico.org/ippools/"

EQUAL: Final = 0
"""etcdserverpb.Compare.CompareResult."""
MOD: Final = 2
"""etcdserverpb.Compare.CompareTarget: the revision of a key's last change, 0 for none."""


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A pool, and the revision by which a change of it is noticed."""

    document: Mapping[str, Any]
    revision: int
    """etcd's mod_revision."""


class Datastore:
    """The IPPools in etcd. Every method raises Unavailable."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def list(self) -> dict[str, StoredPool]:
        """All pools by name. What is no JSON object is left out, as libcalico-go does."""
        request = RANGE.request(key=PREFIX.encode(), range_end=PREFIX[:-1].encode() + b"0")
        found: dict[str, StoredPool] = {}
        for pair in (await self._call(RANGE, request)).kvs:
            name = pair.key.decode("utf-8", "backslashreplace").removeprefix(PREFIX)
            with suppress(ValueError):
                document = json.loads(pair.value)
                if isinstance(document, dict):
                    found[name] = StoredPool(document, pair.mod_revision)
        return found

    async def write(self, name: str, document: Mapping[str, Any], revision: int) -> bool:
        """Write a pool whose key is still at `revision`, 0: is not there; False: it is not so."""
        key = f"{PREFIX}{name}".encode()
        value = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        request = TXN.request()
        request.compare.add(result=EQUAL, target=MOD, key=key, mod_revision=revision)
        request.success.add(request_put=PUT.request(key=key, value=value))
        return bool((await self._call(TXN, request)).succeeded)

    async def _call(self, method: Method, request: Any) -> Any:
        try:
            return await self._client.call(method, request)
        except Refused as error:
            if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            raise Refused(
                f"{error.reason}: the user needs a role with readwrite on the prefix {PREFIX}",
                error.code,
                error.details,
            ) from error
