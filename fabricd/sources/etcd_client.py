"""One connection to etcd at a time: channel, TLS, password and token, moving on to the next
endpoint when one does not answer.

Calls are gRPC futures that wake a trio task: no thread, and cancellable. May not know what
is asked, nor of records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc
import trio

from fabricd.errors import Unavailable
from fabricd.sources.endpoint import Endpoint
from fabricd.sources.etcd_proto import AUTHENTICATE, Method

OPTIONS: Final = (
    # A frozen etcd is noticed after 15 s. etcd takes pings more often than every 5 s for an
    # attack (its --grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A thousand records, or what a thousand transactions changed, come as one message.
    ("grpc.max_receive_message_length", -1),
    # A connection that fails is closed and made anew: what gRPC remembers of it would be in
    # the way, as would a proxy for the web.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

NEXT_ENDPOINT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""With these another endpoint may do better: nobody answered, or it was not etcd."""

# etcd tells its errors apart by their text alone (etcd, api/v3rpc/rpctypes/error.go).
AUTH_NOT_ENABLED: Final = "etcdserver: authentication is not enabled"
AUTHENTICATE_AGAIN: Final = frozenset(
    {
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
        "etcdserver: user name is empty",  # authentication was switched on since
    }
)


class Refused(Unavailable):
    """etcd answered, and the answer is an error: `code` as gRPC names it, `details` its text."""

    def __init__(self, reason: str, code: Any, details: str) -> None:
        super().__init__("store", reason)
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files are read whenever a connection is made, so they can be renewed."""

    ca: Path | None = None
    """None: the system's."""
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def tls(self) -> Any:
        """Channel credentials of gRPC; raises Unavailable when a file can't be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    def password(self) -> str:
        """The password, without the newline that ends its file; raises Unavailable."""
        text = _read(self.password_file) or b""
        return text.decode("utf-8", "surrogateescape").rstrip("\r\n")


class _Closed(grpc.RpcError):  # type: ignore[misc]  # gRPC has no types
    """The connection was given up while we waited for something else."""

    def code(self) -> Any:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "the connection was given up"


class Connection:
    """A channel to one endpoint. Raises grpc.RpcError."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials, timeout: float) -> None:
        self.endpoint = endpoint
        self.answered = False
        """Whether anything ever came back."""
        self._credentials = credentials
        self._timeout = timeout
        self._channel = (
            grpc.secure_channel(endpoint.target, credentials.tls(), OPTIONS)
            if endpoint.tls
            else grpc.insecure_channel(endpoint.target, OPTIONS)
        )
        self._token: str | None = None
        self._authenticating = trio.Lock()
        self._closed = False

    async def ask(self, method: Method, request: Any) -> Any:
        """One request, one response, as the configured user."""
        metadata = await self.metadata()
        try:
            return await self._ask(method, request, metadata)
        except grpc.RpcError as error:
            if not self._credentials.username or error.details() not in AUTHENTICATE_AGAIN:
                raise
        self._token = None
        return await self._ask(method, request, await self.metadata())

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call: the token, and that a server without a leader is no use."""
        async with self._authenticating:
            if self._credentials.username and self._token is None:
                self._token = await self._authenticate(self._credentials.username)
        token = (("token", self._token),) if self._token else ()
        return (("hasleader", "true"), *token)

    def stream(
        self, method: Method, requests: Iterable[Any], metadata: tuple[tuple[str, str], ...]
    ) -> Any:
        """Many requests, many responses: an iterator, for a thread of its own."""
        self._check()
        return self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(iter(requests), metadata=metadata)

    def close(self) -> None:
        """Close the channel: calls that are under way end as CANCELLED."""
        self._closed = True
        self._channel.close()

    def _check(self) -> None:
        if self._closed:  # by another task; gRPC would call it a ValueError
            raise _Closed

    async def _authenticate(self, username: str) -> str:
        request = AUTHENTICATE.request(name=username, password=self._credentials.password())
        try:
            return str((await self._ask(AUTHENTICATE, request, ())).token)
        except grpc.RpcError as error:
            if error.details() == AUTH_NOT_ENABLED:
                return ""
            raise

    async def _ask(
        self, method: Method, request: Any, metadata: tuple[tuple[str, str], ...]
    ) -> Any:
        self._check()
        done = trio.Event()
        trio_token = trio.lowlevel.current_trio_token()

        def wake(_: object) -> None:  # in a thread of gRPC's
            with suppress(trio.RunFinishedError):
                trio_token.run_sync_soon(done.set)

        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        ).future(request, timeout=self._timeout, metadata=metadata)
        call.add_done_callback(wake)
        try:
            await done.wait()
        finally:
            call.cancel()  # does nothing to a call that is done
        response = call.result()
        self.answered = True
        return response


class EtcdClient:
    """Asks etcd, wherever it answers. Every method raises Unavailable."""

    def __init__(
        self, endpoints: Sequence[Endpoint], credentials: Credentials, rng: Random, timeout: float
    ) -> None:
        self._endpoints = rng.sample(list(endpoints), len(endpoints))
        """Shuffled: nodes divide among the servers."""
        self._credentials = credentials
        self._timeout = timeout
        self._connection: Connection | None = None

    async def call(self, method: Method, request: Any) -> Any:
        """One request, one response; each endpoint is tried once. Raises Refused too."""
        failures: list[str] = []
        for _ in self._endpoints:
            connection = self._connect()
            try:
                return await connection.ask(method, request)
            except grpc.RpcError as error:
                failure = self.judge(connection, error)
                if isinstance(failure, Refused):
                    raise failure from error
                failures.append(failure.reason)
                if connection is self._connection:
                    break  # it answered before: slow, not gone
        raise Unavailable("store", "; ".join(failures))

    @asynccontextmanager
    async def stream(self, method: Method, requests: Iterable[Any]) -> AsyncIterator[Stream]:
        """Open a stream on the connection there is; it is cancelled at the end."""
        connection = self._connect()
        try:
            metadata = await connection.metadata()
            call = connection.stream(method, requests, metadata)
        except grpc.RpcError as error:
            raise self.judge(connection, error) from error
        try:
            yield Stream(self, connection, call)
        finally:
            call.cancel()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        await trio.lowlevel.checkpoint()

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._endpoints[0], self._credentials, self._timeout)
        return self._connection

    def leave(self, connection: Connection) -> None:
        """Give this connection up: the next one goes to the next endpoint."""
        connection.close()
        if connection is self._connection:
            self._connection = None
            self._endpoints.append(self._endpoints.pop(0))

    def judge(self, connection: Connection, error: grpc.RpcError) -> Unavailable:
        """What an error means to the caller; a connection that is no use is given up."""
        code, details = error.code(), " ".join((error.details() or "").split())
        text = details.removeprefix("etcdserver: ") or code.name
        if code not in NEXT_ENDPOINT:
            return Refused(f"{connection.endpoint}: {text}", code, details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"no answer within {self._timeout:g} s"
            if connection.answered:
                return Unavailable("store", f"{connection.endpoint}: {text}")
        self.leave(connection)
        return Unavailable("store", f"{connection.endpoint}: {text}")


class Stream:
    """A stream under way."""

    def __init__(self, client: EtcdClient, connection: Connection, call: Any) -> None:
        self._client = client
        self._connection = connection
        self.call = call
        """An iterator of responses that blocks, with `cancel()`; raises grpc.RpcError."""

    def refused(self, reason: str) -> Unavailable:
        """The server said no; the connection is good."""
        return Unavailable("store", f"{self._connection.endpoint}: {reason}")

    def broke(self, error: grpc.RpcError | str) -> Unavailable:
        """The stream ended by an error of gRPC's, or without one: what to raise for it."""
        if isinstance(error, grpc.RpcError):
            return self._client.judge(self._connection, error)
        self._client.leave(self._connection)
        return self.refused(error)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable("store", f"{path}: cannot be read: {error.strerror}") from error
