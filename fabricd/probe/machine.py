"""All that `doctor` has to know of this machine, gathered. Nothing is changed, nothing judged."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import trio
from cryptography import x509

from fabricd.config import Config
from fabricd.core import machine as facts
from fabricd.core.facts import Records
from fabricd.core.machine import Machine
from fabricd.core.state import KernelState
from fabricd.daemon.keyring import Keyring
from fabricd.errors import Unavailable
from fabricd.ike.codec import sections, spis, text, texts
from fabricd.ike.connection import Connection
from fabricd.ike.observer import readable
from fabricd.ike.protocol import Request
from fabricd.kernel import Kernel
from fabricd.model import Address, Node, address
from fabricd.pki.names import alternative_of, identity_of, is_name, name_of
from fabricd.probe import charon_files, ip, system
from fabricd.probe.records import read_source
from fabricd.probe.tool import run

T = TypeVar("T")

DEADLINE: Final = 5.0
"""Seconds that charon may be silent."""

SOMEWHERE: Final = Address("192.0.2.1")
"""An address that only the default route leads to (RFC 5737)."""


async def examine(config: Config, config_faults: tuple[str, ...], daemon_fault: str) -> Machine:
    """Look at this machine. With faults in the config, `config` has defaults in the place of what
    it should say, and credentials and store are not looked at.
    """
    trials, trials_fault = await _asked(system.try_features())
    kernel, kernel_fault = await _asked(_observe_kernel())
    charon, charon_fault = await _asked(_ask_charon(config.vici_socket))
    holders, ports_fault = await _asked(system.holders())
    pids = {pid for programs in (holders or {}).values() for pid in programs.values() if pid}
    settings, settings_fault = None, ""
    try:
        settings = charon_files.settings(pids)
    except (OSError, ValueError) as error:
        settings_fault = str(error)
    sas, sas_fault = await _asked(ip.sas())
    listed, _ = await _asked(_list_spis(config.vici_socket))
    if sas:  # those of a rekeying come and go
        sas, sas_fault = await _asked(_still_there(sas))
    rules, _ = await _asked(run("ip", "rule"))
    records = None if config_faults else (await read_source(config)).records
    links_out = await _links_out(config, records, kernel)
    record = records.nodes.get(config.node.name) if records else None
    return Machine(
        config=str(config.path),
        config_faults=config_faults,
        name=config.node.name,
        networks=config.networks,
        bridge=config.kernel.bridge,
        now=time.time(),
        synchronised=system.synchronised(),
        service_user=system.has_service_user(),
        release=os.uname().release,
        trials=trials or {},
        trials_fault=trials_fault,
        kernel=kernel,
        kernel_fault=kernel_fault,
        switches=system.switches({*links_out, config.kernel.bridge}),
        writable=system.can_switch(),
        charon=charon,
        charon_fault=charon_fault,
        door=system.door(Path(config.vici_socket)),
        socket=config.vici_socket,
        settings=settings,
        settings_fault=settings_fault,
        sas=sas,
        sas_fault=sas_fault,
        spis=listed,
        table_220="lookup 220" in (rules or ""),
        ports={port: tuple(programs) for port, programs in (holders or {}).items()},
        ports_fault=ports_fault,
        links_out=links_out,
        credentials=None if config_faults else _credentials(config, record),
        store=_store(config),
        records=records,
        daemon_fault=daemon_fault,
    )


async def _asked(question: Awaitable[T]) -> tuple[T | None, str]:
    """The answer, or why there is none."""
    try:
        return await question, ""
    except Unavailable as error:
        return None, error.reason


async def _observe_kernel() -> KernelState:
    async with Kernel(sysctls=()) as kernel:
        return await kernel.observe()


async def _ask_charon(path: str) -> facts.Charon:
    async with Connection.opened(path, DEADLINE) as connection:
        version, stats = await connection.exchange((Request("version"), Request("stats")))
    name = f"strongSwan {text(version.message, 'version')}"
    return facts.Charon(name, frozenset(texts(stats.message, "plugins")))


async def _list_spis(path: str) -> frozenset[int]:
    """SPIs of every CHILD_SA that charon lists, both ways. A busy IKE_SA is waited for."""
    async with Connection.opened(path, DEADLINE) as connection:
        [answer] = await connection.exchange([Request("list-sas", stream="list-sa")])
    with readable():
        return frozenset(spi for _, sa in sections(answer.items) for spi in spis(sa))


async def _still_there(sas: frozenset[facts.KernelSa]) -> frozenset[facts.KernelSa]:
    return sas & await ip.sas()


def _store(config: Config) -> str:
    match config.store.type:
        case "etcd":
            return f"etcd at {', '.join(config.store.endpoints)}"
        case "dir":
            return f"directory {config.store.path}"
    return config.store.type


# ---------------------------------------------------------------- credentials


def _credentials(config: Config, record: Node | None) -> facts.Credentials:
    files = config.ike
    keyring = Keyring(files.ca, files.cert, files.key, time.time, files.crl)
    keyring.refresh()
    found = keyring.credentials
    if found is None:
        return facts.Credentials(faults=keyring.faults)
    blocks = found.about.blocks
    claimed = record.subnets if record else ()
    other = record.identity if record and not _is_for(found.own, record.identity) else ""
    return facts.Credentials(
        faults=keyring.faults,
        warnings=tuple(keyring.warnings()),
        subject=identity_of(found.own.subject),
        expiry=found.about.not_after,
        uncovered=tuple(blocks.uncovered(claimed)) if blocks else (),
        other_identity=other,
        key=str(files.key),
        key_owner=system.owner(files.key),
    )


def _is_for(certificate: x509.Certificate, identity: str) -> bool:
    """Whether charon finds a certificate to be for an identity."""
    if is_name(identity):
        with suppress(ValueError):
            return certificate.subject == name_of(identity)
        return False
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return alternative_of(identity) in list(names)


# ---------------------------------------------------------------- ways


async def _links_out(
    config: Config, records: Records | None, kernel: KernelState | None
) -> dict[str, int]:
    """The links by which other nodes and the store are reached, with their MTU; where none is
    known, that of the default route.
    """
    nodes = records.nodes.values() if records else ()
    targets = {Address(net.partition("/")[0]) for net in config.store_addresses}
    for node in nodes:
        with suppress(ValueError):  # a DNS name, or behind NAT
            if node.name != config.node.name:
                targets.add(address(node.endpoint or ""))
    names: set[str] = set()

    async def find(target: Address) -> None:
        with suppress(Unavailable):
            names.add((await ip.lookup(target)).link)

    async with trio.open_nursery() as nursery:
        for target in sorted(targets)[:WAYS] or [SOMEWHERE]:
            nursery.start_soon(find, target)
    links = kernel.links if kernel else {}
    return {name: links[name].mtu for name in names - {"", "lo"} if name in links}


WAYS: Final = 32
"""Targets that are asked for: a fabric of thousands has few links out of one node."""
