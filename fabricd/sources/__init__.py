"""Where records come from: each source tells the Rib the same few events of `core.events`.

A source knows where records are kept and nothing of what is in them. gRPC is loaded when an
EtcdStore is made, not before: who only reads a directory does not pay for it.
"""

import os

from fabricd.sources.dir import DirStore
from fabricd.sources.endpoint import Endpoint, parse_endpoint
from fabricd.sources.etcd import EtcdStore
from fabricd.sources.store import Store

# gRPC's fork handlers start threads in a child that is about to exec, and now and then they
# abort it. Nothing here goes on in a child, so they are off; gRPC reads this when it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__all__ = ["DirStore", "Endpoint", "EtcdStore", "Store", "parse_endpoint"]
