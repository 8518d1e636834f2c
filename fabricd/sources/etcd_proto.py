"""etcd's messages and methods, out of the etcd3 package into the protobuf runtime of today.

The modules that protoc once generated for etcd3 0.12.0 refuse to load on protobuf 4 and
later. The descriptors embedded in them, serialized, are as good as ever: they are read as
text, without running any of that package's code, and the current runtime (the fast one, in
C) makes its classes from them. They live in a pool of their own, so that another copy of
etcd's protocol in the same process can't clash with them.

Importing this file costs some 30 ms. May not know of channels.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory


def _load() -> Any:
    spec = find_spec("etcd3")
    if spec is None or spec.origin is None:
        raise ImportError("the package etcd3 is not installed")
    pool = descriptor_pool.DescriptorPool()
    for name in ("kv_pb2", "auth_pb2", "rpc_pb2"):  # each imports those before it
        path = Path(spec.origin).parent / "etcdrpc" / f"{name}.py"
        found = re.search(r"serialized_pb=_b\(('.*')\)\n", path.read_text(encoding="utf-8"))
        if found is None:
            raise ImportError(f"{path} holds no descriptor: etcd3 0.12.0 is needed")
        pool.AddSerializedFile(ast.literal_eval(found[1]).encode("latin-1"))
    return pool


_POOL: Final = _load()


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of etcd, its request and response as protobuf message classes."""

    path: str
    request: Any
    response: Any


def _method(service: str, name: str) -> Method:
    full = f"etcdserverpb.{service}"
    method = _POOL.FindServiceByName(full).methods_by_name[name]
    return Method(
        f"/{full}/{name}",
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )


AUTHENTICATE: Final = _method("Auth", "Authenticate")
RANGE: Final = _method("KV", "Range")
PUT: Final = _method("KV", "Put")
DELETE_RANGE: Final = _method("KV", "DeleteRange")
TXN: Final = _method("KV", "Txn")
LEASE_GRANT: Final = _method("Lease", "LeaseGrant")
LEASE_KEEP_ALIVE: Final = _method("Lease", "LeaseKeepAlive")
"""A stream both ways. On the wire one request and one response of it look like any other call,
so it can be used as one."""
WATCH: Final = _method("Watch", "Watch")

WATCH_PROGRESS: Final = WATCH.request.FromString(b"\x1a\x00")
"""WatchRequest{progress_request: {}}: field 3, younger than these descriptors (etcd 3.4).
Unknown fields are kept and sent. etcd answers at once when the watch has nothing to catch up."""
