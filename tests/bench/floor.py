"""The least that a program has to do to bring a tunnel up when a record changes: the floor.

`python floor.py ETCD KEY VICI SPEC` on each of two nodes: watch one key; when its value is
`up`, load one connection, and on the initiator initiate until it works; when it is anything else,
unload and terminate. No reconciling, no checks, no kernel: blocking calls of the same libraries.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import vici

from fabricd.sources import etcd_proto


def main() -> None:
    etcd, key, vici_socket, spec = sys.argv[1:]
    node: dict[str, Any] = json.loads(spec)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(vici_socket)
    charon = vici.Session(sock)
    charon.load_authority({"floor-ca": {"cacert": Path(node["ca"]).read_text()}})
    charon.load_key({"type": "any", "data": Path(node["key"]).read_text()})
    watch = etcd_proto.WATCH
    channel = grpc.insecure_channel(etcd)
    stream = channel.stream_stream(
        watch.path, watch.request.SerializeToString, watch.response.FromString
    )
    request = watch.request()
    request.create_request.key = key.encode()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(request)
    for response in stream(iter(requests.get, None)):
        if response.created:
            print("ready", flush=True)
        for event in response.events:
            change(charon, node, up=event.kv.value == b"up")
            print("done", flush=True)


def change(charon: vici.Session, node: dict[str, Any], *, up: bool) -> None:
    if not up:
        charon.unload_conn({"name": "floor"})
        if node["initiate"]:
            list(charon.terminate({"ike": "floor", "timeout": "5000"}))
        return
    charon.load_conn(
        {
            "floor": {
                "version": "2",
                "remote_addrs": [node["remote_addr"]],
                "proposals": ["aes128gcm16-prfsha256-ecp256"],
                "local-1": {
                    "auth": "pubkey",
                    "certs": [Path(node["cert"]).read_text()],
                    "id": node["local_id"],
                },
                "remote-1": {"auth": "pubkey", "id": node["remote_id"]},
                "children": {
                    "floor": {
                        "local_ts": [node["local_ts"]],
                        "remote_ts": [node["remote_ts"]],
                        "esp_proposals": ["aes128gcm16-ecp256"],
                    }
                },
            }
        }
    )
    while node["initiate"]:
        try:
            for _ in charon.initiate({"ike": "floor", "child": "floor", "timeout": "10000"}):
                pass
            return
        except vici.exception.CommandException:
            time.sleep(0.01)


if __name__ == "__main__":
    main()
