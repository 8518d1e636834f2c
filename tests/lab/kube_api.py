"""What an API server keeps, with the semantics that the recordings in tests/unit/sources/kube show:
one version for all, pages at one version, a window of history that a compaction ends, watches.

Values only; HTTP and who may do what is `kube_server`'s. JSON as the API writes it.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


class ApiError(Exception):
    """A refusal: HTTP code, and the reason and message of a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.metadata: dict[str, str] = {}

    def status(self) -> Object:
        reason = {"reason": self.reason} if self.reason else {}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            **reason,
            "code": self.code,
        }


@dataclass(frozen=True)
class Kind:
    """A kind of objects."""

    plural: str
    kind: str
    version: str
    namespaced: bool = False
    has_status: bool = True
    """A subresource: what is written elsewhere leaves it alone."""


KINDS = {
    "/api/v1/nodes": Kind("nodes", "Node", "v1", has_status=False),
    "/api/v1/namespaces/default/events": Kind(
        "events", "Event", "v1", namespaced=True, has_status=False
    ),
    "/apis/fabricd.io/v1/communities": Kind(
        "communities", "Community", "fabricd.io/v1", has_status=False
    ),
    "/apis/fabricd.io/v1/fabricnodes": Kind("fabricnodes", "FabricNode", "fabricd.io/v1"),
}

CRDS = "customresourcedefinitions"


def path_of(version: str, plural: str, namespace: str = "") -> str:
    """Where objects of a kind are."""
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/{'apis' if '/' in version else 'api'}/{version}{within}/{plural}"


def defined(crd: Object) -> tuple[str, Kind]:
    """The kind of a CustomResourceDefinition, and its path."""
    spec, names = crd["spec"], crd["spec"]["names"]
    [served] = spec["versions"]
    version = f"{spec['group']}/{served['name']}"
    has_status = "status" in served.get("subresources", {})
    kind = Kind(names["plural"], names["kind"], version, has_status=has_status)
    return path_of(version, kind.plural), kind


