"""Kubernetes' objects as records, and records as changes to its objects.

    Node, label fabricd.io/role                  the record's role: without it there is no record
    label community.fabricd.io/TOKEN             a token
    annotation fabricd.io/FIELD                  any other field
    spec.podCIDRs, status.addresses              subnets and endpoint without their annotation
    Community, spec                              the community record as it is

Pure. What a field may hold is `core.records`' affair: here a record is JSON, right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from fabricd.core.events import Put

NODES: Final = "nodes"
COMMUNITIES: Final = "communities"

ROLE: Final = "fabricd.io/role"
PREFIX: Final = "fabricd.io/"
COMMUNITY_LABEL: Final = "community.fabricd.io/"

BEHIND_NAT: Final = "none"
"""What annotation `fabricd.io/endpoint` says for a node that can only initiate."""

ADDRESS_TYPES: Final = ("ExternalIP", "InternalIP")
"""Addresses of a Node that are an endpoint, the preferred first."""

_FIXED: Final = {"": "metadata", "name": "metadata.name", "role": f"label {ROLE}"}
_ELSEWHERE: Final = {
    "subnets": "spec.podCIDRs",
    "endpoint": "status.addresses",
    "community": f"labels {COMMUNITY_LABEL}TOKEN",
}

_QUALIFIED: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""The name in a label's or annotation's key (Kubernetes: "Labels and Selectors")."""


class Meta(Struct, frozen=True, rename="camel"):
    """`metadata` of an object, as far as it matters here."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class NodeSpec(Struct, frozen=True):
    """`spec` of a Node."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")


class NodeAddress(Struct, frozen=True):
    """One of a Node's addresses."""

    type: str = ""
    address: str = ""


class NodeStatus(Struct, frozen=True):
    """`status` of a Node."""

    addresses: list[NodeAddress] | None = None


class KubeNode(Struct, frozen=True):
    """A Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class KubeCommunity(Struct, frozen=True):
    """A Community."""

    metadata: Meta
    spec: Any = None


# ---------------------------------------------------------------- objects to records


def put_of_node(node: KubeNode) -> Put | None:
    """The node record that a Node holds; None: it is not in the fabric."""
    fields = node_fields(node)
    if fields is None:
        return None
    return Put(f"{NODES}/{node.metadata.name}", _encode(fields), _rank(node.metadata))


def put_of_community(community: KubeCommunity) -> Put:
    """The community record that a Community holds."""
    meta = community.metadata
    return Put(f"{COMMUNITIES}/{meta.name}", _encode(community.spec), _rank(meta))


def node_fields(node: KubeNode) -> dict[str, Any] | None:
    """A Node's record, field by field, in a fixed order."""
    labels, annotations = node.metadata.labels or {}, node.metadata.annotations or {}
    if ROLE not in labels:
        return None
    given = {
        key.removeprefix(PREFIX): value
        for key, value in sorted(annotations.items())
        if key.startswith(PREFIX)
    }
    return {
        field: value
        for field, value in {
            "role": labels[ROLE],
            "endpoint": _endpoint(node, given.pop("endpoint", None)),
            "subnets": _subnets(node, given.pop("subnets", None)),
            "community": _community(labels, given.pop("community", "")),
            "identity": given.pop("identity", None),
            "priority": _number(given.pop("priority", None)),
            "drained": _boolean(given.pop("drained", None)),
            # Nobody knows these: they are reported by their names.
            **{"annotation fabricd.io/role" if f == "role" else f: v for f, v in given.items()},
            **{f"label {key}": value for key, value in sorted(labels.items()) if _stray(key)},
        }.items()
        if value is not None
    }


def place(field: str, node: KubeNode | None = None) -> str:
    """Where on a Node the field of its record comes from, for people; without the Node: where it
    can come from.
    """
    if field in _ELSEWHERE:
        annotations = (node.metadata.annotations if node else None) or {}
        annotation, elsewhere = f"annotation {PREFIX}{field}", _ELSEWHERE[field]
        if node is None:
            return f"{annotation} or {elsewhere}"
        return annotation if PREFIX + field in annotations else elsewhere
    return _FIXED.get(field, f"annotation {PREFIX}{field}")


def _endpoint(node: KubeNode, given: str | None) -> str | None:
    if given is not None:
        return None if given.strip() == BEHIND_NAT else given.strip()
    for kind in ADDRESS_TYPES:
        for address in node.status.addresses or ():
            if address.type == kind:
                return address.address
    return None


def _subnets(node: KubeNode, given: str | None) -> list[str] | None:
    if given is not None:
        return [text for part in given.split(",") if (text := part.strip())]
    return node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else None)


def _community(labels: Mapping[str, str], given: str) -> str | None:
    tokens = {text for part in given.split(";") if (text := part.strip())}
    tokens |= {
        key.removeprefix(COMMUNITY_LABEL) for key in labels if key.startswith(COMMUNITY_LABEL)
    }
    return ";".join(sorted(tokens)) or None


def _under(keys: Mapping[str, str] | None, prefix: str) -> list[str]:
    return [key for key in keys or () if key.startswith(prefix)]


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,18}", text.strip()) else text


def _boolean(text: str | None) -> bool | str | None:
    return {"true": True, "false": False}.get(text.strip(), text) if text is not None else None


def _stray(key: str) -> bool:
    """A label that was meant to be an annotation, or is none that is known."""
    return key.startswith(PREFIX) and key != ROLE


def _rank(meta: Meta) -> int:
    """The second of the object's creation: the rank that it has among others."""
    try:
        return int(datetime.fromisoformat(meta.creation_timestamp or "").timestamp())
    except ValueError:
        return 0


def _encode(record: Any) -> bytes:
    return msgspec.json.encode(record)


# ---------------------------------------------------------------- records to objects


def node_patch(node: KubeNode, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """A merge patch (RFC 7386) that makes a Node hold a record, or none; refused with 409 when the
    Node has changed meanwhile.

    A token that can be a label becomes one, so that Nodes can be selected by it. Raises ValueError
    for a field that has no place on a Node.
    """
    labels: dict[str, str | None] = dict.fromkeys(
        (*_under(node.metadata.labels, PREFIX), *_under(node.metadata.labels, COMMUNITY_LABEL))
    )
    annotations: dict[str, str | None] = dict.fromkeys(_under(node.metadata.annotations, PREFIX))
    if record is not None:
        fields = {field: value for field, value in record.items() if value is not None}
        labels[ROLE] = _text(fields.pop("role", "edge"))
        tokens = _tokens(fields.pop("community", ""))
        as_labels = [token for token in tokens if _QUALIFIED.fullmatch(token)]
        labels |= {COMMUNITY_LABEL + token: "" for token in as_labels}
        if rest := [token for token in tokens if token not in as_labels]:
            fields["community"] = ";".join(rest)
        fields.setdefault("endpoint", BEHIND_NAT)
        for field, value in fields.items():
            if not _QUALIFIED.fullmatch(field):
                raise ValueError(f"field {field!r} can't be the name of an annotation")
            annotations[PREFIX + field] = _text(value)
    return {
        "metadata": {
            "resourceVersion": node.metadata.resource_version,
            "labels": labels,
            "annotations": annotations,
        }
    }


def _tokens(value: Any) -> list[str]:
    texts = value.split(";") if isinstance(value, str) else value
    return sorted({text for part in texts if (text := str(part).strip())})


def _text(value: Any) -> str:
    """A field's value as an annotation holds it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return msgspec.json.encode(value).decode()
