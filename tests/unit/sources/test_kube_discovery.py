"""What the tests' API server says of itself, held against the recordings and contrib/kubernetes:
kubectl believes it, and so do the tests that read what kubectl prints.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.kube_api import KubeApi, is_plain
from tests.lab.kube_discovery import CLUSTER, discovered, selected, table
from tests.unit.sources.test_kube_manifests import manifests
from tests.unit.sources.test_kube_recordings import body, recording

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
COMMUNITIES = "/apis/fabricd.io/v1/communities"


@pytest.fixture
def api() -> KubeApi:
    """A cluster to which crd.yaml was applied."""
    made = KubeApi(dict(CLUSTER))
    for crd in manifests("crd.yaml"):
        made.create(CLUSTER[DEFINITIONS], crd)
    return made


def answer(api: KubeApi, path: str) -> Any:
    found = discovered(api, path)
    return json.loads(found[0]) if found is not None else None


def test_every_kind_is_discovered_where_its_objects_are(api: KubeApi) -> None:
    groups = [g["preferredVersion"]["groupVersion"] for g in answer(api, "/apis")["groups"]]
    assert sorted(groups) == sorted({k.version for k in api.kinds.values()} - {"v1"})
    for path, kind in api.kinds.items():
        root = path.partition(kind.version)[0] + kind.version
        [there] = [r for r in answer(api, root)["resources"] if r["name"] == kind.plural]
        assert (there["kind"], there["namespaced"]) == (kind.kind, kind.namespaced)
        assert answer(api, path) is None, "that is about objects"


def test_a_custom_resource_is_there_once_it_is_defined(api: KubeApi) -> None:
    assert answer(KubeApi(dict(CLUSTER)), "/apis/fabricd.io/v1") is None
    there = {r["name"]: r["shortNames"] for r in answer(api, "/apis/fabricd.io/v1")["resources"]}
    assert there == {"communities": ["fcom"], "fabricnodes": ["fn"]}
    # And then it is the one of which the recordings are.
    assert api.kinds[COMMUNITIES] == KubeApi().kinds[COMMUNITIES]
    path = "/apis/fabricd.io/v1/fabricnodes"
    assert api.kinds[path] == KubeApi().kinds[path]


def test_a_recorded_community_in_its_columns(api: KubeApi) -> None:
    frames = [json.loads(chunk["data"]) for chunk in recording("watch-communities")["chunks"]]
    community = frames[0]["object"]
    listed = {"kind": "CommunityList", "metadata": {"resourceVersion": "212"}}
    for of in (community, {**listed, "items": [community]}):
        shown = table(api, api.kinds[COMMUNITIES], of)
        assert [column["name"] for column in shown["columnDefinitions"]] == [
            "Name",
            "Members",
            "Age",
        ]
        [row] = shown["rows"]
        assert row["cells"][:2] == ["late", '["edge3","edge5"]']
        assert row["object"]["metadata"] == community["metadata"]
        assert shown["metadata"] == {"resourceVersion": "212"}


def test_what_has_no_definition_is_no_table(api: KubeApi) -> None:
    assert table(api, api.kinds["/api/v1/nodes"], body("list")) == body("list")


@pytest.mark.parametrize(
    ("after", "age"),
    [
        ("2026-11-23T17:28:36Z", "1s"),
        ("2026-11-23T17:33:00Z", "4m25s"),
        ("2026-11-23T17:40:35Z", "12m"),
        ("2026-11-23T22:30:35Z", "5h2m"),
        ("2026-11-25T20:28:35Z", "2d3h"),
        ("2026-11-26T17:28:35Z", "3d"),
        ("2026-12-23T18:28:35Z", "30d"),
    ],
)
def test_an_age(api: KubeApi, after: str, age: str) -> None:
    api.clock = lambda: after
    community = api.kinds[COMMUNITIES]
    value = {"metadata": {"name": "app1", "creationTimestamp": "2026-11-23T17:28:35Z"}}
    shown = table(api, community, api.create(community, value))
    assert shown["rows"][0]["cells"] == ["app1", None, age]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=edge2", ["edge2"]),
        ("metadata.name!=edge2", ["edge3", "edge4", "node1", "node2"]),
        ("spec.podCIDR=2.2.2.0/27,metadata.name=edge2", ["edge2"]),
        ("spec.podCIDR=2.2.2.0/27,metadata.name=edge3", []),
        ("metadata.namespace=,metadata.name=edge3", ["edge3"]),
    ],
)
def test_recorded_nodes_by_their_fields(selector: str, names: list[str]) -> None:
    assert [n["metadata"]["name"] for n in selected(body("list")["items"], selector)] == names


def test_a_strategic_patch_is_taken_where_it_is_a_merge_patch() -> None:
    assert is_plain(recording("patch-annotation")["request"]["body"])
    assert is_plain({"metadata": {"labels": {"fabricd.io/role": None}}})
    assert not is_plain({"spec": {"taints": [{"key": "a"}]}})
    assert not is_plain({"metadata": {"$patch": "replace"}})
