"""`python -m tests.bench.stream receive`, `… send ADDRESS SECONDS`: TCP as fast as it goes. The
receiver prints Mbit/s, from its first byte to its last.
"""

from __future__ import annotations

import socket
import sys
import time

PORT = 5201
PIECE = 1 << 18


def receive() -> None:
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listens", flush=True)
        connection, _ = server.accept()
    buffer = bytearray(PIECE)
    total = connection.recv_into(buffer)
    began = time.monotonic()
    while number := connection.recv_into(buffer):
        total += number
    print("rate", total * 8 / 1e6 / (time.monotonic() - began), flush=True)


def send(address: str, seconds: float) -> None:
    with socket.create_connection((address, PORT), timeout=20) as connection:
        data, until = bytes(PIECE), time.monotonic() + seconds
        while time.monotonic() < until:
            connection.sendall(data)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        send(sys.argv[2], float(sys.argv[3]))
