"""A stand-in for charon that answers on its VICI socket, as far as `fabricctl status` asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer

from vici.protocol import Message, Packet


def version(text: str) -> bytes:
    """The answer to VICI's `version`."""
    about = {"daemon": "charon-systemd", "version": text, "sysname": "Linux"}
    return _segment(bytes([Packet.CMD_RESPONSE]) + Message.serialize(about))


REQUEST = Packet.request("version")


def _segment(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


class _Charon(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    answer = b""


class _Handler(StreamRequestHandler):
    server: _Charon

    def handle(self) -> None:
        asked = self.rfile.read(4 + len(REQUEST))
        assert asked in {_segment(REQUEST), b""}
        self.wfile.write(self.server.answer)


@contextmanager
def charon(path: Path, answer: bytes) -> Iterator[None]:
    """One that says `answer` and closes. Its process is the one that runs this."""
    with _Charon(str(path), _Handler) as server:
        server.answer = answer
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
