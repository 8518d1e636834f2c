"""The fabric's IPPools as Calico knows them: what they should be, and what stands in the way.

A pool over the edges' networks tells Calico two things: not to masquerade what goes there
(Felix leaves alone what goes from pool to pool), and that its BIRD may pass on routes to them.
Calico's own IPAM takes nothing from it: it is disabled.

Documents are IPPools of `projectcalico.org/v3`, the same in a manifest and in the datastore
(projectcalico/calico, api/pkg/apis/projectcalico/v3/ippool.go). Pure: neither clock nor store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fabricd.model import Prefix, family, network

Document = Mapping[str, Any]

API_VERSION: Final = "projectcalico.org/v3"
KIND: Final = "IPPool"

IPV6_BLOCK_SIZE: Final = 122
"""Calico's default; IPv4's is outside of what it allows for IPv6."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "ipipMode": "Never",
    "vxlanMode": "Never",
    "natOutgoing": False,
    "disabled": False,
    "disableBGPExport": False,
    "nodeSelector": "all()",
}
"""What an absent field means: Go leaves out what is false or empty."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator may choose: `[calico]` of the config."""

    ipip_mode: str = "Always"
    block_size: int = 24
    node_selector: str = "all()"


class Refused(Exception):
    """A pool that must not be written; the reason is one line for the operator."""


def manifests(networks: Sequence[Prefix], options: Options) -> list[dict[str, Any]]:
    """One IPPool for each network of the fabric: `fabric-pool`, `fabric-pool-2` …"""
    return [
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": "fabric-pool" if number == 1 else f"fabric-pool-{number}"},
            "spec": _spec(net, options),
        }
        for number, net in enumerate(networks, 1)
    ]


def _spec(net: Prefix, options: Options) -> dict[str, Any]:
    ipv4 = family(net) == 4
    block_size = options.block_size if ipv4 else IPV6_BLOCK_SIZE
    return {
        "cidr": str(net),
        "blockSize": max(block_size, network(net).prefixlen),  # a block has to fit in
        "disabled": True,
        "ipipMode": options.ipip_mode if ipv4 else "Never",  # Calico has no other for IPv6
        "natOutgoing": False,
        "nodeSelector": options.node_selector,
        # With VXLAN it is Felix that makes the routes, and only those to Calico's own blocks.
        "vxlanMode": "Never",
    }


def name_of(pool: Document) -> str:
    """`metadata.name`, or nothing."""
    metadata = pool.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def cidr_of(pool: Document) -> Prefix | None:
    """`spec.cidr` in canonical form; None for a pool that has none."""
    try:
        return Prefix(str(network(str(_fields(pool)["cidr"]))))
    except (KeyError, ValueError):
        return None


def differences(wanted: Document, stored: Document) -> list[str]:
    """What of a stored pool is not as wanted, for people: `natOutgoing is true, not false`.

    The block size is not among it: Calico does not let it be changed, and no block is ever
    taken from a disabled pool.
    """
    right, found = _settings(wanted), _settings(stored)
    return [
        f"{field} is {_shown(found[field])}, not {_shown(right[field])}"
        for field in right
        if found[field] != right[field]
    ]


def _settings(pool: Document) -> dict[str, Any]:
    spec = _fields(pool)
    return {"cidr": cidr_of(pool)} | {
        field: spec.get(field) or default for field, default in DEFAULTS.items()
    }


def _fields(pool: Document) -> Mapping[str, Any]:
    spec = pool.get("spec")
    return spec if isinstance(spec, dict) else {}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def overlapping(wanted: Document, pools: Iterable[Document]) -> list[str]:
    """The other pools that overlap a wanted one, for people: `default-pool 2.2.0.0/16`."""
    mine = cidr_of(wanted)
    assert mine is not None, "a manifest has a canonical cidr"
    return [
        f"{name_of(pool)} {cidr}"
        for pool in pools
        if name_of(pool) != name_of(wanted)
        and (cidr := cidr_of(pool)) is not None
        and family(cidr) == family(mine)
        and network(cidr).overlaps(network(mine))
    ]


def to_store(
    wanted: Document, pools: Mapping[str, Document], *, force: bool, uid: str, now: str
) -> dict[str, Any] | None:
    """What to write for a wanted pool, given all that are there, by name; None: it is right.

    uid, now: metadata of a pool that is new, as libcalico-go gives it: a UUID, and the time by
    RFC 3339. An update keeps those, and every field that we don't set. force: a pool of that
    name for another network is replaced. Raises Refused.
    """
    name = name_of(wanted)
    if others := overlapping(wanted, pools.values()):
        raise Refused(
            f"{name}: {cidr_of(wanted)} overlaps {', '.join(others)}: choose another network for "
            "the fabric, or remove that pool"
        )
    stored = pools.get(name)
    fresh = {
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {"name": name, "uid": uid, "creationTimestamp": now},
        "spec": dict(wanted["spec"]),
    }
    if stored is None:
        return fresh
    if cidr_of(stored) != cidr_of(wanted):
        if not force:
            raise Refused(
                f"{name}: that pool is there for {cidr_of(stored)}, not {cidr_of(wanted)}: "
                "--force replaces it, after which nothing keeps Calico from masquerading towards "
                f"{cidr_of(stored)}"
            )
        return fresh
    if not differences(wanted, stored):
        return None
    spec = {**_fields(stored), **wanted["spec"], "disableBGPExport": False}
    spec["blockSize"] = _fields(stored).get("blockSize", spec["blockSize"])
    return {**stored, "spec": spec}
