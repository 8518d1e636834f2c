"""What comes in by HTTP, on TCP and on the control socket; and what charon's and the store's users
never see: a client that sends half a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream

from fabricd.daemon.web import Request, Response, Routes, Server
from tests.fuzz.harness import Target


async def _page(request: Request) -> Response:
    return Response(200, b"a page\n")


async def _echo(request: Request) -> Response:
    return Response(200, request.body)


ROUTES: Final[Routes] = {("GET", "/"): _page, ("GET", "/status"): _page, ("POST", "/cni"): _echo}


async def _serve(data: bytes) -> bytes:
    sent = MemoryReceiveStream()
    sent.put_data(data)
    sent.put_eof()
    answers = MemorySendStream()
    await Server(ROUTES).serve(trio.StapledStream(answers, sent))
    return bytes(answers.get_data_nowait())


def _http(data: bytes) -> object:
    """All of it at once, and then the client is silent for ever."""
    answer = trio.run(_serve, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:40]
    return answer


def _requests() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    yield b"GET /status HTTP/1.0\r\n\r\n"
    yield b"HEAD /metrics?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    yield b'POST /cni HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n{"environment":{}}'
    chunked = b"POST /cni HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield chunked + b"3\r\nabc\r\n0\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3


TARGETS: Final = (
    Target(
        "http",
        _http,
        _requests,
        words=(b"\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"CONNECT", b"HTTP/1.1"),
    ),
)
