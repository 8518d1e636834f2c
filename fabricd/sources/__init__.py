"""Where records come from: each source tells the Rib the same few events of `core.events`.

A source knows where records are kept and nothing of what is in them. gRPC is loaded when an
EtcdStore is made, not before: who only reads a directory does not pay for it.
"""

from fabricd.sources.dir import DirStore
from fabricd.sources.endpoint import Endpoint, parse_endpoint
from fabricd.sources.etcd import EtcdStore
from fabricd.sources.store import Store

__all__ = ["DirStore", "Endpoint", "EtcdStore", "Store", "parse_endpoint"]
