"""What a container runtime says to `fabric-cni`: its environment and its standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fabricd.pods.cni import Call, CniError, parse, valid_attachments, version_of
from tests.fuzz.harness import Target

CONFIG: Final[dict[str, Any]] = {
    "cniVersion": "1.1.0",
    "name": "fabric",
    "type": "fabric-cni",
    "runtimeConfig": {"ips": ["2.2.2.9/27"]},
    "dns": {"nameservers": ["10.0.0.1"]},
}

ENVIRONMENT: Final = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0123abc",
    "CNI_NETNS": "/run/netns/pod1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IP=2.2.2.9;IgnoreUnknown=1",
}


def _call(data: bytes) -> object:
    """As the control socket takes it: JSON with `environment` and `config`."""
    try:
        call = msgspec.json.decode(data, type=Call)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""  # as the control socket does
    version = version_of(call.config)
    try:
        asked = parse(call)
        if asked.command == "GC":
            return sorted(valid_attachments(asked.config))
    except CniError as error:
        return json.dumps(error.document(version))
    return asked


def _calls() -> Iterator[bytes]:
    previous = {"ips": [{"address": "2.2.2.9/27"}]}
    left = [{"containerID": "0123abc", "ifname": "eth0"}]
    for command, more in (
        ("ADD", {}),
        ("CHECK", {"prevResult": previous}),
        ("DEL", {}),
        ("GC", {"cni.dev/valid-attachments": left}),
        ("STATUS", {}),
    ):
        environment = ENVIRONMENT | {"CNI_COMMAND": command}
        yield msgspec.json.encode(Call(environment, json.dumps(CONFIG | more)))


TARGETS: Final = (
    Target(
        "cni",
        _call,
        _calls,
        words=(b"CNI_COMMAND", b"CNI_ARGS", b"prevResult", b"cniVersion", b'\\"', b"ips", b"args"),
    ),
)
