"""HTTP/1.1 as bytes on a stream in memory, in simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from fabricd.daemon.web import (
    FAREWELL,
    IDLE_TIMEOUT,
    MAX_CONNECTIONS,
    MAX_REQUEST,
    MAX_STREAMS,
    TAKE_TIMEOUT,
    Request,
    Response,
    Routes,
    Send,
    Server,
    Stream,
)


async def hello(request: Request) -> Response:
    return Response(200, f"hello {request.headers.get('x-name', 'nobody')}\n".encode())


async def busy(_: Request) -> Response:
    return Response(503, b"not now\n")


async def slow(_: Request) -> Response:
    await trio.sleep(IDLE_TIMEOUT * 2)
    raise AssertionError


async def confirm(_: Request) -> Response:
    return Response(200, b"{}", "application/json")


async def drip(send: Send) -> None:
    """A piece a second, for longer than any deadline of a connection."""
    for number in range(int(IDLE_TIMEOUT * 3)):
        await send(b"%d\n" % number)
        await trio.sleep(1)


async def flood(send: Send) -> None:
    while True:
        await send(b"x" * 65536)


async def silence(_: Send) -> None:
    await trio.sleep_forever()


async def get_drip(_: Request) -> Stream:
    return Stream(drip, "text/plain", (("x-kind", "stream"),))


async def get_flood(_: Request) -> Stream:
    return Stream(flood, "text/plain")


async def get_silence(_: Request) -> Stream:
    return Stream(silence, "text/plain")


ROUTES: Routes = {
    ("GET", "/drip"): get_drip,
    ("GET", "/flood"): get_flood,
    ("GET", "/silence"): get_silence,
    ("GET", "/hello"): hello,
    ("GET", "/busy"): busy,
    ("GET", "/slow"): slow,
    ("GET", "/both"): hello,
    ("POST", "/both"): confirm,
    ("POST", "/confirm"): confirm,
}


class Client:
    """Sends bytes, reads responses."""

    def __init__(self, nursery: trio.Nursery, server: Server) -> None:
        self.stream, theirs = memory_stream_pair()
        nursery.start_soon(server.serve, theirs)
        self._conn = h11.Connection(h11.CLIENT)
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read_all(self) -> bytes:
        """Everything until the server closes."""
        data = self._buffer
        while chunk := await self.stream.receive_some():
            data += chunk
        return data

    async def ask(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection that is kept, checked by h11."""
        sent = [("host", "x"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        if body:
            sent.append(("content-length", str(len(body))))
        events = [h11.Request(method=method, target=target, headers=sent)]
        data = b"".join(filter(None, map(self._conn.send, events)))
        data += self._conn.send(h11.Data(data=body)) or b""
        await self.send(data + (self._conn.send(h11.EndOfMessage()) or b""))
        status, received, content = 0, {}, b""
        while True:
            match self._conn.next_event():
                case h11.NEED_DATA:
                    self._conn.receive_data(bytes(await self.stream.receive_some()))
                case h11.Response() as response:
                    status = response.status_code
                    received = {k.decode(): v.decode() for k, v in response.headers}
                    received["reason"] = response.reason.decode()
                case h11.Data(data=chunk):
                    content += bytes(chunk)
                case h11.EndOfMessage():
                    if self._conn.our_state is h11.DONE:
                        self._conn.start_next_cycle()
                    return status, received, content
                case event:
                    raise AssertionError(event)

    async def is_closed(self) -> bool:
        """Whether the server has closed, with nothing more to say."""
        return await self.stream.receive_some() == b""


@pytest.fixture
def client(nursery: trio.Nursery) -> Client:
    return Client(nursery, Server(ROUTES))


# ---------------------------------------------------------------- requests that are right


async def test_a_response_on_the_wire(client: Client) -> None:
    await client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
    status_line, *headers = head.split(b"\r\n")
    assert status_line == b"HTTP/1.1 200 OK"
    assert sorted(headers) == [
        b"Connection: close",
        b"cache-control: no-store",
        b"content-length: 13",
        b"content-type: text/plain; charset=utf-8",
    ]
    assert body == b"hello nobody\n"


async def test_a_connection_is_kept(client: Client) -> None:
    for name in ("edge2", "edge3", "edge4"):
        status, _, body = await client.ask("GET", "/hello", x_name=name)
        assert (status, body) == (200, f"hello {name}\n".encode())


async def test_a_connection_of_http_1_0_is_not(client: Client) -> None:
    await client.send(b"GET /hello HTTP/1.0\r\n\r\n")
    assert (await client.read_all()).endswith(b"hello nobody\n")


async def test_requests_sent_without_waiting_are_answered_in_order(client: Client) -> None:
    one = b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Name: one\r\n\r\n"
    two = b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Name: two\r\nConnection: close\r\n\r\n"
    await client.send(one + two)
    answer = await client.read_all()
    assert answer.index(b"hello one") < answer.index(b"hello two")


async def test_a_request_that_comes_byte_by_byte(client: Client) -> None:
    for byte in b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
        await client.send(bytes([byte]))
    assert (await client.read_all()).endswith(b"hello nobody\n")


async def test_head_is_get_without_a_body(client: Client) -> None:
    status, headers, body = await client.ask("HEAD", "/hello")
    assert (status, headers["content-length"], body) == (200, "13", b"")
    assert (await client.ask("GET", "/hello"))[0] == 200


async def test_a_query_is_passed_over(client: Client) -> None:
    assert (await client.ask("GET", "/hello?name=x"))[0] == 200


async def test_a_body_is_taken_and_passed_over(client: Client) -> None:
    status, headers, body = await client.ask("POST", "/confirm", b"x" * 3 * MAX_REQUEST)
    assert (status, headers["content-type"], body) == (200, "application/json", b"{}")
    assert (await client.ask("GET", "/hello"))[0] == 200


@pytest.mark.parametrize(
    ("method", "target", "status", "reason"),
    [
        ("GET", "/hello", 200, "OK"),
        ("GET", "/busy", 503, "Service Unavailable"),
        ("GET", "/", 404, "Not Found"),
        ("GET", "/hello/", 404, "Not Found"),
        ("HEAD", "/nothing", 404, "Not Found"),
        ("HEAD", "/confirm", 405, "Method Not Allowed"),
    ],
)
async def test_status_and_reason(
    client: Client, method: str, target: str, status: int, reason: str
) -> None:
    found, headers, _ = await client.ask(method, target)
    assert (found, headers["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/hello", "GET, HEAD"),
        ("DELETE", "/both", "GET, HEAD, POST"),
        ("GET", "/confirm", "POST"),
    ],
)
async def test_another_method_is_told_which_there_are(
    client: Client, method: str, target: str, allow: str
) -> None:
    status, headers, body = await client.ask(method, target)
    assert (status, headers["allow"], body) == (405, allow, b"method not allowed\n")
    assert "allow" not in (await client.ask("GET", "/hello"))[1]


async def test_an_upgrade_is_declined(client: Client) -> None:
    assert (await client.ask("GET", "/hello", connection="upgrade", upgrade="h2c"))[0] == 200


# ---------------------------------------------------------------- clients that are broken


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"hello\r\n\r\n",
        b"GET /hello HTTP/1.1\r\n\r\n",  # no Host
        b"GET /hello HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /h\xc3\xa4llo HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_garbage_is_refused_and_the_connection_closed(client: Client, garbage: bytes) -> None:
    await client.send(garbage)
    answer = await client.read_all()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_headers_without_end_are_refused(client: Client) -> None:
    await client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2 * MAX_REQUEST)
    answer = await client.read_all()
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_a_transfer_encoding_that_nobody_knows(client: Client) -> None:
    await client.send(b"POST /confirm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n")
    assert (await client.read_all()).startswith(b"HTTP/1.1 501 Not Implemented\r\n")


