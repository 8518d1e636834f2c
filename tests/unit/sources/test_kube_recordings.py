"""What a real API server answered, played to the store, and the tests' own API server held against
it: what the one shows, the other does.
"""

from __future__ import annotations

import json
import random
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest
import trio

from fabricd.core.events import Changed, Delete
from fabricd.errors import Unavailable
from fabricd.sources.kube import KubeStore
from fabricd.sources.kube_access import Kubeconfig
from fabricd.sources.kube_client import KubeClient
from fabricd.sources.kube_records import KubeNode
from fabricd.sources.kube_watch import Resource, list_all, watch
from fabricd.sources.store import HistoryGone
from tests.lab.followed import Followed, following
from tests.lab.kube_cluster import KubeCluster
from tests.lab.kube_pki import KubePki

RECORDINGS = Path(__file__).with_name("kube")
NODES = Resource("/api/v1/nodes", KubeNode)


def recording(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return result


def body(name: str) -> Any:
    """A recorded answer's JSON."""
    return json.loads("".join(chunk["data"] for chunk in recording(name)["chunks"]))


class Player:
    """Answers each request with the next recording of its path, then keeps silent."""

    def __init__(self, **answers: list[str]) -> None:
        """`nodes` and `communities`: names of recordings, in order."""
        self._answers = answers
        self.asked: list[str] = []
        self._asked = trio.lowlevel.ParkingLot()

    async def until_asked(self, times: int) -> None:
        """Wait for so many requests."""
        with trio.fail_after(30):
            while len(self.asked) < times:
                await self._asked.park()

    async def serve(self, stream: trio.abc.Stream) -> None:
        conn = h11.Connection(h11.SERVER)
        try:
            while (target := await self._request(conn, stream)) is not None:
                self.asked.append(target)
                self._asked.unpark_all()
                remaining = self._answers[urlsplit(target).path.rpartition("/")[2]]
                if not remaining:
                    await trio.sleep_forever()
                played = recording(remaining.pop(0))
                whole = played["end"] in {None, "closed by the server"}
                await self._play(conn, stream, played)
                if not whole:
                    return  # as a server that is killed: the last chunk never comes
                await stream.send_all(conn.send(h11.EndOfMessage()) or b"")
                conn.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _request(self, conn: h11.Connection, stream: trio.abc.Stream) -> str | None:
        target = None
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                conn.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                target = event.target.decode()
            else:
                return target

    async def _play(
        self, conn: h11.Connection, stream: trio.abc.Stream, played: dict[str, Any]
    ) -> None:
        headers = [
            ("content-type", played["headers"]["content-type"]),
            ("transfer-encoding", "chunked"),
        ]
        events: list[h11.Event] = [h11.Response(status_code=played["status"], headers=headers)]
        events += [h11.Data(data=chunk["data"].encode()) for chunk in played["chunks"]]
        for event in events:
            await stream.send_all(conn.send(event) or b"")


@asynccontextmanager
async def playing(tmp_path: Path, **answers: list[str]) -> AsyncIterator[tuple[Player, Path]]:
    """A player behind TLS, and a kubeconfig that leads to it."""
    pki = KubePki(tmp_path)
    pki.server("127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    player = Player(**answers)
    [tcp] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = tcp.socket.getsockname()[1]
    listener = trio.SSLListener(tcp, tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, player.serve, [listener])
        yield player, pki.kubeconfig(f"https://127.0.0.1:{port}", token="t")
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def followed(tmp_path: Path, **answers: list[str]) -> AsyncIterator[tuple[Followed, Player]]:
    async with playing(tmp_path, **answers) as (player, kubeconfig):
        store = KubeStore(Kubeconfig(kubeconfig), rng=random.Random(1), patience=30)
        async with following(store) as seen:
            yield seen, player
        await store.aclose()


def names(seen: Followed) -> list[str]:
    return [key.partition("/")[2] for key in seen.records]


FOUR = ["edge2", "edge3", "edge4", "node1"]
"""The recorded Nodes that are in the fabric; node2 is not."""


# ---------------------------------------------------------------- the store, played to


async def test_the_recorded_nodes_as_records(tmp_path: Path) -> None:
    async with followed(tmp_path, nodes=["list"], communities=["list-empty"]) as (seen, player):
        player._answers["nodes"].append("watch-future")  # taken, and silent
        player._answers["communities"].append("watch-future")
        await seen.until(lambda: seen.in_sync)
    assert names(seen) == FOUR
    assert json.loads(seen.records["nodes/edge2"]) == {
        "role": "edge",
        "endpoint": "10.20.8.4",
        "subnets": ["2.2.2.0/27"],
        "community": "app1;group1",
    }
    assert "endpoint" not in json.loads(seen.records["nodes/edge4"])
    assert json.loads(seen.records["nodes/node1"])["subnets"] == ["10.233.0.0/16"]


async def test_the_recorded_watches(tmp_path: Path) -> None:
    """Labels, annotations, an unrelated change, DELETED, ADDED, a change of status, bookmarks."""
    async with followed(
        tmp_path,
        nodes=["list", "watch"],
        communities=["list-empty", "watch-communities"],
    ) as (seen, player):
        await seen.until(lambda: "communities/late" in seen.deleted)
        await player.until_asked(6)
    story = [
        "gone" if isinstance(change, Delete) else json.loads(change.value).get("community", "none")
        for event in seen.events
        if isinstance(event, Changed)
        for change in event.changes
        if change.key in {"nodes/edge2", "nodes/edge4", "nodes/node2", "nodes/edge3"}
    ]
    assert story == ["app1;group2", "group2", "gone"], "what is no record's affair is not fed"
    frames = [json.loads(chunk["data"]) for chunk in recording("watch")["chunks"]]
    # The next watches go on after the bookmarks that came last.
    last = frames[-1]["object"]["metadata"]["resourceVersion"]
    assert frames[-1]["type"] == "BOOKMARK"
    asked = [asked for asked in player.asked if asked.startswith("/api/v1/nodes")]
    assert f"watch=true&resourceVersion={last}&" in asked[2]
    assert seen.kinds().count("Listed") == 1


async def test_pages_of_one_version(tmp_path: Path) -> None:
    pages = ["list-page-1", "list-page-2", "list-page-3"]
    async with playing(tmp_path, nodes=pages) as (player, kubeconfig):
        found, version = await list_all(KubeClient(Kubeconfig(kubeconfig), 5), NODES)
    assert [node.metadata.name for node in found] == [*FOUR, "node2"]
    assert version == "205"
    assert ["continue=" in asked for asked in player.asked] == [False, True, True]


async def test_a_page_that_comes_too_late_means_all_at_once(tmp_path: Path) -> None:
    answers = ["list-page-1", "list-continue-expired", "list"]
    async with playing(tmp_path, nodes=answers) as (player, kubeconfig):
        found, _ = await list_all(KubeClient(Kubeconfig(kubeconfig), 5), NODES)
    assert [node.metadata.name for node in found] == [*FOUR, "node2"]
    assert player.asked[-1] == "/api/v1/nodes"


async def test_410_comes_as_an_event_and_lists_again_without_a_deletion(tmp_path: Path) -> None:
    async with followed(
        tmp_path,
        nodes=["list", "watch-too-old", "list", "watch-future"],
        communities=["list-empty", "watch-future"],
    ) as (seen, _):
        await seen.until(lambda: seen.kinds() == ["Listed", "Listed"])
    assert seen.deleted == []


async def test_a_killed_server_breaks_the_watch_and_nothing_else(tmp_path: Path) -> None:
    async with followed(
        tmp_path,
        # After the break the store is asked for its version: it is the one of the list, behind
        # what the watch has shown, so history is in doubt and everything is listed.
        nodes=["list", "watch-killed", "list", "list"],
        communities=["list-empty"],
    ) as (seen, player):
        player._answers["communities"].append("watch-future")
        player._answers["nodes"].append("watch-future")
        await seen.until(lambda: seen.kinds().count("Listed") == 2)
        assert names(seen) == FOUR
    assert seen.deleted == []
    asked = [a for a in player.asked if a.startswith("/api/v1/nodes")]
    assert asked[2] == "/api/v1/nodes?limit=1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("forbidden", '403: nodes is forbidden: User "edge-reader" cannot list'),
        ("unauthorized", "401: Unauthorized; the token or certificate is not accepted"),
        ("crd-missing", "404: Not Found; the API has no such resource: kubectl apply -f "),
        ("list-future", "500: etcdserver: mvcc: required revision is a future revision"),
    ],
)
async def test_a_refused_list_is_said_in_one_line(tmp_path: Path, name: str, says: str) -> None:
    async with playing(tmp_path, nodes=[name]) as (_, kubeconfig):
        with pytest.raises(Unavailable) as refused:
            await list_all(KubeClient(Kubeconfig(kubeconfig), 5), NODES)
    assert says in refused.value.reason
    assert "\n" not in refused.value.reason
    assert re.match(r"GET https://127\.0\.0\.1:\d+/api/v1/nodes: ", refused.value.reason)


