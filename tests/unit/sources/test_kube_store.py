"""Kubernetes as a store, against an API server with TLS, authentication and bad days."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
import trio

from fabricd.config import ConfigError, parse
from fabricd.core.events import Changed
from fabricd.daemon.store import open_store
from fabricd.errors import Unavailable
from fabricd.sources.kube import KubeStore
from tests.lab.followed import following
from tests.lab.kube_api import ApiError
from tests.lab.kube_cluster import COMMUNITIES, EVENTS, FABRIC_NODES, NODES, KubeCluster


@pytest.fixture
def cluster(tmp_path: Path, nursery: trio.Nursery) -> KubeCluster:
    """With three edges."""
    made = KubeCluster(tmp_path, nursery)
    for number in (1, 2, 3):
        made.add(f"edge{number}", cidr=f"2.2.2.{32 * number}/27")
    return made


THREE = {"nodes/edge1", "nodes/edge2", "nodes/edge3"}


def test_the_config_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"type": "kubernetes", "kubeconfig": "/etc/fabricd/kubeconfig"}
    assert type(open_store(parse({"store": section}, Path("fabricd.toml")))) is KubeStore
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"^fabricd\.toml: \[store\]: kubeconfig is not given"):
        open_store(parse({"store": {"type": "kubernetes"}}, Path("fabricd.toml")))


# ---------------------------------------------------------------- what Nodes say


async def test_labels_and_annotations_are_obeyed(cluster: KubeCluster) -> None:
    cluster.add("node9", role=None, cidr="10.9.0.0/24")
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        assert set(seen.records) == THREE
        cluster.label("edge1", community_fabricd_io__app1="")
        await seen.until(lambda: b'"community":"app1"' in seen.records["nodes/edge1"])
        cluster.annotate("edge1", community="group1")
        await seen.until(lambda: b'"community":"app1;group1"' in seen.records["nodes/edge1"])
        cluster.label("node9", fabricd_io__role="cloud")
        await seen.until(lambda: "nodes/node9" in seen.records)
        cluster.label("edge2", fabricd_io__role=None)
        await seen.until(lambda: "nodes/edge2" not in seen.records)
        cluster.api.delete(NODES, "edge3")
        await seen.until(lambda: "nodes/edge3" not in seen.records)
    assert seen.kinds() == ["Listed"] + ["Changed"] * 5


async def test_heartbeats_are_no_events(cluster: KubeCluster) -> None:
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        for number in range(3):
            beat = {"status": {"conditions": [{"lastHeartbeatTime": number}]}}
            cluster.api.patch(NODES, "edge1", beat)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: b"192.0.2.1" in seen.records["nodes/edge1"])
    assert seen.kinds() == ["Listed", "Changed"]


async def test_many_watches_follow_one_another_on_few_connections(cluster: KubeCluster) -> None:
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        await cluster.server.until(lambda: cluster.server.asked("watch=true") >= 8)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: len(seen.events) == 2)
    assert seen.kinds() == ["Listed", "Changed"]
    assert cluster.proxy.connections <= 3
    assert cluster.server.asked("limit") == 2


# ---------------------------------------------------------------- history


async def test_a_history_that_is_gone_is_listed_anew(cluster: KubeCluster) -> None:
    async with following(cluster.store(patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.proxy.stop()
        cluster.api.delete(NODES, "edge2")
        cluster.add("edge4", cidr="2.2.3.0/27")
        cluster.api.compact()
        cluster.proxy.start()
        await seen.until(lambda: "nodes/edge4" in seen.records)
    assert seen.kinds() == ["Listed", "Listed"]
    assert seen.deleted == ["nodes/edge2"]


async def test_an_error_in_the_watch_lists_anew_and_deletes_nothing(cluster: KubeCluster) -> None:
    failure = ApiError(500, "InternalError", "etcdserver: leader changed").status()
    async with following(cluster.store(patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.server.error_frames.append(failure)
        await seen.until(lambda: len(seen.events) == 2)
        assert seen.kinds() == ["Listed", "Listed"]
    assert seen.deleted == []


async def test_a_break_that_is_short_goes_unnoticed(cluster: KubeCluster) -> None:
    async with following(cluster.store(patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.proxy.stop()
        cluster.annotate("edge1", endpoint="192.0.2.1")
        cluster.proxy.start()
        await seen.until(lambda: len(seen.events) == 2)
    assert isinstance(seen.events[1], Changed)


async def test_a_store_that_went_back_is_noticed(cluster: KubeCluster) -> None:
    """Restored from a backup: a watch from the future is taken, and silent for ever."""
    backup = cluster.api.backup()
    cluster.add("edge4", cidr="2.2.3.0/27")
    async with following(cluster.store(patience=30.0)) as seen:
        await seen.until(lambda: len(seen.records) == 4)
        cluster.api.restore(backup)
        await seen.until(lambda: len(seen.records) == 3)
    assert seen.kinds() == ["Listed", "Listed"]
    assert seen.deleted == ["nodes/edge4"]


async def test_a_server_without_bookmarks(cluster: KubeCluster) -> None:
    cluster.server.bookmarks = False
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        await cluster.server.until(lambda: cluster.server.asked("watch=true") >= 6)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: len(seen.events) == 2)
    assert seen.kinds() == ["Listed", "Changed"]


async def test_many_nodes_come_in_pages(cluster: KubeCluster) -> None:
    for number in range(1200):
        cluster.add(f"n{number:04}", cidr=f"2.3.{number // 8}.{number % 8 * 32}/27")
    store = cluster.store()
    assert len(await store.list()) == 1203
    pages = [r for r in cluster.server.requests if r.startswith("GET /api/v1/nodes")]
    assert ["continue" in page for page in pages] == [False, True, True]
    cluster.server.expire_pages = True
    assert len(await store.list()) == 1203
    await store.aclose()


# ---------------------------------------------------------------- bad days


async def test_away_for_long_nothing_is_deleted(cluster: KubeCluster) -> None:
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.proxy.stop()
        await seen.until(seen.lost)
        assert set(seen.records) == THREE
        cluster.api.delete(NODES, "edge2")
        cluster.proxy.start()
        await seen.until(lambda: seen.in_sync)
    assert seen.kinds() == ["Listed", "Lost", "Listed"]
    assert "no connection: " in seen.lost()[0]


async def test_a_silent_connection_is_noticed(cluster: KubeCluster) -> None:
    async with following(cluster.store(timeout=1.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.proxy.freeze()
        await seen.until(seen.lost)
        assert set(seen.records) == THREE
        cluster.proxy.thaw()
        await seen.until(lambda: seen.in_sync)
    assert seen.kinds() == ["Listed", "Lost", "Listed"]


async def test_a_proxy_that_cuts_idle_streams_harms_nobody(cluster: KubeCluster) -> None:
    cluster.proxy.idle = 0.5
    async with following(cluster.store(watch_seconds=30, patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        await cluster.server.until(lambda: cluster.proxy.connections >= 6)
        cluster.proxy.idle = math.inf
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: len(seen.events) == 2)
    assert seen.kinds() == ["Listed", "Changed"]


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("list", "nodes"), ("watch", "nodes"), ("list", "communities"), ("watch", "communities")],
)
async def test_what_is_forbidden_is_lost_and_says_so(
    cluster: KubeCluster, verb: str, resource: str
) -> None:
    cluster.server.forbidden.add((verb, resource))
    async with following(cluster.store()) as seen:
        await seen.until(seen.lost)
        assert seen.kinds() == ["Lost"]
        [reason] = seen.lost()
        assert f"403: {resource} is forbidden: " in reason
        assert "see contrib/kubernetes/rbac.yaml" in reason
        cluster.server.forbidden.clear()
        await seen.until(lambda: seen.in_sync)
    assert set(seen.records) == THREE


async def test_without_its_definition_there_is_no_telling_who_is_in_a_community(
    cluster: KubeCluster,
) -> None:
    """Also while an API server starts: it may know its own resources only."""
    cluster.api.create(COMMUNITIES, {"metadata": {"name": "app1"}, "spec": {"members": ["edge1"]}})
    kinds, cluster.api.kinds = cluster.api.kinds, {"/api/v1/nodes": NODES}
    async with following(cluster.store()) as seen:
        await seen.until(seen.lost)
        assert "kubectl apply -f contrib/kubernetes/crd.yaml" in seen.lost()[0]
        cluster.api.kinds = kinds
        await seen.until(lambda: seen.in_sync)
    assert seen.kinds() == ["Lost", "Listed"]
    assert "communities/app1" in seen.records


async def test_one_kind_away_means_all_away_and_nothing_is_missed(cluster: KubeCluster) -> None:
    async with following(cluster.store()) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.server.forbidden |= {("watch", "communities"), ("list", "communities")}
        await seen.until(seen.lost)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        # The other kind goes as well, for longer than patience lasts: that is no second loss.
        cluster.server.forbidden |= {("watch", "nodes"), ("list", "nodes")}
        lists = cluster.server.asked("nodes?limit")
        await cluster.server.until(lambda: cluster.server.asked("nodes?limit") > lists + 5)
        cluster.server.forbidden.clear()
        # It may have been on its way when the watch broke: then it follows what is listed.
        await seen.until(lambda: seen.in_sync and b"192.0.2.1" in seen.records["nodes/edge1"])
    assert seen.kinds()[:3] == ["Listed", "Lost", "Listed"]
    assert seen.kinds()[3:] in ([], ["Changed"])


async def test_another_ones_certificate_is_refused(
    cluster: KubeCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = KubeCluster(tmp_path_factory.mktemp("other"), cluster.proxy._nursery)
    wrong = other.pki.kubeconfig(cluster.proxy.url, token="t")
    with pytest.raises(Unavailable, match="no TLS: the server's certificate is refused: "):
        await cluster.store(wrong).list()


# ---------------------------------------------------------------- credentials


async def test_a_token_that_rotates(cluster: KubeCluster) -> None:
    token = cluster.pki.folder / "token"
    token.write_text("one")
    cluster.server.tokens = {"one": "edge"}
    kubeconfig = cluster.pki.kubeconfig(cluster.proxy.url, token_file=str(token))
    async with following(cluster.store(kubeconfig, patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        token.write_text("two")
        cluster.server.tokens = {"two": "edge"}
        before = len(cluster.server.requests)
        await cluster.server.until(lambda: len(cluster.server.requests) >= before + 4)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: len(seen.events) == 2)
    assert seen.kinds() == ["Listed", "Changed"]


async def test_a_token_that_expires_and_is_renewed_late(cluster: KubeCluster) -> None:
    token = cluster.pki.folder / "token"
    token.write_text("one")
    cluster.server.tokens = {"one": "edge"}
    kubeconfig = cluster.pki.kubeconfig(cluster.proxy.url, token_file=str(token))
    async with following(cluster.store(kubeconfig)) as seen:
        await seen.until(lambda: seen.in_sync)
        cluster.server.tokens = {"two": "edge"}
        await seen.until(seen.lost)
        assert "401: Unauthorized; the token or certificate is not accepted" in seen.lost()[0]
        token.write_text("two")
        await seen.until(lambda: seen.in_sync)
    assert seen.deleted == []


@pytest.mark.parametrize("inside", [False, True])
async def test_a_client_certificate_that_is_renewed(cluster: KubeCluster, inside: bool) -> None:
    def renew(user: str) -> Path:
        files = cluster.pki.client(user, file="client")
        if not inside:
            names = {"client_certificate": "client.crt", "client_key": "client.key"}
            return cluster.pki.kubeconfig(cluster.proxy.url, "mine", **names)
        cert, key = (base64.b64encode(file.read_bytes()).decode() for file in files)
        data = {"client_certificate_data": cert, "client_key_data": key}
        return cluster.pki.kubeconfig(cluster.proxy.url, "mine", **data)

    async with following(cluster.store(renew("old"), patience=30.0)) as seen:
        await seen.until(lambda: seen.in_sync)
        renew("new")
        cluster.server.unwelcome.add("old")  # expired
        before = len(cluster.server.requests)
        await cluster.server.until(lambda: len(cluster.server.requests) >= before + 6)
        cluster.annotate("edge1", endpoint="192.0.2.1")
        await seen.until(lambda: len(seen.events) == 2)
    assert seen.kinds() == ["Listed", "Changed"]


# ---------------------------------------------------------------- writes


async def test_a_record_is_written_to_its_node_and_taken_away_again(cluster: KubeCluster) -> None:
    store = cluster.store()
    cluster.add("edge4", role=None)
    assert not await store.delete("nodes/edge4")
    await store.put("nodes/edge4", b'{"subnets": ["2.2.3.0/27"], "community": "app1;a:b"}')
    meta = cluster.api.get(NODES, "edge4")["metadata"]
    assert meta["labels"] == {"fabricd.io/role": "edge", "community.fabricd.io/app1": ""}
    assert meta["annotations"] == {
        "fabricd.io/community": "a:b",
        "fabricd.io/endpoint": "none",
        "fabricd.io/subnets": "2.2.3.0/27",
    }
    assert await store.delete("nodes/edge4")
    meta = cluster.api.get(NODES, "edge4")["metadata"]
    assert (meta["labels"], meta["annotations"]) == ({}, {})
    await store.aclose()


async def test_a_node_that_is_not_there_is_not_made(cluster: KubeCluster) -> None:
    store = cluster.store()
    with pytest.raises(Unavailable, match="there is no Node edge9: it has to join the cluster"):
        await store.put("nodes/edge9", b'{"subnets": ["2.2.3.0/27"]}')
    assert not await store.delete("nodes/edge9")
    assert not await store.delete("communities/app9")
    with pytest.raises(Unavailable, match="only a JSON object"):
        await store.put("nodes/edge1", b"[]")
    with pytest.raises(ValueError, match="is no key"):
        await store.put("nodes/../x", b"{}")
    await store.aclose()


async def test_a_community_is_written_over_the_one_that_is_there(cluster: KubeCluster) -> None:
    store = cluster.store()
    for members in (["edge1", "edge2"], ["edge3"]):
        await store.put("communities/app1", json.dumps({"members": members}).encode())
        assert cluster.api.get(COMMUNITIES, "app1")["spec"] == {"members": members}
    assert await store.delete("communities/app1")
    await store.aclose()


async def test_a_node_that_others_change_meanwhile(
    cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet writes too: a conflict is no reason to give up, nor to write over it."""
    real, conflicts = cluster.api.patch, [1, 2]

    def patch(kind: Any, name: str, value: Any, **options: Any) -> Any:
        if conflicts:
            real(NODES, "edge1", {"metadata": {"labels": {"theirs": str(conflicts.pop())}}})
        return real(kind, name, value, **options)

    monkeypatch.setattr(cluster.api, "patch", patch)
    store = cluster.store()
    await store.put("nodes/edge1", b'{"subnets": ["2.2.9.0/27"]}')
    meta = cluster.api.get(NODES, "edge1")["metadata"]
    assert meta["annotations"]["fabricd.io/subnets"] == "2.2.9.0/27"
    assert meta["labels"]["theirs"] == "1"
    await store.aclose()


