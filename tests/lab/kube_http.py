"""HTTP/1.1 for the tests' API server: a request that comes, an answer that goes."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import h11
import trio

Request = tuple[str, str, dict[str, str], dict[str, str], bytes]
"""Method, path, query, headers, body."""


async def receive(conn: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    """The next request; None: no more of them."""
    head: h11.Request | None = None
    body = b""
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            conn.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            parts = urlsplit(head.target.decode())
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return head.method.decode(), parts.path, query, headers, body
        else:
            return None


async def send(
    conn: h11.Connection, stream: trio.abc.Stream, code: int, body: bytes, content_type: str
) -> None:
    headers = [("content-type", content_type), ("content-length", str(len(body)))]
    events = (
        h11.Response(status_code=code, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
    await stream.send_all(b"".join(conn.send(event) or b"" for event in events))
