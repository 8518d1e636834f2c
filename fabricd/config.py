"""fabricd.toml: what one daemon is told about itself, read and checked in one go.

`load()` returns a `Config` or raises `ConfigError` with one line a fault, so that an operator
mends a file once, not fault by fault. No other file reads the config, and nothing below the
daemon knows this one: parts are handed what they need.
"""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from fabricd.core.ownership import DEAD_END
from fabricd.core.records import check_identity
from fabricd.core.surroundings import USERSPACE_LINK
from fabricd.model import NAME_PATTERN, Prefix, address, is_link_name, network, prefix

NonEmpty = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(gt=0, le=1)]


class NodeSection(Struct, frozen=True):
    """Which node this is."""

    name: str = ""
    """The NAME in the key of this node's record. Absent: the host name."""


class StoreSection(Struct, frozen=True):
    """Where the records come from, and where the last good ones are kept."""

    type: NonEmpty = "etcd"
    """`etcd`, `dir` or `kubernetes`."""
    endpoints: tuple[NonEmpty, ...] = ("http://127.0.0.1:2379",)
    """The members of etcd, each `http://HOST:PORT` or `https://HOST:PORT`."""
    prefix: NonEmpty = "/fabric"
    """What the keys in etcd begin with."""
    ca: Path | None = None
    """The CA of etcd's certificates, for `https`. Absent: the one that gRPC brings."""
    cert: Path | None = None
    """A client certificate for etcd; goes with `key`."""
    key: Path | None = None
    """The private key of `cert`."""
    username: NonEmpty | None = None
    """A user of etcd's own; goes with `password_file`."""
    password_file: Path | None = None
    """The first line of this file is the password of `username`."""
    path: Path | None = None
    """With type `dir`, and required there: the folder with `nodes/NAME.json` and
    `communities/NAME.json`."""
    kubeconfig: Path | None = None
    """With type `kubernetes`. Absent: the service account of the pod that this is."""
    state_dir: Path = Path("/var/lib/fabricd")
    """The last good records are kept here, so that a node boots without its store."""
    hold_share: Share = 0.5
    """A loss of more than this share of the node records in force is held, not obeyed."""


class IkeSection(Struct, frozen=True):
    """charon, and this node's credentials."""

    socket: NonEmpty = "unix:///var/run/charon/charon.vici"
    """charon's VICI socket. Debian's charon has it at `unix:///var/run/charon.vici`."""
    ca: Annotated[tuple[Path, ...], Meta(min_length=1)] = (Path("/etc/fabricd/pki/ca.crt"),)
    """CA certificates that peers' certificates are checked against."""
    cert: Path = Path("/etc/fabricd/pki/node.crt")
    """This node's certificate."""
    key: Path = Path("/etc/fabricd/pki/node.key")
    """The private key of `cert`; nobody but the daemon's user may read it."""
    crl: tuple[Path, ...] | None = None
    """Revocation lists. Absent: beside each CA file the one ending in `.crl`, if it is there."""
    identity: NonEmpty = "C=CN, O=StrongSwan, CN={name}"
    """The IKE identity of nodes whose record has none; `{name}` stands for the node's name."""


class KernelSection(Struct, frozen=True):
    """What the daemon makes in the kernel of an edge."""

    bridge: NonEmpty = "br-edge"
    """The pods' bridge; it has the first host of each of the node's subnets."""
    masquerade: bool = True
    """Give pods' traffic that leaves the fabric the node's own address."""
    netns_helper: Path = Path("/run/fabricd-netns.sock")
    """The socket of fabricd-netns, which enters pods' network namespaces for a daemon that may not
    by itself."""
    mtu: Annotated[int, Meta(ge=576, le=65535)] | None = None
    """Octets that pods may send in one packet. Absent: what passes a tunnel whole, by the MTU of
    the underlay."""


class FabricSection(Struct, frozen=True):
    """What all nodes agree on."""

    networks: Annotated[tuple[str, ...], Meta(min_length=1)] = ("2.0.0.0/8",)
    """All edges' pods live in these. What has no tunnel there is refused, and a gateway announces
    them to its cluster."""