# ---------------------------------------------------------------- status and Events


def document(node: str, *, role: str = "edge", up: int = 1, **rejected: str) -> bytes:
    """A status document; `edge2="subnets"` is a rejected node's record and the field at fault."""
    peers = [{"name": f"p{n}", "up": n < up} for n in range(2)]
    faults = [
        {"key": f"/fabric/nodes/{name}", "field": field, "reason": "is wrong"}
        for name, field in rejected.items()
    ]
    whole = {"node": node, "role": role, "synced": True, "peers": peers, "rejected": faults}
    return json.dumps(whole).encode()


async def test_the_status_is_a_fabricnode_that_the_node_owns(cluster: KubeCluster) -> None:
    store = cluster.store()
    await store.publish("status/edge1", document("edge1", up=2, edge2="subnets"))
    await store.publish("status/edge1", document("edge1"))
    found = cluster.api.get(FABRIC_NODES, "edge1")
    assert {k: v for k, v in found["status"].items() if k != "document"} == {
        "peers": 2,
        "up": 1,
        "rejected": 0,
        "synced": True,
    }
    assert found["status"]["document"] == json.loads(document("edge1"))
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Node", "edge1")
    cluster.api.delete(NODES, "edge1")
    assert ("fabricnodes", "edge1") not in cluster.api.objects
    with pytest.raises(Unavailable, match="there is no Node edge1 that could own its FabricNode"):
        await store.publish("status/edge1", document("edge1"))
    await store.aclose()


