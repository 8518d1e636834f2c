"""`fabricd-netns`: answers the daemon's requests until it has been idle for a while.

systemd listens for it (fabricd-netns.socket) and lets in whom the socket's mode lets in, so
nobody is asked who he is. What it gives away can do no more than its taker may: netlink asks for
the capabilities of both, who opened a socket and who sends (netlink(7), netlink_capable()).
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from array import array
from contextlib import suppress
from typing import Final

from fabricd.opener.namespaces import (
    hear_others,
    netlink_socket,
    open_namespace,
    open_socket_in,
)
from fabricd.opener.protocol import MAX_PACKET, Word, decode_request, encode_answer

IDLE: Final = 60.0
"""Seconds without a request after which it ends; systemd starts it again."""

_FIRST: Final = 3
"""SD_LISTEN_FDS_START, sd_listen_fds(3)."""


def main() -> None:
    """The program `fabricd-netns`."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        sys.exit("fabricd-netns is started by systemd: systemctl start fabricd-netns.socket")
    with socket.socket(fileno=_FIRST) as listener:
        serve(listener, IDLE)


def serve(listener: socket.socket, idle: float) -> None:
    """Answer all who connect, until nobody has asked for `idle` seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while ready := selector.select(idle):
            for key, _ in ready:
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.settimeout(1.0)
                    selector.register(client, selectors.EVENT_READ)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    if not _answer(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()


def _answer(client: socket.socket) -> bool:
    """Answer one request; whether there may be another."""
    try:
        packet = client.recv(MAX_PACKET)
    except OSError:
        return False
    if not packet:
        return False
    descriptors: list[int] = []
    try:
        word, path = decode_request(packet)
        descriptors = _open(word, path)
        answer = encode_answer(0)
    except ValueError as error:
        answer = encode_answer(22, str(error))  # EINVAL
    except OSError as error:
        answer = encode_answer(error.errno or 5, error.strerror or "")  # EIO
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        client.sendmsg([answer], rights if descriptors else [])
    except OSError:
        return False
    finally:
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
    return True


def _open(word: Word, path: str) -> list[int]:
    match word:
        case Word.NAMESPACE:
            namespace = open_namespace(path)
            try:
                return [namespace, open_socket_in(namespace).detach()]
            except BaseException:
                os.close(namespace)
                raise
        case Word.EVENTS:
            events = netlink_socket()
            try:
                hear_others(events)
            except BaseException:
                events.close()
                raise
            return [events.detach()]