class HealthSection(Struct, frozen=True):
    """Probes through the tunnels, to tell one that carries nothing."""

    probe: Annotated[float, Meta(ge=0, le=3600)] = 15.0
    """Seconds between two probes of a tunnel; 0: none are sent, nor answered."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 9816
    """UDP, at the node's own addresses in its subnets. The same on all nodes."""


class HttpSection(Struct, frozen=True):
    """What anybody may read who gets there."""

    listen: NonEmpty = "127.0.0.1:9815"
    """ADDRESS:PORT of the status page at `/`, `/metrics`, `/healthz` and `/readyz`."""


class ControlSection(Struct, frozen=True):
    """For fabricctl."""

    socket: Path = Path("/run/fabricd/fabricd.sock")
    """Where fabricctl finds the daemon."""


class CalicoSection(Struct, frozen=True):
    """The cluster's own network. For `fabricctl calico`, nothing to the daemon."""

    endpoints: tuple[NonEmpty, ...] = ()
    """Of Calico's etcd datastore. Absent: `[store]`'s etcd, with the credentials given there."""
    ca: Path | None = None
    """The CA of that etcd's certificates."""
    cert: Path | None = None
    """A client certificate; goes with `key`."""
    key: Path | None = None
    """The private key of `cert`."""
    username: NonEmpty | None = None
    """A user of that etcd's own; goes with `password_file`."""
    password_file: Path | None = None
    """The first line of this file is the password of `username`."""
    ipip_mode: Literal["Always", "CrossSubnet", "Never"] = "Always"
    """`ipipMode` of the pool for the edges, as between the cluster's own nodes."""
    block_size: Annotated[int, Meta(ge=20, le=32)] = 24
    """For IPv4; IPv6 pools have Calico's default. Matters only to a pool that is not disabled."""
    node_selector: NonEmpty = "all()"
    """`nodeSelector` of that pool."""


class CniSection(Struct, frozen=True):
    """Pods that a container runtime brings, and where all pods' addresses are kept."""

    conflist: Path | None = None
    """Where to write the configuration for container runtimes, such as
    `/etc/cni/net.d/10-fabric.conflist`. Absent: it is not written."""
    network: NonEmpty = "fabric"
    """Name of the network, in that file and below `data_dir`."""
    data_dir: Path = Path("/var/lib/cni/networks")
    """Leases of addresses, in the format of CNI's plugin host-local."""


SECTIONS: Final[dict[str, type[Struct]]] = {
    "node": NodeSection,
    "store": StoreSection,
    "ike": IkeSection,
    "kernel": KernelSection,
    "fabric": FabricSection,
    "health": HealthSection,
    "http": HttpSection,
    "control": ControlSection,
    "calico": CalicoSection,
    "cni": CniSection,
}


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config, checked: the name is there, networks are canonical."""

    path: Path
    node: NodeSection
    store: StoreSection
    ike: IkeSection
    kernel: KernelSection
    fabric: FabricSection
    health: HealthSection
    http: HttpSection
    control: ControlSection
    calico: CalicoSection
    cni: CniSection

    @property
    def networks(self) -> tuple[Prefix, ...]:
        """`fabric.networks`, canonical."""
        return tuple(prefix(text) for text in self.fabric.networks)

    @property
    def listen(self) -> tuple[str, int]:
        """`http.listen` as host and port."""
        parts = urlsplit(f"//{self.http.listen}")
        return parts.hostname or "", parts.port or 0

    @property
    def calico_etcd(self) -> CalicoSection | StoreSection | None:
        """The section with the endpoints and credentials of Calico's etcd; None: no section has."""
        if self.calico.endpoints:
            return self.calico
        return self.store if self.store.type == "etcd" else None

    @property
    def store_addresses(self) -> tuple[Prefix, ...]:
        """The store's servers, as far as they are named by address, each as a prefix of its own."""
        urls: tuple[str, ...] = ()
        if self.store.type == "etcd":
            urls = self.store.endpoints
        elif self.store.type == "kubernetes":
            from fabricd.sources.kube_access import server_url  # noqa: PLC0415 - only where needed

            urls = server_url(self.store.kubeconfig)
        result = []
        for url in urls:
            with suppress(ValueError):
                host = urlsplit(url).hostname or ""
                result.append(Prefix(f"{address(host)}/{128 if ':' in host else 32}"))
        return tuple(sorted(result))

    @property
    def vici_socket(self) -> str:
        """The path in `ike.socket`."""
        return self.ike.socket.removeprefix("unix://")


