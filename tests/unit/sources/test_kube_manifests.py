"""contrib/kubernetes: definitions that an API server takes, rights that are enough and no more,
pods whose pieces fit together.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from fabricd.config import parse
from fabricd.sources.kube_status import status_of
from tests.lab.followed import following
from tests.lab.kube_cluster import KubeCluster

FOLDER = Path(__file__).parents[3] / "contrib" / "kubernetes"

Manifest = dict[str, Any]


def manifests(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def find(name: str, kind: str, called: str = "") -> Manifest:
    [found] = [
        m for m in manifests(name) if m["kind"] == kind and called in {"", m["metadata"]["name"]}
    ]
    return found


# ---------------------------------------------------------------- the definitions

CRDS = {crd["spec"]["names"]["kind"]: crd for crd in manifests("crd.yaml")}

VALUE_RULES = {"minimum", "maxLength", "pattern", "required", "description"}
STRUCTURE = {"type", "properties", "items", "x-kubernetes-preserve-unknown-fields"}


def schema_of(kind: str) -> Manifest:
    [version] = CRDS[kind]["spec"]["versions"]
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: Manifest, path: str = "") -> Iterator[tuple[str, Manifest]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")


def fits(schema: Manifest, value: Any) -> bool:
    """Whether a value is what a schema says, as an API server judges it."""
    python = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, python[schema["type"]]):
        return False
    match value:
        case dict():
            known = schema.get("properties", {})
            open_ = schema.get("x-kubernetes-preserve-unknown-fields", not known)
            return bool(
                all(name in value for name in schema.get("required", ()))
                and (open_ or value.keys() <= known.keys())
                and all(fits(known[name], inner) for name, inner in value.items() if name in known)
            )
        case list():
            return all(fits(schema["items"], item) for item in value)
        case str():
            # A dollar in Go's expressions, which an API server uses, is the very end.
            pattern = schema.get("pattern", "").replace("$", r"\Z")
            short = len(value) <= schema.get("maxLength", len(value))
            return short and bool(re.search(pattern, value))
        case bool():
            return bool(schema["type"] == "boolean")
    return bool(value >= schema.get("minimum", value))


@pytest.mark.parametrize("kind", ["Community", "FabricNode"])
def test_a_definition_that_an_api_server_takes(kind: str) -> None:
    """Kubernetes, "Specifying a structural schema": a type everywhere, and no other keywords."""
    crd = CRDS[kind]
    names = crd["spec"]["names"]
    assert crd["metadata"]["name"] == f"{names['plural']}.{crd['spec']['group']}"
    assert crd["spec"]["scope"] == "Cluster"
    for path, schema in walk(schema_of(kind)):
        assert "type" in schema, path
        assert schema.keys() <= STRUCTURE | VALUE_RULES, path
        assert (schema["type"] == "array") == ("items" in schema), path
        if "pattern" in schema:
            re.compile(schema["pattern"])


@pytest.mark.parametrize("kind", ["Community", "FabricNode"])
def test_columns_show_what_is_there(kind: str) -> None:
    [version] = CRDS[kind]["spec"]["versions"]
    there = dict(walk(schema_of(kind)))
    for column in version["additionalPrinterColumns"]:
        path = column["jsonPath"]
        assert path == ".metadata.creationTimestamp" or path in there
        if column["type"] in {"integer", "boolean"}:
            assert there[path]["type"] == column["type"]


def test_the_short_columns() -> None:
    [version] = CRDS["FabricNode"]["spec"]["versions"]
    columns = [
        c["name"].upper() for c in version["additionalPrinterColumns"] if "priority" not in c
    ]
    assert columns == ["PEERS", "UP", "REJECTED", "AGE"]
    assert version["subresources"] == {"status": {}}


def test_what_is_written_fits_the_definitions() -> None:
    document = {
        "node": "edge2",
        "synced": True,
        "peers": [{"name": "node1", "up": True, "children": []}],
        "rejected": [{"key": "/fabric/nodes/edge3", "field": "subnets", "reason": "x"}],
        "certificates": {},
    }
    assert fits(schema_of("FabricNode"), {"status": status_of(document)})
    assert fits(schema_of("FabricNode"), {"status": status_of({})})
    assert not fits(schema_of("FabricNode"), {"status": {"peers": "2"}})


@pytest.mark.parametrize(
    ("spec", "good"),
    [
        ({"members": ["edge1", "a.b-c"]}, True),
        ({"members": []}, True),
        ({"members": ["edge1"], "note": "kept"}, True),
        ({}, False),
        ({"member": ["edge1"]}, False),
        ({"members": "edge1"}, False),
        ({"members": ["Edge1"]}, False),
        ({"members": ["edge1\n"]}, False),
        ({"members": ["e" * 64]}, False),
    ],
)
def test_a_community(spec: Manifest, good: bool) -> None:
    assert fits(schema_of("Community"), {"spec": spec}) == good


# ---------------------------------------------------------------- rights


def rights(name: str) -> set[tuple[str, str]]:
    """Verbs and resources of a role."""
    [role] = [m for m in manifests("rbac.yaml") if m["metadata"]["name"] == name and "rules" in m]
    return {
        (verb, resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(requests: list[str]) -> set[tuple[str, str]]:
    """Verbs and resources, as an API server understands requests ("Determine the request verb")."""
    result = set()
    for request in requests:
        method, _, target = request.partition(" ")
        path, _, query = target.partition("?")
        parts = path.replace("/namespaces/default", "").strip("/").split("/")
        resource, *name = parts[2:] if parts[0] == "api" else parts[3:]
        verb = {"POST": "create", "PUT": "update"}.get(method, method.lower())
        if verb == "get" and not name:
            verb = "watch" if "watch=true" in query else "list"
        used_part = f"{resource}/{name[1]}" if len(name) > 1 else resource
        result.add((verb, used_part))
    return result


async def test_a_node_may_do_what_it_does_and_no_more(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    cluster = KubeCluster(tmp_path, nursery)
    cluster.add("edge1", cidr="2.2.2.0/27")
    store = cluster.store()
    fault = {"key": "/fabric/nodes/edge1", "field": "subnets", "reason": "x"}
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        await store.publish("status/edge1", json.dumps({"rejected": [fault]}).encode())
        left = cluster.api.objects["fabricnodes", "edge1"]
        cluster.api.delete(cluster.api.kinds["/api/v1/nodes"], "edge1")
        cluster.api.objects["fabricnodes", "edge1"] = left
        cluster.add("edge1", cidr="2.2.2.0/27")  # whose FabricNode gets another owner
        await store.publish("status/edge1", json.dumps({"rejected": []}).encode())
    await store.aclose()
    assert used(cluster.server.requests) == rights("fabricd-node") | rights("fabricd-events")


async def test_an_operator_may_do_what_fabricctl_does(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    cluster = KubeCluster(tmp_path, nursery)
    cluster.add("edge1", role=None)
    store = cluster.store()
    await store.put("nodes/edge1", b'{"subnets": ["2.2.2.0/27"]}')
    for members in (b'{"members": ["edge1"]}', b'{"members": []}'):
        await store.put("communities/app1", members)
    await store.list()
    await store.delete("nodes/edge1")
    await store.delete("communities/app1")
    await store.aclose()
    assert used(cluster.server.requests) <= rights("fabricd-operator")


def test_rights_are_given_to_the_pods_account() -> None:
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        [subject] = find("rbac.yaml", kind)["subjects"]
        assert (subject["name"], subject["namespace"]) == ("fabricd", "fabricd")
    user = "system:serviceaccount:fabricd:fabricd"
    assert user in (FOLDER / "admission.yaml").read_text()


# ---------------------------------------------------------------- pods


def pod(name: str) -> Manifest:
    [daemonset] = manifests(f"{name}.yaml")
    assert daemonset["spec"]["selector"]["matchLabels"] == daemonset["metadata"]["labels"]
    template = daemonset["spec"]["template"]
    assert template["metadata"]["labels"] == daemonset["metadata"]["labels"]
    spec: Manifest = template["spec"]
    return spec


@pytest.mark.parametrize("name", ["edge", "gateway", "charon"])
def test_pods_are_in_the_hosts_network_and_have_the_powers_they_need(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    assert spec["hostNetwork"] is True
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in str(spec)
    # As contrib/compose.yaml, which is run, has them.
    compose = yaml.safe_load((FOLDER.parent / "compose.yaml").read_text())
    service = compose["services"]["charon" if name == "charon" else "fabricd"]
    assert container["securityContext"]["capabilities"]["add"] == service["cap_add"]
    assert container["image"] == service["image"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    for each in [container, *spec.get("initContainers", [])]:
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", ["edge", "gateway"])
def test_fabricd_is_the_user_of_its_image(name: str) -> None:
    """The one that may run the files with the capability."""
    dockerfile = (FOLDER.parents[1] / "Dockerfile").read_text()
    assert "useradd --uid 9815 --gid 9815" in dockerfile
    assert "setcap cap_net_admin" in dockerfile
    spec = pod(name)
    [container] = spec["containers"]
    context = container["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (9815, 9815)
    assert context["allowPrivilegeEscalation"], "or the files' capability does not count"
    assert spec["securityContext"]["fsGroup"] == 9815, "or it can't read its token"


@pytest.mark.parametrize(("name", "role"), [("edge", "edge"), ("gateway", "cloud")])
def test_a_pods_config_is_right_and_its_files_are_there(name: str, role: str) -> None:
    spec = pod(name)
    assert spec["nodeSelector"] == {"fabricd.io/role": role}
    text = find("config.yaml", "ConfigMap", f"fabricd-{name}")["data"]["fabricd.toml"]
    config = parse(tomllib.loads(text.replace("@NODE_NAME@", "edge2")), Path("fabricd.toml"))
    assert (config.node.name, config.store.type) == ("edge2", "kubernetes")
    [container] = spec["containers"]
    mounted = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    for path in (
        *config.ike.ca,
        config.ike.cert,
        config.ike.key,
        config.store.state_dir,
        config.control.socket,
        Path(config.vici_socket),
    ):
        assert any(path.is_relative_to(folder) for folder in mounted), path
    for probe in ("livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert (get["host"], get["port"]) == config.listen
    [init] = spec["initContainers"]
    assert init["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def test_charon_and_fabricd_share_a_folder() -> None:
    paths = {
        name: [v["hostPath"]["path"] for v in pod(name)["volumes"] if "charon" in str(v)]
        for name in ("edge", "gateway", "charon")
    }
    assert paths["edge"] == paths["gateway"] == paths["charon"] == ["/run/fabricd-charon"]


def test_nothing_is_left_out_of_the_kustomization() -> None:
    [kustomization] = manifests("kustomization.yaml")
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    images = {c["image"] for name in ("edge", "gateway", "charon") for c in pod(name)["containers"]}
    assert {image["name"] for image in kustomization["images"]} == images
