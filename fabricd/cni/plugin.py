"""Called by a container runtime for each pod that comes or goes: asks the daemon, prints what it
answers.

A runtime waits for it, so it imports next to nothing, of fabricd nothing at all: installed, this
file is the program (contrib/install.sh). Source: the CNI specification (containernetworking/cni,
SPEC.md).
"""

from __future__ import annotations

import json
import os
import socket
import sys

SOCKET = "/run/fabricd/fabricd.sock"
"""The daemon's control socket, where the network's configuration names no other as `socket`."""

TIMEOUT = 60.0
"""Seconds for an answer: a container may wait for another program's lock on the addresses."""

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")

DECODING_FAILED = 6
TRY_AGAIN = 11
NOT_AVAILABLE = 50


def main() -> None:
    """The program `fabric-cni`."""
    text = sys.stdin.read()
    environment = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
    code, document = run(environment, text)
    if document is not None:
        sys.stdout.write(json.dumps(document) + "\n")
    sys.exit(code)


def run(environment: dict[str, str], text: str) -> tuple[int, dict[str, object] | None]:
    """Exit status, and what goes to standard output, if anything."""
    try:
        config = json.loads(text or "{}")
    except ValueError as error:
        return 1, _error("1.1.0", DECODING_FAILED, "the network's configuration is not JSON", error)
    config = config if isinstance(config, dict) else {}
    version = config.get("cniVersion", VERSIONS[-1])
    if environment.get("CNI_COMMAND") == "VERSION":
        return 0, {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    path = config.get("socket", SOCKET)
    try:
        answer = _ask(str(path), json.dumps({"environment": environment, "config": text}))
    except (OSError, ValueError) as error:
        status = environment.get("CNI_COMMAND") == "STATUS"
        code = NOT_AVAILABLE if status else TRY_AGAIN
        return 1, _error(version, code, f"fabricd does not answer at {path}", error)
    document = answer.get("document")
    return (0 if answer["ok"] else 1), document if isinstance(document, dict) else None


def _ask(path: str, body: str) -> dict[str, object]:
    """One request over HTTP/1.1 (RFC 9112), whose answer ends the connection."""
    data = body.encode()
    head = (
        "POST /cni HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(head.encode() + data)
        received = bytearray()
        while piece := connection.recv(65536):
            received += piece
    status, _, rest = bytes(received).partition(b"\r\n")
    answer = json.loads(rest.partition(b"\r\n\r\n")[2] or b"{}")
    if b" 200 " not in status or not isinstance(answer, dict) or "ok" not in answer:
        reason = answer.get("error", "") if isinstance(answer, dict) else ""
        raise ValueError(f"it answered {status.decode('latin-1')!r} {reason}".rstrip())
    return answer


def _error(version: object, code: int, message: str, error: Exception) -> dict[str, object]:
    return {"cniVersion": version, "code": code, "msg": message, "details": str(error)}


if __name__ == "__main__":
    main()
