"""Asks an API server: requests with their credentials, and what is wrong when one is refused.

A connection is kept for the next request. One on which we were not let in, or that broke before
it answered, is given up, and the request goes out once more on a new one with credentials read
anew: so renewed certificates come into use, and what a proxy has cut meanwhile harms nobody.
For that, every request here does no harm when it arrives twice.

May not know what is asked.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import trio

from fabricd.core.unreadable import UNREADABLE
from fabricd.errors import Unavailable
from fabricd.sources.kube_access import Access, Credentials
from fabricd.sources.kube_http import MAX_ERROR, Connection, Head, HttpError

JSON: Final = "application/json"
JSON_PATCH: Final = "application/json-patch+json"
"""RFC 6902."""
MERGE_PATCH: Final = "application/merge-patch+json"
"""RFC 7386."""

Query = Mapping[str, str | int]

SPARE: Final = 3
"""Connections that are kept open for later: one for each watch, one for all else."""

_HINTS: Final = {
    401: "the token or certificate is not accepted: it may have expired",
    403: "see contrib/kubernetes/rbac.yaml for what is needed",
}


class Status(msgspec.Struct, frozen=True):
    """What is wrong, in the API's words (Kubernetes API conventions, "Response Status Kind")."""

    kind: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0


class Refused(Unavailable):
    """The server answered, and the answer is an error: its HTTP `code`."""

    def __init__(self, where: str, code: int, status: Status | None) -> None:
        """`status`: None when the answer held none, as that of a path that the API lacks."""
        words = [status.message if status and status.message else _phrase(code)]
        if hint := _HINTS.get(code):
            words.append(hint)
        if code == HTTPStatus.NOT_FOUND and status is None:
            words.append(
                "the API has no such resource: kubectl apply -f contrib/kubernetes/crd.yaml"
            )
        super().__init__("store", f"{where}: {code}: {'; '.join(words)}")
        self.code = code
        self.known = status is not None
        """Whether the API itself spoke: 404 without this means that it has no such resource."""


class KubeClient:
    """Every method raises Unavailable, and Refused where the server says no.

    timeout: seconds for the answer to one request to begin, and to end.
    """

    def __init__(self, credentials: Credentials, timeout: float) -> None:
        self._credentials = credentials
        self._timeout = timeout
        self._spare: list[tuple[Access, Connection]] = []
        self._server = ""
        """Its URL, for messages."""

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request, and the whole of its answer."""
        with trio.move_on_after(self._timeout):
            async with self._ask(method, path, query, body, content_type) as answer:
                return await answer.read_all()
        raise await self._late(method, path)

    @asynccontextmanager
    async def stream(self, path: str, query: Query) -> AsyncIterator[Connection]:
        """One request whose answer comes in pieces, for as long as the block lasts."""
        with trio.move_on_after(self._timeout) as patience:
            async with self._ask("GET", path, query, None, JSON) as answer:
                patience.deadline = math.inf
                yield answer
        if patience.cancelled_caught:
            raise await self._late("GET", path)

    async def aclose(self) -> None:
        """Close what is kept open."""
        while self._spare:
            _, connection = self._spare.pop()
            await connection.aclose()
        await trio.lowlevel.checkpoint()

    def failure(self, path: str, reason: str) -> Unavailable:
        """Something that went wrong with a path, in a line that says where."""
        return Unavailable("store", f"{self._server}{path}: {reason}")

    async def _late(self, method: str, path: str) -> Unavailable:
        await self.aclose()  # where one is silent, the others are
        return self.failure(path, f"no answer to {method} within {self._timeout:g} s")

    # ------------------------------------------------------------ one request

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, query: Query | None, body: Any, content_type: str
    ) -> AsyncIterator[Connection]:
        """The connection on which a good answer's body is about to come."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = msgspec.json.encode(body) if body is not None else b""
        again = True
        while again:
            access, connection, again = await self._connect(path)
            keep = False
            try:
                head = await _send(access, connection, method, target, data, content_type)
                if head.status < HTTPStatus.BAD_REQUEST:
                    again = False
                    yield connection
                    keep = connection.reuse() and len(self._spare) < SPARE
                elif not again or head.status != HTTPStatus.UNAUTHORIZED:
                    raise await self._refusal(head, connection, method, path)
            except HttpError as error:
                if not again:
                    raise self.failure(path, str(error)) from error
            finally:
                if keep:
                    self._spare.append((access, connection))
                else:
                    await connection.aclose()

    async def _connect(self, path: str) -> tuple[Access, Connection, bool]:
        """A connection, and whether it has been used before."""
        if self._spare:
            return *self._spare.pop(), True
        access = self._credentials.access()
        self._server = access.url
        try:
            return access, await Connection.open(access.target), False
        except HttpError as error:
            raise self.failure(path, str(error)) from error

    async def _refusal(self, head: Head, connection: Connection, method: str, path: str) -> Refused:
        body = await connection.read_all(MAX_ERROR)
        return Refused(f"{method} {self._server}{path}", head.status, read_status(body))


async def _send(
    access: Access,
    connection: Connection,
    method: str,
    target: str,
    data: bytes,
    content_type: str,
) -> Head:
    headers = [("accept", JSON), ("user-agent", "fabricd")]
    if (token := access.token()) is not None:
        headers.append(("authorization", f"Bearer {token}"))
    if data:
        headers.append(("content-type", content_type))
    return await connection.ask(method, access.base + target, headers, data)


def read_status(body: bytes) -> Status | None:
    """The Status object of an answer; None when there is none."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except UNREADABLE:
        return None
    return status if status.kind == "Status" else None


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "no reason given"
