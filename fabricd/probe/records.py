"""The records and what the nodes publish, from the store, or what is known without it.

A Rib is filled as the daemon fills it at its start: the last good records on disk first, then
what the store has now. So a version that stays in force here is known here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random
from typing import Any, Final

import msgspec
import trio

from fabricd.config import Config, ConfigError
from fabricd.core.events import Listed, Put
from fabricd.core.facts import NodeView, PeerView, Records
from fabricd.core.rib import Rib
from fabricd.core.unreadable import UNREADABLE
from fabricd.daemon import snapshot
from fabricd.daemon.store import open_store
from fabricd.errors import Unavailable

PATIENCE: Final = 5.0
"""Seconds for one call to the store."""

PAGE: Final = 500
"""Status documents in one response."""


@dataclass(frozen=True, slots=True)
class Source:
    """What came from the store."""

    records: Records
    published: Mapping[str, NodeView] = field(default_factory=dict)
    published_fault: str = ""


async def read_source(config: Config) -> Source:
    """The records in force, and every node's published status."""
    rib = Rib(config.ike.identity, config.store.hold_share)
    puts: tuple[Put, ...] = ()
    fault = ""
    try:
        rib.restore(snapshot.load(config.store.state_dir))
    except (OSError, ValueError) as error:
        fault = f"the last good records can't be read either: {error}"
    try:
        async with aclosing(open_store(config)) as store:
            puts = await store.list()
        rib.apply(Listed(puts), now=0)
        fault = ""
    except (Unavailable, ConfigError) as error:
        reason = error.reason if isinstance(error, Unavailable) else str(error)
        fault = f"{reason}; {fault}" if fault else reason
    in_force = rib.in_force()
    rejected = {rejection.key for rejection in in_force.rejected}
    records = Records(
        nodes=in_force.nodes,
        communities=in_force.communities,
        rejected=in_force.rejected,
        claims={put.key: claims(put.value) for put in puts if put.key in rejected},
        fault=fault,
    )
    if fault:
        return Source(records, published_fault="the store does not answer")
    try:
        return Source(records, dict(_views(await _published(config))))
    except Unavailable as error:
        return Source(records, published_fault=error.reason)


def claims(value: bytes) -> tuple[str, ...]:
    """The subnets of a record that is not right, as far as they can be read."""
    try:
        subnets = msgspec.json.decode(value, type=dict[str, Any]).get("subnets", [])
    except UNREADABLE:
        return ()
    found = []
    for text in subnets if isinstance(subnets, list) else ():
        try:
            found.append(str(ip_network(text, strict=False)))
        except ValueError:
            continue
    return tuple(net for net in found if not net.endswith("/0"))


# ---------------------------------------------------------------- status documents


class _Certificate(msgspec.Struct, frozen=True):
    subnets: list[str] | None = None
    not_after: float | None = None


class _Peer(msgspec.Struct, frozen=True):
    name: str
    up: bool
    state: str
    reason: str = ""
    last_error: str = ""
    certificate: _Certificate | None = None


class _Part(msgspec.Struct, frozen=True):
    reason: str = ""


class _Status(msgspec.Struct, frozen=True):
    """What is read of a status document; whatever else is in it is let be."""

    node: str
    synced: bool
    peers: list[_Peer]
    source: _Part = _Part()
    kernel: _Part = _Part()
    charon: _Part = _Part()


def view_of(document: Any) -> NodeView:
    """A status document, read. Raises ValueError for what is none."""
    try:
        status = msgspec.convert(document, _Status)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a status document: {error}") from error
    parts = {"store": status.source, "kernel": status.kernel, "charon": status.charon}
    return NodeView(
        node=status.node,
        peers={peer.name: _peer(peer) for peer in status.peers},
        synced=status.synced,
        faults=tuple(f"{name}: {part.reason}" for name, part in parts.items() if part.reason),
    )


def _peer(peer: _Peer) -> PeerView:
    seen = peer.certificate
    blocks = None if seen is None or seen.subnets is None else tuple(seen.subnets)
    return PeerView(
        name=peer.name,
        up=peer.up,
        state=peer.state,
        reason=peer.reason,
        last_error=peer.last_error,
        blocks=blocks,
        not_after=seen.not_after if seen else None,
    )


def _views(documents: Mapping[str, bytes]) -> Iterable[tuple[str, NodeView]]:
    """By node; what is no status document is as good as none."""
    for name, value in documents.items():
        try:
            yield name, view_of(msgspec.json.decode(value))
        except (*UNREADABLE, ValueError):
            continue


async def _published(config: Config) -> dict[str, bytes]:
    """All status documents, by node. Raises Unavailable."""
    if config.store.type == "dir":
        assert config.store.path is not None, "config.parse() requires it"
        folder = trio.Path(config.store.path / "status")
        try:
            files = sorted(await folder.glob("*.json"))
            return {file.stem: await file.read_bytes() for file in files}
        except OSError as error:
            raise Unavailable("store", f"{folder}: {error.strerror}") from error
    if config.store.type == "etcd":
        return await _from_etcd(config)
    reason = f"statuses are not read from {config.store.type}: kubectl get fabricnodes -o yaml"
    raise Unavailable("store", reason)


async def _from_etcd(config: Config) -> dict[str, bytes]:
    # gRPC is loaded for etcd alone.
    from fabricd.sources import parse_endpoint  # noqa: PLC0415
    from fabricd.sources.etcd_client import Credentials, EtcdClient  # noqa: PLC0415
    from fabricd.sources.etcd_proto import RANGE  # noqa: PLC0415

    section = config.store
    credentials = Credentials(
        section.ca, section.cert, section.key, section.username, section.password_file
    )
    endpoints = [parse_endpoint(endpoint) for endpoint in section.endpoints]
    rng = Random()  # noqa: S311 - spreads clients over servers
    prefix = f"{section.prefix}/status/".encode()
    key, end = prefix, prefix[:-1] + b"0"  # "0" is what follows "/"
    found: dict[str, bytes] = {}
    async with aclosing(EtcdClient(endpoints, credentials, rng, PATIENCE)) as client:
        while True:
            request = RANGE.request(key=key, range_end=end, limit=PAGE)
            page = await client.call(RANGE, request)
            for pair in page.kvs:
                name = pair.key.removeprefix(prefix).decode("utf-8", "backslashreplace")
                found[name] = pair.value
            if not page.more:
                return found
            key = page.kvs[-1].key + b"\0"