async def test_a_refused_watch_is_said_in_one_line(tmp_path: Path) -> None:
    async with playing(tmp_path, nodes=["watch-forbidden"]) as (_, kubeconfig):
        with pytest.raises(Unavailable, match=r"403: nodes is forbidden.* cannot watch"):
            await watch(
                KubeClient(Kubeconfig(kubeconfig), 5),
                NODES,
                "205",
                1,
                opened=lambda: pytest.fail("it was refused"),
                deliver=lambda *_: None,
            )


async def test_a_watch_of_the_future_ends_without_a_word(tmp_path: Path) -> None:
    async with playing(tmp_path, nodes=["watch-future", "watch-too-old"]) as (_, kubeconfig):
        client = KubeClient(Kubeconfig(kubeconfig), 5)

        async def follow() -> bool:
            return await watch(client, NODES, "1", 5, opened=lambda: None, deliver=lambda *_: None)

        assert not await follow(), "it has not shown that it knows the version"
        with pytest.raises(HistoryGone, match="410: too old resource version: 1"):
            await follow()


# ---------------------------------------------------------------- the tests' own server


@pytest.fixture
async def cluster(tmp_path: Path, nursery: trio.Nursery) -> KubeCluster:
    """The recorded Nodes, as they were listed."""
    made = KubeCluster(tmp_path, nursery)
    listed = body("list")
    made.api.version = made.api.oldest = int(listed["metadata"]["resourceVersion"])
    for item in listed["items"]:
        node = {"kind": "Node", "apiVersion": "v1", **item}
        made.api.objects["nodes", item["metadata"]["name"]] = node
    made.server.tokens["edge"] = "edge-reader"
    return made


