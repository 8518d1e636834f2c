"""The Container Network Interface, version 1.1.0 and back to 0.4.0, as data.

What a runtime says in environment and standard input, checked; what it is answered. Source: the
CNI specification (containernetworking/cni, SPEC.md). What is done about it is the daemon's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from fabricd.core.pods import gateway, hardware_address, port_name
from fabricd.core.unreadable import UNREADABLE
from fabricd.model import family
from fabricd.pods.attachments import Entry

VERSIONS: Final = ("0.4.0", "1.0.0", "1.1.0")

VALID_ATTACHMENTS: Final = "cni.dev/valid-attachments"

# Error codes of the specification, "Error"; from 100 on they are a plugin's own.
INCOMPATIBLE_VERSION: Final = 1
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4
DECODING_FAILED: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN: Final = 11
NOT_AVAILABLE: Final = 50
REFUSED: Final = 100
NOT_AS_IT_WAS: Final = 101

_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IFNAME: Final = re.compile(r"(?!\.{1,2}\Z)[^/:\s]{1,15}")
"""libcni: utils.ValidateInterfaceName."""

_NEEDED: Final = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
}
_SINCE: Final = {"GC": "1.1.0", "STATUS": "1.1.0"}


class Call(msgspec.Struct, frozen=True):
    """What `fabric-cni` was called with."""

    environment: dict[str, str]
    """`CNI_…`."""
    config: str
    """What came in by standard input."""


class CniError(Exception):
    """An error as the specification has it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def document(self, version: str) -> dict[str, Any]:
        """What the runtime is told."""
        known = {"cniVersion": version, "code": self.code, "msg": self.message}
        return known | ({"details": self.details} if self.details else {})


@dataclass(frozen=True, slots=True)
class Asked:
    """A call, checked."""

    command: str
    version: str
    network: str
    container: str = ""
    netns: str = ""
    ifname: str = ""
    addresses: tuple[str, ...] = ()
    """Those that the container asks for."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pod(self) -> str:
        """The name of the pod that this is."""
        return pod_name(self.container, self.ifname)


def pod_name(container: str, ifname: str) -> str:
    """A container's interface, as a pod: one may have several."""
    return f"{container}.{ifname}"


def version_of(config: str) -> str:
    """The version to answer in, whatever else is wrong."""
    try:
        found = msgspec.json.decode(config)["cniVersion"]
    except (*UNREADABLE, UnicodeError, KeyError, TypeError):
        return VERSIONS[-1]
    return found if isinstance(found, str) else VERSIONS[-1]


def parse(call: Call) -> Asked:
    """Check a call; raises CniError."""
    command = call.environment.get("CNI_COMMAND", "")
    if command not in _NEEDED:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_COMMAND is {command!r}, not one of {', '.join(_NEEDED)} and VERSION",
        )
    config = _config(call.config)
    version = _version(config, command)
    network = config.get("name")
    if not isinstance(network, str) or not _CONTAINER.fullmatch(network):
        raise CniError(INVALID_CONFIG, f"name: {network!r} is no name of a network")
    given = {key: call.environment.get(key, "") for key in _NEEDED[command]}
    if missing := [key for key, value in given.items() if not value]:
        raise CniError(INVALID_ENVIRONMENT, f"{command} needs {', '.join(missing)}")
    container, ifname = given.get("CNI_CONTAINERID", ""), given.get("CNI_IFNAME", "")
    if container and not _CONTAINER.fullmatch(container):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {container!r} is no container's ID")
    if ifname and not _IFNAME.fullmatch(ifname):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is no interface's name")
    if command == "ADD" and "prevResult" in config:
        raise CniError(INVALID_CONFIG, "prevResult: fabric-cni has to be the first of its list")
    if command == "CHECK" and not isinstance(config.get("prevResult"), dict):
        raise CniError(INVALID_CONFIG, "prevResult: CHECK needs what ADD has answered")
    addresses = _addresses(call.environment.get("CNI_ARGS", ""), config) if command == "ADD" else ()
    return Asked(
        command,
        version,
        network,
        container,
        given.get("CNI_NETNS", ""),
        ifname,
        addresses,
        config,
    )


def _config(text: str) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(text)
    except (*UNREADABLE, UnicodeError) as error:
        raise CniError(
            DECODING_FAILED, "the network's configuration is not JSON", str(error)
        ) from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILED, "the network's configuration is no JSON object")
    return config


def _version(config: Mapping[str, Any], command: str) -> str:
    version = config.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported are {', '.join(VERSIONS)}",
        )
    if (since := _SINCE.get(command, "")) > version:
        raise CniError(INCOMPATIBLE_VERSION, f"{command} is of version {since}, this is {version}")
    found: str = version
    return found


def _addresses(arguments: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those asked for: capability `ips` and `args.cni.ips`, or without these CNI_ARGS's `IP`
    (CNI's CONVENTIONS.md).
    """
    found: list[Any] = []
    for path in (("runtimeConfig", "ips"), ("args", "cni", "ips")):
        listed: Any = config
        for name in path:
            listed = listed.get(name) if isinstance(listed, dict) else None
        found += listed if isinstance(listed, list) else []
    old: list[str] = []
    for item in filter(None, arguments.split(";")):
        key, equals, value = item.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {item!r} is no KEY=VALUE")
        if key == "IP":
            old += value.split(",")
    found = found or old
    if not all(isinstance(text, str) for text in found):
        raise CniError(INVALID_CONFIG, "ips: not all of them are texts")
    return tuple(dict.fromkeys(found))


# ---------------------------------------------------------------- results


def result(asked: Asked, entry: Entry, mtu: int) -> dict[str, Any]:
    """What ADD answers."""
    newest = asked.version == VERSIONS[-1]
    inside = {
        "name": entry.ifname,
        "mac": hardware_address(entry.addresses[0]),
        "sandbox": entry.netns,
        **({"mtu": mtu} if newest else {}),
    }
    dns = asked.config.get("dns")
    return {
        "cniVersion": asked.version,
        "interfaces": [{"name": port_name(entry.name)}, inside],
        "ips": [
            {
                **({"version": str(family(address))} if asked.version == "0.4.0" else {}),
                "interface": 1,
                "address": address,
                "gateway": gateway(address),
            }
            for address in entry.addresses
        ],
        "routes": [
            {"dst": "::/0" if family(address) == 6 else "0.0.0.0/0", "gw": gateway(address)}
            for address in entry.addresses
        ],
        "dns": dns if isinstance(dns, dict) else {},
    }


def missing_from(previous: Mapping[str, Any], entry: Entry) -> str:
    """What of a pod an earlier result does not say, in words; empty: it says it all."""
    ips = previous.get("ips")
    told = {item.get("address") for item in ips or () if isinstance(item, dict)}
    lacking = [address for address in entry.addresses if address not in told]
    return f"prevResult has no {', '.join(lacking)}" if lacking else ""


def valid_attachments(config: Mapping[str, Any]) -> frozenset[str]:
    """The pods that GC is to leave, by name. Raises CniError."""
    listed = config.get(VALID_ATTACHMENTS)
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIG, f"{VALID_ATTACHMENTS}: GC needs a list")
    names = set()
    for item in listed:
        match item:
            case {"containerID": str(container), "ifname": str(ifname)}:
                names.add(pod_name(container, ifname))
            case _:
                raise CniError(
                    INVALID_CONFIG, f"{VALID_ATTACHMENTS}: {item!r} is no containerID and ifname"
                )
    return frozenset(names)