async def test_where_on_a_node_a_field_stands(cluster: KubeCluster) -> None:
    store = cluster.store()
    assert store.place("nodes/edge2", "priority") == "annotation fabricd.io/priority"
    assert store.place("nodes/edge2", "role") == "label fabricd.io/role"
    assert store.place("communities/app1", "members") == "", "its key says it"
    await store.aclose()


async def test_a_node_that_was_made_anew_owns_what_the_old_one_left(cluster: KubeCluster) -> None:
    store = cluster.store()
    await store.publish("status/edge1", document("edge1"))
    left = cluster.api.get(FABRIC_NODES, "edge1")
    cluster.api.delete(NODES, "edge1")
    cluster.api.objects["fabricnodes", "edge1"] = left  # not collected yet
    node = cluster.add("edge1")
    await store.publish("status/edge1", document("edge1", up=0))
    [owner] = cluster.api.get(FABRIC_NODES, "edge1")["metadata"]["ownerReferences"]
    assert owner["uid"] == node["metadata"]["uid"]
    await store.aclose()


async def test_a_status_is_written_again_for_a_node_that_is_made_anew(
    cluster: KubeCluster,
) -> None:
    """Its document need not have changed meanwhile."""
    store = cluster.store()
    async with following(store) as seen:
        await seen.until(lambda: seen.in_sync)
        await store.publish("status/edge1", document("edge1"))
        cluster.api.delete(NODES, "edge1")
        cluster.server.forbidden.add(("create", "fabricnodes"))
        cluster.add("edge1", cidr="2.2.2.32/27")
        await cluster.server.until(lambda: cluster.server.asked("POST") == 3)
        cluster.server.forbidden.clear()
        there = cluster.api.objects
        await cluster.server.until(lambda: "status" in there.get(("fabricnodes", "edge1"), {}))
    found = cluster.api.get(FABRIC_NODES, "edge1")
    assert found["status"]["document"] == json.loads(document("edge1"))


