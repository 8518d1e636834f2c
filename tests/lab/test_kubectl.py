"""contrib/kubernetes and the Kubernetes source as an operator meets them: with kubectl, typed as
docs/kubernetes.md says it, and read as it is printed there.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from lab.process import CommandError
from tests.docs import blocks
from tests.lab.kube_cluster import COMMUNITIES, KubeCluster
from tests.lab.kube_discovery import ADMISSION, CLUSTER
from tests.unit.sources.test_kube_manifests import manifests, rights, used

ROOT = Path(__file__).parents[2]

PAGE = [block.text for block in blocks("docs/kubernetes.md")]


def shown(start: str) -> str:
    """The page's only block that begins like this."""
    [text] = [text for text in PAGE if text.startswith(start)]
    return text


class Kubectl:
    """kubectl with a home of its own, run where the page's paths lead somewhere."""

    def __init__(self, cluster: KubeCluster, home: Path) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(cluster.kubeconfig),
        }

    async def __call__(self, line: str, stdin: str = "") -> str:
        """What a line prints; raises CommandError."""
        argv = shlex.split(line)
        with trio.fail_after(180):
            done = await trio.run_process(
                argv,
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
                env=self._environment,
            )
        output = done.stdout.decode()
        if done.returncode:
            raise CommandError(argv, done.returncode, output, done.stderr.decode())
        return output


@pytest.fixture
def cluster(tmp_path: Path, nursery: trio.Nursery) -> KubeCluster:
    """Some Nodes that have joined; of fabricd it knows nothing."""
    made = KubeCluster(tmp_path, nursery, CLUSTER)
    for number, name in enumerate(("node1", "edge2", "edge3")):
        made.add(name, None, cidr=f"2.2.2.{32 * number}/27", addresses={"InternalIP": "192.0.2.9"})
    return made


@pytest.fixture
def kubectl(cluster: KubeCluster, tmp_path: Path) -> Kubectl:
    return Kubectl(cluster, tmp_path)


async def install(kubectl: Kubectl, options: str = "") -> dict[str, str]:
    """As the page says; what becomes of each `KIND/NAME`."""
    line = shown("kubectl apply -k").strip()
    done = [row.partition(" ") for row in (await kubectl(line + options)).splitlines()]
    return {name: what for name, _, what in done}


def there(cluster: KubeCluster) -> dict[tuple[str, str], Any]:
    """Kind and name of what was applied, without what an API server adds, and kubectl's memory."""
    added = {"uid", "resourceVersion", "creationTimestamp"}
    remembered = "kubectl.kubernetes.io/last-applied-configuration"
    found = {}
    for value in cluster.api.objects.values():
        meta = {key: v for key, v in value["metadata"].items() if key not in added}
        annotations = meta.pop("annotations", {})
        if remembered in annotations:
            found[value["kind"], meta["name"]] = {**value, "metadata": meta}
    return found


# ---------------------------------------------------------------- contrib/kubernetes

FILES = [
    each for name in manifests("kustomization.yaml")[0]["resources"] for each in manifests(name)
]


def called(manifest: dict[str, Any]) -> str:
    """As kubectl calls it: `daemonset.apps/charon`, `configmap/fabricd-edge`."""
    group, _, _ = manifest["apiVersion"].rpartition("/")
    kind = ".".join(filter(None, (manifest["kind"].lower(), group)))
    return f"{kind}/{manifest['metadata']['name']}"


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a DaemonSet's pod; others have none."""
    pod = manifest["spec"]["template"]["spec"] if manifest["kind"] == "DaemonSet" else {}
    return [*pod.get("containers", []), *pod.get("initContainers", [])]


async def test_kubectl_takes_every_file_and_a_dry_run_changes_nothing(
    cluster: KubeCluster, kubectl: Kubectl
) -> None:
    taken = await install(kubectl, " --dry-run=client")
    assert taken == {called(each): "created (dry run)" for each in FILES}
    assert there(cluster) == {}


