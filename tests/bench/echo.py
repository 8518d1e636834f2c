"""`python -m tests.bench.echo`: answers the probes of a fabricd at every address of its namespace,
for peers that are a charon alone.
"""

from __future__ import annotations

import socket
import struct

from fabricd.core.probe_packet import Packet, decode, encode

PORT = 9816
_PKTINFO = 8
"""IP_PKTINFO of linux/in.h, which the socket module lacks."""


def main() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _PKTINFO, 1)
    sock.bind(("0.0.0.0", PORT))
    print("listens", flush=True)
    while True:
        data, [(_, _, info)], _, remote = sock.recvmsg(512, 512)
        probe = decode(data)
        if probe is None or probe.answer:
            continue
        source = struct.pack("=I4s4x", 0, info[8:12])
        answer = encode(Packet(probe.number, answer=True))
        sock.sendmsg([answer], [(socket.IPPROTO_IP, _PKTINFO, source)], 0, remote)


if __name__ == "__main__":
    main()
