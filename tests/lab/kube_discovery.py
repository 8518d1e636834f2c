"""What kubectl asks an API server beside objects:

    discovery   which kinds there are: /version, /api, /apis and below
    OpenAPI     what fits a kind, so that kubectl itself refuses the rest: /openapi/v2
    Table       rows and columns in place of objects: Accept: application/json;as=Table

Of a custom resource all of it comes from its definition, as that was applied. Values only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tests.lab.kube_api import CRDS, KINDS, Kind, KubeApi, Object, path_of

ADMISSION = "admissionregistration.k8s.io"

# Version, plural, kind; the namespace that we use, or * for all of them at once.
_OTHERS = (
    ("v1", "events", "Event", "*"),
    ("v1", "pods", "Pod", "*"),
    ("v1", "namespaces", "Namespace", ""),
    ("v1", "configmaps", "ConfigMap", "fabricd"),
    ("v1", "serviceaccounts", "ServiceAccount", "fabricd"),
    ("apps/v1", "daemonsets", "DaemonSet", "fabricd"),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", "default"),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", "default"),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", ""),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", ""),
    (f"{ADMISSION}/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", ""),
    (
        f"{ADMISSION}/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
    ),
    ("apiextensions.k8s.io/v1", CRDS, "CustomResourceDefinition", ""),
)

CLUSTER = {path: kind for path, kind in KINDS.items() if kind.version == "v1"} | {
    path_of(version, plural, within.strip("*")): Kind(
        plural, kind, version, namespaced=within != "", has_status=False
    )
    for version, plural, kind, within in _OTHERS
}
"""What a cluster has of its own, as far as contrib/kubernetes and kubectl ask for it."""


# ---------------------------------------------------------------- discovery

VERSION = {"major": "1", "minor": "20", "gitVersion": "v1.20.2", "platform": "linux/amd64"}

JSON = "application/json"
PROTOBUF = "application/octet-stream"

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def discovered(api: KubeApi, path: str) -> tuple[bytes, str] | None:
    """The answer and its type; None: the path is about objects, or nothing."""
    if path == "/openapi/v2":
        return _openapi(api), PROTOBUF
    found = _discovered(api, path)
    return (json.dumps(found).encode() + b"\n", JSON) if found is not None else None


def _discovered(api: KubeApi, path: str) -> Object | None:
    versions = dict.fromkeys(kind.version for kind in api.kinds.values())
    match path.strip("/").split("/"):
        case ["version"]:
            return VERSION
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(version) for version in versions if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["api" | "apis", *rest] if (version := "/".join(rest)) in versions:
            # A kind of several namespaces has several paths.
            there = {k.plural: k for k in api.kinds.values() if k.version == version}
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": version,
                "resources": [_resource(api, kind) for kind in there.values()],
            }
    return None


def _group(group_version: str) -> Object:
    version = {"groupVersion": group_version, "version": group_version.partition("/")[2]}
    name = group_version.partition("/")[0]
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource(api: KubeApi, kind: Kind) -> Object:
    names = (_definition(api, kind) or {"names": {}})["names"]
    return {
        "name": kind.plural,
        "singularName": names.get("singular", ""),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": VERBS,
        "shortNames": names.get("shortNames", []),
    }


def _definition(api: KubeApi, kind: Kind) -> Object | None:
    """`spec` of a custom resource's definition."""
    crd = api.objects.get((CRDS, f"{kind.plural}.{kind.version.partition('/')[0]}"))
    return crd["spec"] if crd is not None else None


# ---------------------------------------------------------------- selection, and tables


def look_up(value: Any, path: str) -> Any:
    """What `.spec.members` leads to; None: nothing."""
    for name in path.strip(".").split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def selected(items: Iterable[Object], selector: str) -> list[Object]:
    """Those that a fieldSelector means: `a.b=c,d!=e`; what is not there is empty."""

    def fits(item: Object, term: str) -> bool:
        path, _, wanted = term.partition("=")
        equal = (look_up(item, path.rstrip("!")) or "") == wanted
        return equal != path.endswith("!")

    return [item for item in items if all(fits(item, term) for term in selector.split(","))]


