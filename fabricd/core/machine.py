"""What a look at one machine has found, before anything is judged: facts for `core.checkup`.

Something that could not be looked at has a fault instead, in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fabricd.core.charon_settings import Settings
from fabricd.core.facts import Records
from fabricd.core.index import Index
from fabricd.core.state import KernelState
from fabricd.model import Node, Prefix

USER: Final = "fabricd"
"""Whom the service runs as (systemd/fabricd.sysusers)."""


@dataclass(frozen=True, slots=True)
class Charon:
    """What charon says of itself over VICI."""

    version: str
    plugins: frozenset[str]


@dataclass(frozen=True, slots=True)
class KernelSa:
    """A security association in the kernel, as ip-xfrm(8) shows it."""

    source: str
    destination: str
    """Addresses of the tunnel's ends."""
    protocol: str
    """`esp` or `ah`."""
    spi: int

    def __str__(self) -> str:
        """In words of ip-xfrm(8)."""
        ends = f"src {self.source} dst {self.destination}"
        return f"{ends} proto {self.protocol} spi {self.spi:#010x}"


@dataclass(frozen=True, slots=True)
class Door:
    """charon's VICI socket, as the file system shows it."""

    group: str
    mode: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """The node's certificate, key and CAs, as their files are."""

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    subject: str = ""
    """The certificate's, as records write it; empty: it can't be used."""
    expiry: float = 0
    """When the certificate ends, Unix seconds."""
    uncovered: tuple[Prefix, ...] = ()
    """Subnets of the node's record that the certificate is not for."""
    other_identity: str = ""
    """The identity in the node's record, if the certificate is not for it."""
    key: str = ""
    """The key's file."""
    key_owner: str = ""
    """Name of the user whom that belongs to."""


@dataclass(frozen=True, slots=True)
class Machine:
    """All of it. The fields stand in the order in which one fault causes the next."""

    config: str
    """The config file."""
    config_faults: tuple[str, ...]
    name: str
    networks: tuple[Prefix, ...]
    bridge: str
    now: float
    """Unix seconds, by this machine's clock."""
    synchronised: bool | None
    """Whether the kernel takes its clock for right (adjtimex(2)); None: it can't be asked."""
    service_user: bool
    """Whether there is a user `fabricd`, which the service runs as."""

    release: str = ""
    """The kernel's: `6.1.0-18-amd64`."""
    trials: Mapping[str, str] = field(default_factory=dict)
    """What was tried in a network namespace of its own, and why it does not work; empty: it
    does."""
    trials_fault: str = ""
    kernel: KernelState | None = None
    kernel_fault: str = ""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Values below /proc/sys, by path: `net/ipv4/ip_forward`."""
    writable: bool = False
    """Whether /proc/sys/net can be written."""

    charon: Charon | None = None
    charon_fault: str = ""
    door: Door | None = None
    socket: str = ""
    """Where charon's VICI socket should be."""
    settings: Settings | None = None
    settings_fault: str = ""
    table_220: bool = False
    """A rule leads to charon's own routing table."""
    sas: frozenset[KernelSa] | None = None
    """SAs in the kernel that were there before and after charon was asked for its own; None: they
    can't be listed."""
    sas_fault: str = ""
    spis: frozenset[int] | None = None
    """Of all SAs that charon lists, whatever connection they are of; None: it does not answer."""
    ports: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """UDP ports of IKE, and the programs that hold them; `?`: one that can't be seen."""
    ports_fault: str = ""
    links_out: Mapping[str, int] = field(default_factory=dict)
    """Links of the ways to other nodes and to the store, and their MTU."""

    credentials: Credentials | None = None
    store: str = ""
    """Where the records are, for people."""
    records: Records | None = None
    daemon_fault: str = ""
    """Why the daemon says nothing; empty: it does."""

    @property
    def record(self) -> Node | None:
        """The node's own record, if it is in force."""
        return self.records.nodes.get(self.name) if self.records else None

    @property
    def peers(self) -> int:
        """How many peers the records give the node."""
        if self.records is None or self.record is None:
            return 0
        index = Index.of(self.records.nodes, self.records.communities)
        return sum(1 for _ in index.peers(self.record))