@dataclass
class KubeApi:
    """The store behind an API server."""

    kinds: dict[str, Kind] = field(default_factory=lambda: dict(KINDS))
    """By path. Without a custom resource's its definition is not installed."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    """By kind's plural and name."""
    version: int = 200
    oldest: int = 200
    """Watches go back to here."""
    history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    """Version, plural, type, object."""
    pages: dict[int, dict[tuple[str, str], Object]] = field(default_factory=dict)
    """Whole states that somebody is paging through."""
    changed: Callable[[], None] = lambda: None
    """Called after each change."""
    clock: Callable[[], str] = lambda: "2026-11-23T17:28:35Z"

    # ------------------------------------------------------------ reading

    def get(self, kind: Kind, name: str) -> Object:
        try:
            return self.objects[kind.plural, name]
        except KeyError:
            raise ApiError(404, "NotFound", f'{kind.plural} "{name}" not found') from None

    def list(self, kind: Kind, limit: int | None = None, token: str = "") -> Object:
        """A list object, or a page of one."""
        at, start, state = self.version, "", self.objects
        if token:
            asked = json.loads(base64.urlsafe_b64decode(token + "=="))
            start = asked["start"]
            if asked["rv"] == -1:
                at = self.version
            elif (at := asked["rv"]) in self.pages:
                state = self.pages[at]
            else:
                error = ApiError(410, "Expired", "The provided continue parameter is too old")
                error.metadata = {"continue": _token(-1, start)}
                raise error
        items = [
            value
            for (plural, name), value in sorted(state.items())
            if plural == kind.plural and name >= start
        ]
        meta: Object = {"resourceVersion": str(at)}
        if limit and len(items) > limit:
            self.pages[at] = dict(state)
            meta["continue"] = _token(at, items[limit - 1]["metadata"]["name"] + "\0")
            meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.version,
            "metadata": meta,
            "items": [_bare(item, kind) for item in items],
        }

    def events(self, kind: Kind, after: int) -> Iterator[Object]:
        """The frames of a watch from a version on, as far as anything has happened."""
        if after < self.oldest:
            raise ApiError(410, "Expired", f"too old resource version: {after} ({self.oldest})")
        for version, plural, type_, value in self.history:
            if version > after and plural == kind.plural:
                yield {"type": type_, "object": value}

    # ------------------------------------------------------------ writing

    def create(self, kind: Kind, value: Object) -> Object:
        meta = value.get("metadata", {})
        name = meta.get("name", "")
        if (kind.plural, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        value = copy.deepcopy(value) | {"kind": kind.kind, "apiVersion": kind.version}
        if kind.has_status:
            value.pop("status", None)
        value["metadata"]["uid"] = f"uid-{self.version + 1}"
        value["metadata"].setdefault("creationTimestamp", self.clock())
        if kind.plural == CRDS:
            self.kinds.update([defined(value)])
        return self._store(kind, "ADDED", value)

    def replace(self, kind: Kind, name: str, value: Object) -> Object:
        old = self.get(kind, name)
        given = value["metadata"].get("resourceVersion")
        if given is not None and given != old["metadata"]["resourceVersion"]:
            raise ApiError(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {kind.plural} "{name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        value = copy.deepcopy(value)
        value["metadata"]["uid"] = old["metadata"]["uid"]
        if _same(old, value):
            return old
        return self._store(kind, "MODIFIED", value)

    def patch(self, kind: Kind, name: str, patch: Any, *, status: bool = False) -> Object:
        """A merge patch, or a JSON patch if it is a list; of the status alone, or of the rest."""
        old = self.get(kind, name)
        new = _json_patch(old, patch) if isinstance(patch, list) else merge_patch(old, patch)
        if status:
            new = {**old, **({"status": new["status"]} if "status" in new else {})}
        elif kind.has_status:
            new = {**{k: v for k, v in new.items() if k != "status"}}
            new |= {"status": old["status"]} if "status" in old else {}
        return self.replace(kind, name, new)

    def delete(self, kind: Kind, name: str) -> Object:
        """Delete an object, and what it owns."""
        gone = copy.deepcopy(self.get(kind, name))
        del self.objects[kind.plural, name]
        self._happened(kind, "DELETED", gone)
        uid = gone["metadata"]["uid"]
        for owned_kind in self.kinds.values():
            for plural, owned in list(self.objects):
                value = self.objects[plural, owned]
                owners = value["metadata"].get("ownerReferences", [])
                if plural == owned_kind.plural and [o["uid"] for o in owners] == [uid]:
                    self.delete(owned_kind, owned)
        return gone

    def compact(self) -> None:
        """Forget all history before now."""
        self.oldest = self.version
        self.history.clear()
        self.pages.clear()

    def backup(self) -> Object:
        """All that a restore needs."""
        objects = [[*key, value] for key, value in self.objects.items()]
        return copy.deepcopy({"version": self.version, "objects": objects})

    def restore(self, backup: Object) -> None:
        """Be as at a backup: versions that were given since are given again."""
        backup = copy.deepcopy(backup)
        self.version = self.oldest = backup["version"]
        self.objects = {(plural, name): value for plural, name, value in backup["objects"]}
        self.history.clear()
        self.pages.clear()
        self.changed()

    def _store(self, kind: Kind, type_: str, value: Object) -> Object:
        self.objects[kind.plural, value["metadata"]["name"]] = value
        self._happened(kind, type_, value)
        return value

    def _happened(self, kind: Kind, type_: str, value: Object) -> None:
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind.plural, type_, copy.deepcopy(value)))
        self.changed()


def _token(version: int, start: str) -> str:
    asked = {"v": "meta.k8s.io/v1", "rv": version, "start": start}
    text = json.dumps(asked, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _bare(value: Object, kind: Kind) -> Object:
    """Items of a list of the core API are without their kind; custom resources keep it."""
    if "." in kind.version:
        return value
    return {k: v for k, v in value.items() if k not in {"kind", "apiVersion"}}


def _same(one: Object, other: Object) -> bool:
    """Whether two objects differ in their version alone: then nothing is written."""
    one, other = copy.deepcopy(one), copy.deepcopy(other)
    one["metadata"].pop("resourceVersion", None)
    other["metadata"].pop("resourceVersion", None)
    return one == other


def merge_patch(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def is_plain(patch: Any) -> bool:
    """Whether a strategic merge patch says what a merge patch (RFC 7386) would."""
    if isinstance(patch, dict):
        return all(key[:1] != "$" and is_plain(value) for key, value in patch.items())
    return not isinstance(patch, list)


def _json_patch(old: Object, patch: list[Object]) -> Object:
    """RFC 6902, as far as it is used: "add" of a member of the object itself."""
    result = dict(old)
    for change in patch:
        path = change["path"].lstrip("/")
        if change["op"] != "add" or "/" in path:
            raise ApiError(422, "Invalid", "the server rejected our request")
        result[path] = change["value"]
    return result