class ConfigError(Exception):
    """A config that can't be used; `faults` holds one line a fault: file, key, what is wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(path: Path) -> Config:
    """Read and check the config file; raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    return parse(raw, path)


def parse(raw: dict[str, Any], path: Path) -> Config:
    """Check a parsed TOML document; raises ConfigError. `path` is for messages only."""
    faults: list[str] = []
    sections: dict[str, Any] = {}
    faults += [
        f"{path}: [{name}]: unknown section{_hint(name, SECTIONS)}"
        for name in raw.keys() - SECTIONS.keys()
    ]
    for name, kind in SECTIONS.items():
        given = raw.get(name, {})
        if not isinstance(given, dict):
            faults.append(f"{path}: {name}: must be a section, [{name}]")
            given = {}
        values, wrong = _section(kind, given)
        sections[name] = kind(**values)
        faults += [f"{path}: {name}.{key}: {reason}" for key, reason in wrong]
        if name in _CHECKS:
            told = {key for key, _ in wrong}  # what stands there is not what was checked
            reasons = _CHECKS[name](sections[name])
            faults += [f"{path}: {name}.{key}: {why}" for key, why in reasons if key not in told]
    if faults:
        raise ConfigError(sorted(faults))
    if not sections["node"].name:
        sections["node"] = NodeSection(socket.gethostname().lower())
    return Config(path=path, **sections)