def events(cluster: KubeCluster) -> list[tuple[str, str]]:
    """Node and message of all Events."""
    found = [value for (plural, _), value in cluster.api.objects.items() if plural == "events"]
    assert all(e["type"] == "Warning" and e["reason"] == "RecordRejected" for e in found)
    return sorted((e["involvedObject"]["name"], e["message"]) for e in found)


async def test_a_rejected_record_is_an_event_on_its_node(cluster: KubeCluster) -> None:
    cluster.annotate("edge2", subnets="2.2.2.1/27")
    edge1, edge2, gateway = (cluster.store() for _ in range(3))
    await edge1.publish("status/edge1", document("edge1", edge2="subnets"))
    assert events(cluster) == [], "others' records are others' affair"
    await edge2.publish("status/edge2", document("edge2", edge2="subnets"))
    once = [("edge2", "annotation fabricd.io/subnets: is wrong")]
    assert events(cluster) == once
    [event] = [value for (plural, _), value in cluster.api.objects.items() if plural == "events"]
    assert event["involvedObject"]["uid"] == "edge2", "or an older kubectl does not show it"
    # A gateway tells of all, but of none twice.
    both = document("edge1", role="cloud", edge2="subnets", edge3="subnets")
    await gateway.publish("status/edge1", both)
    assert events(cluster) == [*once, ("edge3", "spec.podCIDRs: is wrong")]
    posts = cluster.server.asked("/events")
    await gateway.publish("status/edge1", both)
    assert cluster.server.asked("/events") == posts
    for store in (edge1, edge2, gateway):
        await store.aclose()


async def test_who_may_not_write_events_has_a_status_all_the_same(cluster: KubeCluster) -> None:
    cluster.server.forbidden.add(("create", EVENTS.plural))
    store = cluster.store()
    await store.publish("status/edge2", document("edge2", edge2="subnets"))
    assert cluster.api.get(FABRIC_NODES, "edge2")["status"]["rejected"] == 1
    cluster.server.forbidden.clear()
    await store.publish("status/edge2", document("edge2", edge2="subnets"))
    assert len(events(cluster)) == 1
    await store.aclose()


async def test_without_its_definition_the_status_says_what_to_do(cluster: KubeCluster) -> None:
    del cluster.api.kinds["/apis/fabricd.io/v1/fabricnodes"]
    with pytest.raises(Unavailable, match=r"contrib/kubernetes/crd\.yaml"):
        await cluster.store().publish("status/edge1", document("edge1"))