async def ask(cluster: KubeCluster, name: str, token: str = "edge") -> tuple[int, Any]:
    """Send a recorded request to the tests' server: status and JSON, or text."""
    request = recording(name)["request"]
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1",
        cluster.proxy.port,
        ssl_context=ssl.create_default_context(cafile=cluster.pki.ca),
        https_compatible=True,
    )
    conn = h11.Connection(h11.CLIENT)
    data = json.dumps(request["body"]).encode() if request["body"] is not None else b""
    headers = [
        ("host", "x"),
        ("authorization", f"Bearer {token}"),
        ("content-length", str(len(data))),
    ]
    sent = conn.send(h11.Request(method=request["method"], target=request["path"], headers=headers))
    await stream.send_all((sent or b"") + (conn.send(h11.Data(data=data)) or b""))
    await stream.send_all(conn.send(h11.EndOfMessage()) or b"")
    status, answer = 0, b""
    async with stream:
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                conn.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += bytes(event.data)
    try:
        return status, json.loads(answer) if answer else None
    except ValueError:
        return status, answer.decode()


def without(value: Any, *names: str) -> Any:
    """JSON without some members, at any depth: those that nobody reads."""
    match value:
        case dict():
            return {k: without(v, *names) for k, v in value.items() if k not in names}
        case list():
            return [without(item, *names) for item in value]
    return value


@pytest.mark.parametrize(
    "name", ["list", "list-page-1", "list-page-2", "list-page-3", "list-future"]
)
async def test_lists_are_as_recorded(cluster: KubeCluster, name: str) -> None:
    if name in {"list-page-2", "list-page-3"}:
        await ask(cluster, "list-page-1")  # after which that version can be paged through
    assert await ask(cluster, name) == (recording(name)["status"], body(name))


async def test_an_expired_page_is_as_recorded(cluster: KubeCluster) -> None:
    status, answer = await ask(cluster, "list-continue-expired")
    wanted = body("list-continue-expired")
    assert (status, answer["reason"], answer["metadata"]) == (
        410,
        wanted["reason"],
        wanted["metadata"],
    )


@pytest.mark.parametrize("name", ["forbidden", "watch-forbidden", "unauthorized", "crd-missing"])
async def test_refusals_are_as_recorded(cluster: KubeCluster, name: str) -> None:
    cluster.server.forbidden |= {("list", "nodes"), ("watch", "nodes")}
    if name == "crd-missing":
        del cluster.api.kinds["/apis/fabricd.io/v1/communities"]
        wanted: Any = "404 page not found\n"
    else:
        wanted = without(body(name), "details")
    token = "unknown" if name == "unauthorized" else "edge"
    assert await ask(cluster, name, token) == (recording(name)["status"], wanted)


@pytest.mark.parametrize("name", ["create-conflict", "put-conflict"])
async def test_conflicts_are_as_recorded(cluster: KubeCluster, name: str) -> None:
    if name == "put-conflict":
        cluster.annotate("edge3", n="1")
    assert await ask(cluster, name) == (409, without(body(name), "details"))


async def test_a_patch_is_as_recorded(cluster: KubeCluster) -> None:
    assert await ask(cluster, "patch-annotation") == (200, body("patch-annotation"))


@pytest.mark.parametrize("name", ["watch-too-old", "watch-future"])
async def test_watches_from_nowhere_are_as_recorded(cluster: KubeCluster, name: str) -> None:
    chunks = recording(name)["chunks"]
    wanted = json.loads(chunks[0]["data"]) if chunks else None
    assert await ask(cluster, name) == (200, wanted)


async def test_a_watch_is_as_recorded(cluster: KubeCluster) -> None:
    """The same changes make the same frames; what comes is an object as it was stored."""
    frames = [json.loads(chunk["data"]) for chunk in recording("watch")["chunks"]]
    api, kind = cluster.api, cluster.api.kinds["/api/v1/nodes"]
    for frame in frames:
        name = frame["object"]["metadata"].get("name")
        match frame["type"]:
            case "ADDED":
                api.create(kind, without(frame["object"], "resourceVersion"))
            case "MODIFIED":
                api.replace(kind, name, without(frame["object"], "resourceVersion"))
            case "DELETED":
                api.delete(kind, name)
    made = list(api.events(kind, 205))
    volatile = ("resourceVersion", "uid", "managedFields")
    assert without(made, *volatile) == without(
        [frame for frame in frames if frame["type"] != "BOOKMARK"], *volatile
    )
