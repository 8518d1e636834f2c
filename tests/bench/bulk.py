"""`python -m tests.bench.bulk SPEC`: the least that a program has to do for many records.

Read all records in one request; for each peer of this node's load a connection, all of them
pipelined, and set a route, in batches; then watch, and for what changes do the same again. No
checks, no reconciling: what is there already is not looked at. SPEC is JSON, as `spec` makes it.
Prints `done`, how many records that was, and the time (monotonic s), each time it is done.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc

from fabricd.sources import etcd_proto
from tests.bench.bare import RTM_DELROUTE, RTM_NEWROUTE, Rtnl, Vici, route

PREFIX = b"/fabric/nodes/"

Loaded = dict[str, str]
"""A peer's subnet by its name."""


class Floor:
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.name, self.token, self.source = spec["name"], spec["token"], spec["source"]
        self.local = spec["subnet"]
        self.cert, self.ca = (Path(spec[kind]).read_text() for kind in ("cert", "ca"))
        self.link = socket.if_nametoindex(spec["link"])
        self.vici, self.rtnl = Vici(spec["vici"]), Rtnl()
        self.vici.ask("load-authority", {"floor-ca": {"cacert": self.ca}})
        self.vici.ask("load-key", {"type": "any", "data": Path(spec["key"]).read_text()})
        self.loaded: Loaded = {}

    def obey(self, pairs: Iterable[Any]) -> int:
        """Keys with their values, as etcd gives them."""
        conns, messages = [], []
        for pair in pairs:
            record = json.loads(pair.value)
            name = pair.key[len(PREFIX) :].decode()
            if name == self.name or self.token not in record["community"].split(";"):
                continue
            (subnet,) = record["subnets"]
            conns.append(self.conn(name, subnet))
            messages.append((RTM_NEWROUTE, route(subnet, self.link, self.source)))
            before = self.loaded.get(name, subnet)
            if before != subnet:
                messages.append((RTM_DELROUTE, route(before, self.link, self.source)))
            self.loaded[name] = subnet
        self.rtnl.send(messages)
        self.vici.load(conns)
        return len(conns)

    def conn(self, peer: str, subnet: str) -> dict[str, Any]:
        """What fabricd loads."""
        return {
            f"floor-{peer}": {
                "version": "2",
                "proposals": [
                    "aes128gcm16-prfsha256-ecp256",
                    "aes256gcm16-prfsha384-ecp384",
                    "default",
                ],
                "keyingtries": "1",
                "mobike": "no",
                "fragmentation": "yes",
                "reauth_time": "0s",
                "send_cert": "always",
                "unique": "no",
                "rekey_time": "14400s",
                "rand_time": "0s",
                "dpd_delay": "30s",
                "remote_addrs": ["%any"],
                "local-1": {
                    "auth": "pubkey",
                    "id": f"C=CN, O=StrongSwan, CN={self.name}",
                    "certs": [self.cert],
                },
                "remote-1": {
                    "auth": "pubkey",
                    "id": f"C=CN, O=StrongSwan, CN={peer}",
                    "cacerts": [self.ca],
                },
                "children": {
                    f"{self.local}-{subnet}": {
                        "mode": "tunnel",
                        "esp_proposals": ["aes128gcm16-ecp256", "aes256gcm16-ecp384", "default"],
                        "start_action": "none",
                        "close_action": "none",
                        "dpd_action": "clear",
                        "rekey_time": "1h",
                        "replay_window": "1024",
                        "local_ts": [self.local],
                        "remote_ts": [subnet],
                    }
                },
            }
        }


def done(count: int) -> None:
    print("done", count, time.monotonic(), flush=True)


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    options = [("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(spec["etcd"].removeprefix("http://"), options)
    ranged, watched = etcd_proto.RANGE, etcd_proto.WATCH
    read = channel.unary_unary(
        ranged.path, ranged.request.SerializeToString, ranged.response.FromString
    )
    question = ranged.request(key=PREFIX, range_end=PREFIX[:-1] + b"0")
    floor = Floor(spec)
    answer = read(question, timeout=30)
    done(floor.obey(answer.kvs))
    if not spec["watch"]:
        return
    stream = channel.stream_stream(
        watched.path, watched.request.SerializeToString, watched.response.FromString
    )
    request = watched.request()
    request.create_request.key = question.key
    request.create_request.range_end = question.range_end
    request.create_request.start_revision = answer.header.revision + 1
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(request)
    for response in stream(iter(requests.get, None)):
        if response.created:
            print("watches", flush=True)
        if response.events:
            done(floor.obey(event.kv for event in response.events))


if __name__ == "__main__":
    main()