def _section(kind: type[Struct], given: dict[str, Any]) -> tuple[dict[str, Any], _Faults]:
    """The values of a section that can be used, and the faults of the others."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values, faults = {}, []
    for key, value in given.items():
        if key not in fields:
            faults.append((key, f"unknown key{_hint(key, fields)}"))
            continue
        try:
            values[key] = msgspec.convert(value, fields[key], dec_hook=_to_path)
        except msgspec.ValidationError as error:
            faults.append((key, str(error)))
    return values, faults


_Faults = list[tuple[str, str]]


def _to_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")


def _hint(word: str, known: Any) -> str:
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else f" (known: {', '.join(known)})"


# ---------------------------------------------------------------- what types can't say


def _check_node(section: NodeSection) -> Iterator[tuple[str, str]]:
    name = section.name or socket.gethostname().lower()
    if not re.fullmatch(NAME_PATTERN, name):
        origin = "" if section.name else "the host name "
        yield (
            "name",
            (
                f"{origin}{name!r} is no node's name: 1 to 63 of a-z 0-9 - ., starting and ending "
                "with a letter or digit"
            ),
        )


def _check_store(section: StoreSection) -> Iterator[tuple[str, str]]:
    if section.type not in {"etcd", "dir", "kubernetes"}:
        yield "type", f"{section.type!r} is not supported (known: etcd, dir, kubernetes)"
    if not re.fullmatch(r"(/[^/\s]+)+", section.prefix):
        yield "prefix", f"{section.prefix!r} must begin with / and not end with it, as /fabric"
    if section.type == "dir" and section.path is None:
        yield "path", 'is required for type = "dir"'
    if section.type != "kubernetes" and section.kubeconfig is not None:
        yield "kubeconfig", 'goes with type = "kubernetes"'
    if section.type == "etcd" and not section.endpoints:
        yield "endpoints", "names no etcd member"
    yield from _check_etcd(section)


def _check_calico(section: CalicoSection) -> Iterator[tuple[str, str]]:
    yield from _check_etcd(section)
    if not section.endpoints:
        for key in ("ca", "cert", "key", "username", "password_file"):
            if getattr(section, key) is not None:
                yield key, "goes with endpoints: without them, Calico's etcd is that of [store]"


def _check_etcd(section: StoreSection | CalicoSection) -> Iterator[tuple[str, str]]:
    schemes = set()
    for url in section.endpoints:
        scheme, _, rest = url.partition("://")
        schemes.add(scheme)
        if scheme not in {"http", "https"} or not _host_and_port(rest.removesuffix("/")):
            yield "endpoints", f"{url!r} is no http://HOST:PORT or https://HOST:PORT"
        elif urlsplit(url).port == 0:
            yield "endpoints", f"{url!r}: nobody listens on port 0"
    if len(schemes) > 1:
        yield "endpoints", "mixes http and https"
    if schemes == {"http"} and (section.ca or section.cert):
        yield "endpoints", "ca and cert are given, but the endpoints are http, not https"
    if (section.cert is None) != (section.key is None):
        missing = "cert" if section.cert is None else "key"
        yield missing, "is missing: cert and key go together"
    if (section.username is None) != (section.password_file is None):
        missing = "username" if section.username is None else "password_file"
        yield missing, "is missing: username and password_file go together"


def _check_ike(section: IkeSection) -> Iterator[tuple[str, str]]:
    if not section.socket.startswith("unix:///"):
        yield "socket", f"{section.socket!r} is no unix:///PATH"
    yield from _check_socket_path(section.socket.removeprefix("unix://"))
    if "{name}" not in section.identity:
        yield "identity", "has no {name} in it: all nodes would have one identity"
    try:
        check_identity(section.identity.replace("{name}", "name"))
    except ValueError as error:
        yield "identity", str(error)


def _check_control(section: ControlSection) -> Iterator[tuple[str, str]]:
    yield from _check_socket_path(str(section.socket))


def _check_socket_path(path: str) -> Iterator[tuple[str, str]]:
    if len(path.encode()) > 107:  # sun_path of unix(7), with its NUL
        yield "socket", f"{path!r} is longer than a socket's path can be: 107 bytes"


def _check_kernel(section: KernelSection) -> Iterator[tuple[str, str]]:
    name = section.bridge
    if not is_link_name(name):
        yield "bridge", f"{name!r} is no interface name: 1 to 15 bytes, no / : % blank"
    if name in {DEAD_END, USERSPACE_LINK, "lo"}:
        yield "bridge", f"{name} is taken for another purpose"


def _check_fabric(section: FabricSection) -> Iterator[tuple[str, str]]:
    for text in section.networks:
        try:
            net = network(text)
        except ValueError as error:
            yield "networks", f"{text!r}: {error}"
            continue
        if net.prefixlen == 0:
            yield "networks", f"{text} is the whole address space"


def _check_health(section: HealthSection) -> Iterator[tuple[str, str]]:
    if 0 < section.probe < 1:
        yield "probe", f"{section.probe:g} s is too often: at least 1 s, or 0 for no probes"


def _check_http(section: HttpSection) -> Iterator[tuple[str, str]]:
    if not _host_and_port(section.listen):
        yield "listen", f"{section.listen!r} is no ADDRESS:PORT, such as 127.0.0.1:9815"


def _host_and_port(text: str) -> bool:
    try:
        parts = urlsplit(f"//{text}")
        host = parts.hostname or ""
        if parts.netloc != text or parts.port is None or parts.username is not None:
            return False
        if ":" not in host:
            return re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", host) is not None
        address(host)
    except ValueError:
        return False
    return True


def _check_cni(section: CniSection) -> Iterator[tuple[str, str]]:
    # libcni: utils.ValidateNetworkName
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", section.network):
        yield "network", f"{section.network!r} is no name: a letter or digit, then those and _ . -"


_CHECKS: Final[dict[str, Any]] = {
    "node": _check_node,
    "store": _check_store,
    "ike": _check_ike,
    "kernel": _check_kernel,
    "fabric": _check_fabric,
    "health": _check_health,
    "http": _check_http,
    "control": _check_control,
    "calico": _check_calico,
    "cni": _check_cni,
}