async def test_a_client_that_goes_without_a_word(client: Client) -> None:
    await client.stream.send_eof()
    assert await client.is_closed()


async def test_a_client_that_goes_in_the_middle(nursery: trio.Nursery) -> None:
    server = Server(ROUTES)
    for data in (b"GET /he", b"POST /confirm HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"):
        client = Client(nursery, server)
        await client.send(data)
        await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert (await Client(nursery, server).ask("GET", "/hello"))[0] == 200


async def test_a_client_that_does_not_wait_for_its_answer(nursery: trio.Nursery) -> None:
    server = Server(ROUTES)
    client = Client(nursery, server)
    await client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert (await Client(nursery, server).ask("GET", "/hello"))[0] == 200


# ---------------------------------------------------------------- time and number


async def trickle(client: Client, seconds: float) -> None:
    for _ in range(int(seconds)):
        await client.send(b"x")
        await trio.sleep(1)


async def test_a_slow_client_is_hung_up_on(client: Client, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    await client.send(b"GET /hello HTTP/1.1\r\n")
    assert await client.is_closed()
    assert trio.current_time() == pytest.approx(start + IDLE_TIMEOUT)


async def test_a_trickle_does_not_prolong_it(client: Client, autojump_clock: MockClock) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await trickle(client, IDLE_TIMEOUT + 2)


async def test_an_idle_connection_is_closed_and_a_busy_one_kept(
    client: Client, autojump_clock: MockClock
) -> None:
    for _ in range(5):
        assert (await client.ask("GET", "/hello"))[0] == 200
        await trio.sleep(IDLE_TIMEOUT * 0.9)
    start = trio.current_time()
    assert await client.is_closed()
    assert trio.current_time() > start


async def test_an_answer_that_takes_too_long_is_given_up(
    client: Client, autojump_clock: MockClock
) -> None:
    await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await client.is_closed()


async def test_no_more_connections_than_the_limit(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(ROUTES)
    idle = [Client(nursery, server) for _ in range(MAX_CONNECTIONS)]
    await wait_all_tasks_blocked()
    late = Client(nursery, server)
    await late.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with trio.move_on_after(IDLE_TIMEOUT / 2):
        await late.stream.receive_some()
        pytest.fail("answered beyond the limit")
    await idle[0].stream.aclose()
    assert (await late.read_all()).endswith(b"hello nobody\n")


# ---------------------------------------------------------------- streams


def asks(path: str, version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode()


async def read_head(client: Client) -> bytes:
    """What comes first, which is the head alone."""
    return bytes(await client.stream.receive_some())


async def test_a_stream_outlasts_the_deadlines_of_a_connection_and_ends_in_order(
    client: Client, autojump_clock: MockClock
) -> None:
    status, headers, body = await client.ask("GET", "/drip")
    assert (status, headers["x-kind"]) == (200, "stream")
    assert (headers["transfer-encoding"], headers["connection"]) == ("chunked", "close")
    assert body.split() == [b"%d" % number for number in range(int(IDLE_TIMEOUT * 3))]
    assert await client.is_closed()


async def test_a_stream_for_http_1_0_has_no_chunks(
    client: Client, autojump_clock: MockClock
) -> None:
    await client.send(asks("/drip", "1.0"))
    head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"0\n1\n2\n")


async def test_the_head_of_a_stream_is_a_head_alone(client: Client) -> None:
    status, _, body = await client.ask("HEAD", "/drip")
    assert (status, body) == (200, b"")
    assert await client.is_closed()


@asynccontextmanager
async def streams_open(server: Server, number: int) -> AsyncIterator[list[Client]]:
    """Streams whose clients have got the head."""
    async with trio.open_nursery() as nursery:
        clients = [Client(nursery, server) for _ in range(number)]
        for client in clients:
            await client.send(asks("/silence"))
            assert (await read_head(client)).startswith(b"HTTP/1.1 200 ")
        yield clients
        nursery.cancel_scope.cancel()


async def test_no_more_streams_than_the_limit_and_others_are_still_answered(
    nursery: trio.Nursery,
) -> None:
    server = Server(ROUTES)
    async with streams_open(server, MAX_STREAMS) as clients:
        status, headers, _ = await Client(nursery, server).ask("GET", "/silence")
        assert (status, headers["reason"]) == (503, "Service Unavailable")
        assert (await Client(nursery, server).ask("GET", "/hello"))[0] == 200
        await clients[0].stream.aclose()
        await wait_all_tasks_blocked()
        late = Client(nursery, server)
        await late.send(asks("/silence"))
        assert (await read_head(late)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_goes_frees_its_place_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(ROUTES)
    start = trio.current_time()
    for _ in range(3 * MAX_STREAMS):
        client = Client(nursery, server)
        await client.send(asks("/silence"))
        assert (await read_head(client)).startswith(b"HTTP/1.1 200 ")
        await client.stream.aclose()
        await wait_all_tasks_blocked()
    assert trio.current_time() == start
    assert not nursery.child_tasks, "no task is left of those that are gone"


async def test_what_a_client_says_on_a_stream_is_passed_over(client: Client) -> None:
    await client.send(asks("/silence"))
    await read_head(client)
    await client.send(asks("/hello") * 100)
    await wait_all_tasks_blocked()
    await client.stream.send_eof()
    assert await client.read_all() == b"0\r\n\r\n"


async def test_slow_readers_of_streams_are_dropped(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(ROUTES)
    # Real sockets: their buffers are filled, and nobody takes anything out.
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, server.serve, [listener])
    port = listener.socket.getsockname()[1]
    slow = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_STREAMS)]
    for stream in slow:
        await stream.send_all(asks("/flood"))
    await trio.sleep(TAKE_TIMEOUT / 2)
    assert (await Client(nursery, server).ask("GET", "/silence"))[0] == 503
    await trio.sleep(TAKE_TIMEOUT)
    async with streams_open(server, MAX_STREAMS):
        pass
    for stream in slow:
        async with stream:
            sent = b"".join([piece async for piece in stream])
        assert sent.startswith(b"HTTP/1.1 200 ")
        assert not sent.endswith(b"\r\n0\r\n\r\n"), "it is broken off, and can be seen to be"


async def test_a_server_that_stops_says_so_to_its_streams(autojump_clock: MockClock) -> None:
    server = Server(ROUTES)
    start = trio.current_time()
    async with streams_open(server, 3) as clients:
        pass
    for client in clients:
        assert await client.read_all() == b"0\r\n\r\n"
    assert trio.current_time() <= start + FAREWELL
