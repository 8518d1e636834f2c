"""`python -m tests.bench.put ETCD SIZE`: the keys and values on stdin (one JSON object) into etcd,
SIZE in a transaction. Prints when the first was sent and when the last was answered (monotonic s).
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

import grpc

from fabricd.sources import etcd_proto


def main() -> None:
    endpoint, size = sys.argv[1].removeprefix("http://"), int(sys.argv[2])
    pairs = iter(json.load(sys.stdin).items())
    requests = []
    while some := list(islice(pairs, size)):
        request = etcd_proto.TXN.request()
        for key, value in some:
            put = request.success.add().request_put
            put.key, put.value = key.encode(), json.dumps(value).encode()
        requests.append(request)
    method = etcd_proto.TXN
    with grpc.insecure_channel(endpoint) as channel:
        grpc.channel_ready_future(channel).result(10)
        transact = channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        began = time.monotonic()
        for request in requests:
            transact(request, timeout=30)
        ended = time.monotonic()
    print(began, ended)


if __name__ == "__main__":
    main()
