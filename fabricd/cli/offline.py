"""A plan from files alone: the whole river, records to actions, for a node that has nothing yet.

It goes through the same functions as the daemon does, and asks neither kernel nor charon.
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

from fabricd.cli.options import DEFAULT_CONFIG, Failed, Settings, join, warn
from fabricd.cli.output import Document
from fabricd.config import Config, ConfigError, parse
from fabricd.core.action import plan_document
from fabricd.core.desired import desired
from fabricd.core.events import Listed
from fabricd.core.ownership import AUTHORITY_PREFIX
from fabricd.core.plan import plan
from fabricd.core.rib import InForce, Rib
from fabricd.core.state import IkeState, KernelState
from fabricd.core.surroundings import Identity, Surroundings
from fabricd.daemon.keyring import Keyring
from fabricd.sources import DirStore


def offline_plan(settings: Settings, records: Path, node: str | None) -> Document:
    """The plan document of `node` (None: the config's), with what is rejected.

    Raises Failed, and Unavailable for a directory that can't be read.
    """
    config = _config(settings, node)
    name = node or config.node.name
    rib = Rib(config.ike.identity)
    rib.apply(Listed(trio.run(DirStore(records).list)), now=0)
    in_force = rib.in_force()
    for rejection in in_force.rejected:
        warn(f"rejected: {rejection}")
    for text in in_force.warnings:
        warn(text)
    if name not in in_force.nodes:
        raise Failed(_unknown(name, records, in_force))
    around = Surroundings(
        name=name,
        networks=config.networks,
        bridge=config.kernel.bridge,
        identity=_identity(config, name),
    )
    wanted = desired(in_force.nodes, in_force.communities, around)
    return {
        **plan_document(plan(wanted, KernelState(), IkeState())),
        "rejected": [fault.shown(config.store.prefix) for fault in in_force.rejected],
    }


def _config(settings: Settings, node: str | None) -> Config:
    """The config, or its defaults where none was named and there is none."""
    if settings.path != DEFAULT_CONFIG or DEFAULT_CONFIG.exists():
        return settings.config()
    try:
        return parse({"node": {"name": node}} if node else {}, DEFAULT_CONFIG)
    except ConfigError as error:
        raise Failed(*error.faults) from error


def _unknown(name: str, records: Path, in_force: InForce) -> str:
    if any(rejection.key == f"nodes/{name}" for rejection in in_force.rejected):
        return f"nodes/{name} in {records} is rejected: mend the record"
    known = join(tuple(in_force.nodes)) or "none"
    return f"nodes/{name} is not in {records} (nodes there: {known}): name one with --node"


def _identity(config: Config, name: str) -> Identity:
    """The node's own, or a stand-in: nobody has another node's private key."""
    if name == config.node.name:
        keyring = Keyring(config.ike.ca, config.ike.cert, config.ike.key, time.time)
        keyring.refresh()
        if keyring.identity is not None:
            return keyring.identity
    return Identity(
        authorities=frozenset({f"{AUTHORITY_PREFIX}of-{name}"}),
        key=f"private-key-of-{name}",
        digest="unknown",
    )
