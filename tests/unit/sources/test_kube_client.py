"""Requests to an API server, one by one: kept connections, renewed credentials, silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from fabricd.errors import Unavailable
from fabricd.sources.kube_access import Kubeconfig
from fabricd.sources.kube_client import KubeClient, Query, Refused
from tests.lab.kube_cluster import NODES, KubeCluster

PATH = "/api/v1/nodes"


@pytest.fixture
def cluster(tmp_path: Path, nursery: trio.Nursery) -> KubeCluster:
    made = KubeCluster(tmp_path, nursery)
    made.add("edge1")
    return made


def client_of(cluster: KubeCluster, kubeconfig: Path | None = None) -> KubeClient:
    return KubeClient(Kubeconfig(kubeconfig or cluster.kubeconfig), timeout=1)


async def test_one_connection_serves_many_requests(cluster: KubeCluster) -> None:
    client = client_of(cluster)
    for _ in range(5):
        assert json.loads(await client.call("GET", PATH))["kind"] == "NodeList"
    assert cluster.proxy.connections == 1
    await client.aclose()


async def test_a_kept_connection_that_was_cut_is_no_failure(cluster: KubeCluster) -> None:
    client = client_of(cluster)
    await client.call("GET", PATH)
    cluster.proxy.stop()
    await trio.testing.wait_all_tasks_blocked()
    cluster.proxy.start()
    await client.call("GET", PATH)
    assert cluster.proxy.connections == 2
    await client.aclose()


async def test_a_certificate_that_expires_on_a_kept_connection(cluster: KubeCluster) -> None:
    def renew(user: str) -> Path:
        cert, key = cluster.pki.client(user, file="client")
        names = {"client_certificate": cert.name, "client_key": key.name}
        return cluster.pki.kubeconfig(cluster.proxy.url, "mine", **names)

    client = client_of(cluster, renew("old"))
    await client.call("GET", PATH)
    renew("new")
    await client.call("GET", PATH)
    assert cluster.proxy.connections == 1, "what is good is not given up"
    cluster.server.unwelcome.add("old")
    await client.call("GET", PATH)
    assert cluster.proxy.connections == 2
    cluster.server.unwelcome.add("new")
    with pytest.raises(Refused, match="401: Unauthorized") as refused:
        await client.call("GET", PATH)
    assert refused.value.code == 401
    await client.aclose()


async def test_a_silent_server_is_waited_for_a_while(cluster: KubeCluster) -> None:
    client = client_of(cluster)
    await client.call("GET", PATH)
    cluster.proxy.freeze()
    with trio.fail_after(30):
        for _ in range(2):  # on a connection that was kept, and on a new one
            with pytest.raises(Unavailable, match=f"{PATH}: no answer to GET within 1 s"):
                await client.call("GET", PATH)
        with pytest.raises(Unavailable, match=f"{PATH}: no answer to GET within 1 s"):
            async with client.stream(PATH, {"watch": "true"}):
                pytest.fail("nothing came")
    cluster.proxy.thaw()
    await client.call("GET", PATH)
    await client.aclose()


async def test_a_body_that_nobody_reads_to_its_end_costs_the_connection(
    cluster: KubeCluster,
) -> None:
    client = client_of(cluster)
    version = cluster.api.version - 1
    query: Query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": 30}
    async with client.stream(PATH, query) as answer:
        assert json.loads(await answer.read())["type"] == "ADDED"
    assert json.loads(await client.call("GET", PATH))["kind"] == "NodeList"
    assert cluster.proxy.connections == 2
    await client.aclose()


async def test_what_a_server_says_no_to(cluster: KubeCluster) -> None:
    client = client_of(cluster)
    with pytest.raises(Refused, match=r'404: nodes "edge9" not found$') as refused:
        await client.call("GET", f"{PATH}/edge9")
    assert (refused.value.code, refused.value.known) == (404, True)
    body = {"metadata": {"name": "edge1"}}
    with pytest.raises(Refused, match="409: "):
        await client.call("POST", PATH, body=body)
    assert cluster.api.get(NODES, "edge1")["metadata"]["resourceVersion"] == "201"
    await client.aclose()


async def test_a_server_without_tls(nursery: trio.Nursery, tmp_path: Path) -> None:
    """KubeEdge's MetaServer on an edge, `kubectl proxy` beside a container."""
    cluster = KubeCluster(tmp_path, nursery)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, cluster.server.operate, [listener])
    port = listener.socket.getsockname()[1]
    client = client_of(cluster, cluster.pki.kubeconfig(f"http://127.0.0.1:{port}"))
    assert json.loads(await client.call("GET", PATH))["items"] == []
    await client.aclose()