async def test_what_is_installed_is_what_the_files_say(
    cluster: KubeCluster, kubectl: Kubectl
) -> None:
    assert set((await install(kubectl)).values()) == {"created"}
    [kustomization] = manifests("kustomization.yaml")
    tags = {
        image["name"]: f"{image['name']}:{image['newTag']}" for image in kustomization["images"]
    }
    wanted = {(each["kind"], each["metadata"]["name"]): each for each in copy.deepcopy(FILES)}
    for each in wanted.values():
        for container in containers(each):
            container["image"] = tags[container["image"]]
    assert there(cluster) == wanted
    assert set((await install(kubectl)).values()) == {"unchanged"}


async def test_before_1_30_all_but_the_admission_policies_are_installed(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    old = {path: kind for path, kind in CLUSTER.items() if ADMISSION not in path}
    cluster = KubeCluster(tmp_path, nursery, old)
    with pytest.raises(CommandError, match='no matches for kind "ValidatingAdmissionPolicy"'):
        await install(Kubectl(cluster, tmp_path))
    missing = {(each["kind"], each["metadata"]["name"]) for each in manifests("admission.yaml")}
    wanted = {(each["kind"], each["metadata"]["name"]) for each in FILES} - missing
    assert there(cluster).keys() == wanted


@pytest.mark.parametrize("name", ["edge", "gateway", "charon"])
async def test_kubectl_knows_every_field_of_a_pod(kubectl: Kubectl, name: str) -> None:
    """Here it reads a file into the types that it was built with, and writes what it understood."""
    [daemonset] = manifests(f"{name}.yaml")
    for container in containers(daemonset):
        container["image"] = "another"
    line = f"kubectl set image --local -f contrib/kubernetes/{name}.yaml *=another -o json"
    assert list(lost(daemonset, json.loads(await kubectl(line)))) == []


def lost(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where something is missing, or another."""
    match wanted, found:
        case dict(), dict():
            for key, value in wanted.items():
                yield from lost(value, found.get(key), f"{path}.{key}")
        case list(), list() if len(wanted) == len(found):
            for index, pair in enumerate(zip(wanted, found, strict=True)):
                yield from lost(*pair, f"{path}[{index}]")
        case _ if wanted != found:
            yield path


# ---------------------------------------------------------------- records


async def records(cluster: KubeCluster) -> dict[str, Any]:
    store = cluster.store()
    found = {put.key: json.loads(put.value) for put in await store.list()}
    await store.aclose()
    return found


async def test_labels_and_annotations_are_a_record(cluster: KubeCluster, kubectl: Kubectl) -> None:
    await install(kubectl)
    assert await records(cluster) == {}
    label, annotate = shown("kubectl label").splitlines()
    await kubectl(label)
    record = {"role": "edge", "endpoint": "192.0.2.9", "subnets": ["2.2.2.32/27"]}
    record |= {"community": "app1"}
    assert await records(cluster) == {"nodes/edge2": record}
    await kubectl(annotate)
    del record["endpoint"]
    assert await records(cluster) == {"nodes/edge2": record}
    await kubectl("kubectl label node edge2 fabricd.io/role-")
    assert await records(cluster) == {}


async def test_a_community_is_read_and_shown(cluster: KubeCluster, kubectl: Kubectl) -> None:
    await install(kubectl)
    community = shown("apiVersion: fabricd.io/v1")
    assert await kubectl("kubectl apply -f -", community) == "community.fabricd.io/app1 created\n"
    assert await records(cluster) == {"communities/app1": {"members": ["edge2", "edge7"]}}
    assert (await kubectl("kubectl get communities")).splitlines() == [
        "NAME   MEMBERS             AGE",
        'app1   ["edge2","edge7"]   0s',
    ]
    fewer = community.replace(", edge7", "")
    assert await kubectl("kubectl apply -f -", fewer) == "community.fabricd.io/app1 configured\n"
    assert await records(cluster) == {"communities/app1": {"members": ["edge2"]}}
    assert await kubectl("kubectl delete --wait=false communities app1")
    assert await records(cluster) == {}


async def test_kubectl_itself_refuses_a_community_with_a_slip_of_the_pen(
    cluster: KubeCluster, kubectl: Kubectl
) -> None:
    await install(kubectl)
    slip = shown("apiVersion: fabricd.io/v1").replace("spec:", "sepc:")
    with pytest.raises(CommandError, match=r'unknown field "sepc".*missing required field "spec"'):
        await kubectl("kubectl apply -f -", slip)
    assert not cluster.server.asked(f"POST /apis/{COMMUNITIES.version}")


async def test_an_operator_may_do_all_of_it(cluster: KubeCluster, kubectl: Kubectl) -> None:
    """What ClusterRole fabricd-operator allows, beside discovery, which everybody may."""
    await install(kubectl)
    del cluster.server.requests[:]
    for line in shown("kubectl label").splitlines():
        await kubectl(line)
    for members in ("[edge2, edge7]", "[]"):
        community = shown("apiVersion: fabricd.io/v1").replace("[edge2, edge7]", members)
        await kubectl("kubectl apply -f -", community)
    for plural in ("nodes", "communities", "fabricnodes"):
        await kubectl(f"kubectl get {plural}")
    await kubectl("kubectl delete --wait=false communities app1")
    asked = [r for r in cluster.server.requests if "/fabricd.io/v1/" in r or "/v1/nodes" in r]
    assert used(asked) <= rights("fabricd-operator")


# ---------------------------------------------------------------- what a node has to say


async def test_fabric_nodes_are_shown_as_the_page_has_it(
    cluster: KubeCluster, kubectl: Kubectl
) -> None:
    await install(kubectl)
    store = cluster.store()
    for name, up, rejected in (("node1", [True, False], 1), ("edge2", [True, True], 0)):
        document = {
            "synced": True,
            "peers": [{"name": f"peer{number}", "up": is_up} for number, is_up in enumerate(up)],
            "rejected": [{"key": "/fabric/communities/x", "reason": "x"}] * rejected,
        }
        await store.publish(f"status/{name}", json.dumps(document).encode())
    await store.aclose()
    created = cluster.api.get(CLUSTER["/api/v1/nodes"], "edge2")["metadata"]["creationTimestamp"]
    later = (datetime.fromisoformat(created) + timedelta(days=3)).astimezone(UTC).isoformat()
    cluster.api.clock = lambda: later

    prompt, *wanted = shown("$ kubectl get fabricnodes").splitlines()
    assert (await kubectl(prompt.removeprefix("$ "))).splitlines() == wanted
    [heading, line] = (await kubectl("kubectl get fn edge2 -o wide")).splitlines()
    assert heading.split() == ["NAME", "PEERS", "UP", "REJECTED", "SYNCED", "AGE"]
    assert line.split() == ["edge2", "2", "2", "0", "true", "3d"]


async def test_a_rejected_record_is_shown_with_its_node(
    cluster: KubeCluster, kubectl: Kubectl
) -> None:
    await install(kubectl)
    await kubectl("kubectl annotate node edge3 fabricd.io/subnets=2.2.2.33/27")
    reason = "'2.2.2.33/27': has host bits set; the network is 2.2.2.32/27"
    fault = {"key": "/fabric/nodes/edge3", "field": "subnets", "reason": reason}
    store = cluster.store()
    await store.publish("status/edge3", json.dumps({"rejected": [fault]}).encode())
    await store.aclose()

    prompt, _, *wanted = shown("$ kubectl describe node").splitlines()
    printed = (await kubectl(prompt.removeprefix("$ "))).splitlines()
    found = printed[printed.index("Events:") :]
    assert [line.split() for line in found[:-1]] == [line.split() for line in wanted[:-1]]
    # How long ago it was depends on the machine; the page does not finish the sentence.
    kind, why, _, *rest = wanted[-1].removesuffix(" …").split()
    assert found[-1].split()[:2] == [kind, why]
    assert " ".join(found[-1].split()[3:]).startswith(" ".join(rest))
