"""An API server for tests: `kube_api` over HTTP/1.1 and TLS, with tokens, client certificates, a
few rules about who may do what, and the ways in which real ones fail.

As a program it serves until it is killed, and keeps its objects in a file, so that it can come
back: `kube_server.py FOLDER HOST:PORT`. Whoever reaches the socket in FOLDER is its operator.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import trio

from tests.lab.kube_api import ApiError, Kind, KubeApi, Object, is_plain
from tests.lab.kube_discovery import discovered, selected, table
from tests.lab.kube_http import Request, receive, send

SOCKET = "operator.sock"


@dataclass
class KubeServer:
    """Serves an API. What is changed here counts from the next request on."""

    api: KubeApi
    tls: ssl.SSLContext
    tokens: dict[str, str] = field(default_factory=dict)
    """Users by their bearer tokens. A client certificate's CN is a user too."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource that nobody may use: `("watch", "nodes")`."""
    unwelcome: set[str] = field(default_factory=set)
    """Users whose credentials count no more."""
    bookmarks: bool = True
    requests: list[str] = field(default_factory=list)
    """`GET /api/v1/nodes?limit=500`, as they came."""
    expire_pages: bool = False
    """A compaction comes between any two pages."""
    error_frames: list[Object] = field(default_factory=list)
    """Status objects with which the next watches begin, and end."""
    _news: trio.Event = field(default_factory=trio.Event)
    _asked: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def __post_init__(self) -> None:
        self.api.changed = self._changed

    def _changed(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for the requests that make a condition true."""
        with trio.fail_after(30):
            while not condition():
                await self._asked.park()

    def asked(self, what: str) -> int:
        """How many requests had this in them."""
        return sum(what in request for request in self.requests)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Until cancelled; then every connection is broken off."""
        await trio.serve_listeners(self.connect, [listener])

    async def connect(self, tcp: trio.SocketStream) -> None:
        """One connection."""
        tls = trio.SSLStream(tcp, self.tls, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(tcp)
        else:
            await self._converse(tls, _common_name(tls.getpeercert()))

    async def operate(self, stream: trio.SocketStream) -> None:
        """A connection of one who may do everything."""
        await self._converse(stream, "operator")

    async def _converse(self, stream: trio.abc.Stream, user: str) -> None:
        try:
            conn = h11.Connection(h11.SERVER)
            while (request := await receive(conn, stream)) is not None:
                await self._answer(conn, stream, request, user)
                if conn.our_state is not h11.DONE:
                    return
                conn.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(
        self, conn: h11.Connection, stream: trio.abc.Stream, request: Request, user: str
    ) -> None:
        method, path, query, headers, _ = request
        asked = "&".join(f"{k}={v}" for k, v in query.items())
        self.requests.append(f"{method} {path}" + (f"?{asked}" if asked else ""))
        self._asked.unpark_all()
        try:
            user = self._authenticated(headers, user)
            if (found := discovered(self.api, path)) is not None:
                await send(conn, stream, 200, *found)
                return
            kind, name, part = self._route(path)
            watching = query.get("watch") == "true"
            self._authorize(user, method, kind, part, many=not name, watching=watching)
            if watching:
                await self._watch(conn, stream, kind, query)
                return
            code, answer = 200, self._carry_out(request, kind, name, part)
            if "as=Table" in headers.get("accept", ""):
                answer = table(self.api, kind, answer)
            if method == "POST":
                code = 201
        except ApiError as error:
            code, answer = error.code, error.status()
        except NotInstalledError:
            await send(conn, stream, 404, b"404 page not found\n", "text/plain; charset=utf-8")
            return
        await send(conn, stream, code, json.dumps(answer).encode() + b"\n", "application/json")

    def _authenticated(self, headers: dict[str, str], user: str) -> str:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            user = self.tokens.get(token, "")
        if not user or user in self.unwelcome:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

    def _authorize(
        self, user: str, method: str, kind: Kind, part: str, *, many: bool, watching: bool
    ) -> None:
        verb = {"GET": "get", "POST": "create", "PUT": "update"}.get(method, method.lower())
        if method == "GET" and many:
            verb = "watch" if watching else "list"
        resource = f"{kind.plural}/{part}" if part else kind.plural
        if (verb, resource) in self.forbidden:
            raise ApiError(
                403,
                "Forbidden",
                f'{resource} is forbidden: User "{user}" cannot {verb} resource "{resource}" in '
                'API group "" at the cluster scope',
            )

    def _route(self, path: str) -> tuple[Kind, str, str]:
        """Kind, name and subresource that a path is about."""
        # Objects in a namespace have a path that begins like the namespace's own.
        for prefix, kind in sorted(self.api.kinds.items(), reverse=True):
            if path == prefix or path.startswith(f"{prefix}/"):
                name, _, part = path.removeprefix(prefix).strip("/").partition("/")
                return kind, name, part
        raise NotInstalledError

    def _carry_out(self, request: Request, kind: Kind, name: str, part: str) -> Object:
        method, _, query, headers, body = request
        value: Any = json.loads(body) if body else None
        if method == "GET" and not name:
            if int(query.get("resourceVersion") or 0) > self.api.version:
                message = "etcdserver: mvcc: required revision is a future revision"
                raise ApiError(500, "", message)
            if query.get("continue") and self.expire_pages:
                self.api.compact()
            limit = int(query["limit"]) if "limit" in query else None
            answer = self.api.list(kind, limit, query.get("continue", ""))
            if "fieldSelector" in query:
                answer["items"] = selected(answer["items"], query["fieldSelector"])
            return answer
        match method:
            case "GET":
                return self.api.get(kind, name)
            case "POST":
                return self.api.create(kind, value)
            case "PUT":
                return self.api.replace(kind, name, value)
            case "PATCH":
                if "strategic" in headers.get("content-type", "") and not is_plain(value):
                    raise ApiError(415, "UnsupportedMediaType", "lists are not merged here")
                return self.api.patch(kind, name, value, status=part == "status")
            case "DELETE":
                self.api.delete(kind, name)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise ApiError(405, "MethodNotAllowed", f"the server does not allow {method}")

    async def _watch(
        self, conn: h11.Connection, stream: trio.abc.Stream, kind: Kind, query: dict[str, str]
    ) -> None:
        seconds = float(query["timeoutSeconds"])
        now = trio.current_time()
        bookmark_at = now + seconds - min(2, seconds / 2)
        after = int(query["resourceVersion"])
        headers = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
        response = h11.Response(status_code=200, headers=headers)
        await stream.send_all(conn.send(response) or b"")

        async def send(frame: Object) -> None:
            data = json.dumps(frame).encode() + b"\n"
            await stream.send_all(conn.send(h11.Data(data=data)) or b"")

        # Of a version that the store never had nothing is said: the watch waits for it.
        known = after <= self.api.version
        bookmarks = self.bookmarks and query.get("allowWatchBookmarks") == "true"
        with trio.move_on_at(now + seconds):
            try:
                if self.error_frames:
                    await send({"type": "ERROR", "object": self.error_frames.pop(0)})
                    seconds = 0
                while seconds:
                    news = self._news
                    for frame in self.api.events(kind, after) if known else ():
                        await send(frame)
                        after = int(frame["object"]["metadata"]["resourceVersion"])
                    with trio.move_on_at(bookmark_at):
                        await news.wait()
                        continue
                    bookmark_at = float("inf")
                    if known and bookmarks:
                        await send(_bookmark(kind, max(after, self.api.version)))
            except ApiError as error:
                await send({"type": "ERROR", "object": error.status()})
        await stream.send_all(conn.send(h11.EndOfMessage()) or b"")


class NotInstalledError(Exception):
    """No such resource."""


def _bookmark(kind: Kind, version: int) -> Object:
    meta = {"resourceVersion": str(version)}
    return {
        "type": "BOOKMARK",
        "object": {"kind": kind.kind, "apiVersion": kind.version, "metadata": meta},
    }


def _common_name(certificate: Any) -> str:
    """CN of a client's certificate."""
    for rdn in (certificate or {}).get("subject", ()):
        for name, value in rdn:
            if name == "commonName":
                return str(value)
    return ""


# ---------------------------------------------------------------- as a program


async def main(folder: Path, host: str, port: int) -> None:
    """Serve, with the certificates in the folder, and its objects in `objects.json`."""
    api, kept = KubeApi(), folder / "objects.json"
    if kept.exists():
        api.restore(json.loads(kept.read_text()))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.crt")
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    tls.verify_mode = ssl.CERT_OPTIONAL
    server = KubeServer(api, tls)
    api.changed = _both(api.changed, lambda: kept.write_text(json.dumps(api.backup())))
    listeners = await trio.open_tcp_listeners(port, host=host)
    door = trio.socket.socket(socket.AF_UNIX)
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    await door.bind(str(path))
    door.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.operate, [trio.SocketListener(door)])
        nursery.start_soon(trio.serve_listeners, server.connect, listeners)


def _both(one: Callable[[], object], other: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        one()
        other()

    return call


if __name__ == "__main__":
    listen_host, _, listen_port = sys.argv[2].rpartition(":")
    trio.run(main, Path(sys.argv[1]), listen_host, int(listen_port))
