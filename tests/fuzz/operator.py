"""What an operator writes: records, all the way to the plan that follows from them; configs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from fabricd.config import ConfigError, load
from fabricd.core.desired import desired
from fabricd.core.events import Listed, Put
from fabricd.core.plan import plan
from fabricd.core.records import check_identity, decode
from fabricd.core.rib import Rib
from fabricd.core.state import IkeState, KernelState
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.model import Prefix
from lab.debian import CHECKOUT
from tests.fuzz.harness import Target

TEMPLATE: Final = "C=CN, O=StrongSwan, CN={name}"

AROUND: Final = Surroundings(
    "edge2",
    (Prefix("2.0.0.0/8"),),
    "br-edge",
    identity=Identity(frozenset({"fabric-ca-1"}), "key", "digest"),
)

EDGE2: Final = {"role": "edge", "endpoint": "10.0.0.2", "subnets": ["2.2.2.0/27"]}

MORE: Final[tuple[dict[str, Any], ...]] = (
    {**EDGE2, "community": "app1;group1"},
    {"endpoint": "edge3.example.net", "subnets": ["2.2.2.32/27", "fd00:2::/64"]},
    {"role": "cloud", "endpoint": "2001:db8::1", "subnets": ["10.233.0.0/16"], "priority": 200},
    {"role": "cloud", "endpoint": "10.0.0.9", "subnets": ["10.233.0.0/16"], "drained": True},
    {**EDGE2, "identity": "C=CN, O=StrongSwan, CN=edge2", "unknown": {"a": [1, None]}},
)


def _record(data: bytes) -> object:
    """The key stands before the first line's end."""
    key, _, value = data.partition(b"\n")
    decoded = decode(key.decode("utf-8", "replace"), value, TEMPLATE)
    assert decoded.record is not None or decoded.faults, "neither a record nor a reason"
    return decoded


def _records() -> Iterator[bytes]:
    for number, fields in enumerate(MORE):
        yield f"nodes/edge{number}\n{json.dumps(fields)}".encode()
    yield b'communities/app1\n{"members": ["edge2", "edge3"]}'


def _fabric(data: bytes) -> object:
    """Records between NULs, in the order of their creation; edge2's own is right."""
    rib = Rib(TEMPLATE)
    puts = [Put("nodes/edge2", json.dumps({**EDGE2, "community": "app1"}).encode(), 1)]
    for number, part in enumerate(data.split(b"\0")[:8]):
        key, _, value = part.partition(b"\n")
        puts.append(Put(key.decode("utf-8", "replace"), value, number + 2))
    keys = {put.key: put for put in puts}
    rib.apply(Listed(tuple(keys.values())), now=0)
    in_force = rib.in_force()
    wanted = desired(in_force.nodes, in_force.communities, AROUND)
    actions = plan(wanted, KernelState(), IkeState())
    assert "edge2" not in in_force.nodes or actions
    return in_force.rejected, in_force.warnings


def _fabrics() -> Iterator[bytes]:
    yield b"\0".join(_records())
    yield from _records()


class _Text:
    """A file that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __str__(self) -> str:
        return "fabricd.toml"

    def read_text(self, encoding: str) -> str:
        return self._data.decode(encoding)


def _config(data: bytes) -> object:
    path: Any = _Text(data)
    try:
        return load(path)
    except ConfigError as error:
        faults = error.faults
    assert faults
    assert all(fault.startswith("fabricd.toml: ") for fault in faults)
    assert not any("\n" in fault for fault in faults), faults
    return "\n".join(faults)


def _configs() -> Iterator[bytes]:
    yield (CHECKOUT / "contrib/fabricd.toml").read_bytes()
    yield b'[node]\nname = "edge2"\n[store]\ntype = "dir"\npath = "/records"\n'
    yield (
        b'[store]\nendpoints = ["https://[2001:db8::1]:2379"]\n'
        b'ca = "/ca"\ncert = "/c"\nkey = "/k"\n'
        b'[calico]\nendpoints = ["http://10.0.0.1:2379"]\nipip_mode = "Never"\n'
    )
    yield b'[fabric]\nnetworks = ["fd00:2::/48"]\n[http]\nlisten = "[::1]:9815"\n'


def _identity(data: bytes) -> object:
    return check_identity(data.decode("utf-8", "replace"))


def _identities() -> Iterator[bytes]:
    yield TEMPLATE.encode()
    yield b"edge2@example.net"
    yield b"CN=edge2, E=a@example.net, DC=example"


_JSON_WORDS: Final = (b"null", b"true", b"1e999", b'"', b"[", b"{", b"\\ud800", b"0.0.0.0/0")

TARGETS: Final = (
    Target(
        "record",
        _record,
        _records,
        words=(*_JSON_WORDS, b'"subnets"', b'"role"', b'"endpoint"', b'"community"', b'"members"'),
    ),
    Target("fabric", _fabric, _fabrics, words=(*_JSON_WORDS, b"\0nodes/", b"\0communities/")),
    Target(
        "config",
        _config,
        _configs,
        words=(b"[store]\n", b"[[", b"= ", b"'''", b"1979-05-27", b"inf", b"0x", b"\\u0000"),
    ),
    Target("identity", _identity, _identities, rejections=(ValueError,)),
)