def table(api: KubeApi, kind: Kind, answer: Object) -> Object:
    """An object or a list of them in the columns of its definition; as it is if it has none."""
    definition = _definition(api, kind)
    if definition is None:
        return answer
    columns = definition["versions"][0]["additionalPrinterColumns"]
    name = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}
    items = answer["items"] if answer["kind"].endswith("List") else [answer]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": answer["metadata"]["resourceVersion"]},
        "columnDefinitions": [
            name,
            *({"format": "", "description": "", "priority": 0, **column} for column in columns),
        ],
        "rows": [
            {
                "cells": [
                    item["metadata"]["name"],
                    *(_cell(column, look_up(item, column["jsonPath"]), api) for column in columns),
                ],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": item["metadata"],
                },
            }
            for item in items
        ],
    }


def _cell(column: Object, value: Any, api: KubeApi) -> Any:
    if value is None:
        return None
    match column["type"]:
        case "date":
            since = datetime.fromisoformat(api.clock()) - datetime.fromisoformat(value)
            return _age(int(since.total_seconds()))
        case "string":
            return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return value


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNITS = (
    (2 * 60, "s", ""),
    (10 * 60, "m", "s"),
    (3 * 3600, "m", ""),
    (8 * 3600, "h", "m"),
    (2 * 86_400, "h", ""),
    (8 * 86_400, "d", "h"),
    (2 * 365 * 86_400, "d", ""),
)
"""Until so many seconds, an age is in these."""


def _age(seconds: int) -> str:
    """As Kubernetes shortens it (apimachinery, duration.HumanDuration)."""
    unit, small = next((unit, small) for until, unit, small in _UNITS if seconds < until)
    text = f"{seconds // _SECONDS[unit]}{unit}"
    rest = seconds % _SECONDS[unit] // _SECONDS[small] if small else 0
    return f"{text}{rest}{small}" if rest else text


# ---------------------------------------------------------------- OpenAPI, as protobuf


def _openapi(api: KubeApi) -> bytes:
    """`Document` of OpenAPIv2.proto (gnostic), with the custom resources. Of kinds that are not in
    it kubectl takes whatever it is given.
    """
    definitions = b""
    for kind in api.kinds.values():
        definition = _definition(api, kind)
        if definition is not None:
            group, _, version = kind.version.partition("/")
            # API servers publish each part that keeps unknown fields as one that takes any.
            schema = definition["versions"][0]["schema"]["openAPIV3Schema"]
            gvk = json.dumps([{"group": group, "version": version, "kind": kind.kind}])
            extension = _named("x-kubernetes-group-version-kind", _bytes(2, gvk))
            definitions += _bytes(
                1, _named(f"io.{group}.{kind.kind}", _schema(schema) + _bytes(31, extension))
            )
    info = _bytes(1, "Kubernetes") + _bytes(2, VERSION["gitVersion"])
    return _bytes(1, "2.0") + _bytes(2, info) + _bytes(9, definitions)


def _schema(schema: Object) -> bytes:
    """`Schema`, its type and what is in it."""
    result = _bytes(4, schema.get("description", "")) + _bytes(22, _bytes(1, schema["type"]))
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return result
    result += b"".join(_bytes(19, name) for name in schema.get("required", ()))
    if "items" in schema:
        result += _bytes(23, _bytes(1, _schema(schema["items"])))
    properties = schema.get("properties", {}).items()
    inner = b"".join(_bytes(1, _named(name, _schema(value))) for name, value in properties)
    return result + (_bytes(25, inner) if inner else b"")


def _named(name: str, value: bytes) -> bytes:
    return _bytes(1, name) + _bytes(2, value)


def _bytes(field: int, value: str | bytes) -> bytes:
    """A field of text or of a message (Protocol Buffers, "Encoding": wire type 2)."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
