"""`fabricd-netns`: descriptors over a unix socket, and nothing else."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from fabricd.kernel.netns import Opener
from fabricd.opener.protocol import (
    Word,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from fabricd.opener.server import serve

RTM_GETLINK = 18
NLM_F_REQUEST = 1
SOL_NETLINK, NETLINK_LISTEN_ALL_NSID = 270, 8


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Path]:
    """The socket of a `fabricd-netns` that answers in a thread."""
    path = tmp_path / "netns.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = Thread(target=serve, args=(listener, 0.5))
        thread.start()
        yield path
        thread.join()


def ask(path: Path, packet: bytes) -> tuple[int, str, list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        client.send(packet)
        answer, descriptors, _, _ = socket.recv_fds(client, 8192, 4)
    code, text = decode_answer(answer)
    return code, text, descriptors


def test_requests_and_answers_survive_the_way() -> None:
    assert decode_request(encode_request(Word.NAMESPACE, "/run/netns/ns1")) == (
        Word.NAMESPACE,
        "/run/netns/ns1",
    )
    assert decode_answer(encode_answer(2, "not there")) == (2, "not there")


@pytest.mark.parametrize("packet", [b"x", b"namespace", b"shell\0/bin/sh", b"namespace\0/a\0/b"])
def test_what_is_no_request_is_refused_and_the_next_is_answered(
    helper: Path, packet: bytes
) -> None:
    assert ask(helper, packet)[0] == 22
    assert ask(helper, encode_request(Word.NAMESPACE, "/nowhere"))[0] == 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/proc/self/ns/net", "it is the node's own network namespace"),
        ("/proc/self/ns/mnt", "it is no network namespace"),
        ("/etc/hostname", "it is no network namespace"),
    ],
)
def test_only_other_network_namespaces_are_entered(helper: Path, path: str, reason: str) -> None:
    assert ask(helper, encode_request(Word.NAMESPACE, path)) == (22, reason, [])


def test_events_come_from_everywhere(helper: Path) -> None:
    code, _, (descriptor,) = ask(helper, encode_request(Word.EVENTS))
    assert code == 0
    with socket.socket(fileno=descriptor) as events:
        assert events.family == socket.AF_NETLINK
        (on,) = struct.unpack("=i", events.getsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 4))
        assert on


async def test_without_it_the_reason_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as refused:
        await Opener(str(tmp_path / "nobody")).listener()
    assert "CAP_SYS_ADMIN, or fabricd-netns" in str(refused.value)
    assert "systemctl enable --now fabricd-netns.socket" in str(refused.value)


def test_descriptors_are_not_kept(helper: Path) -> None:
    for _ in range(20):
        ask_and_close(helper)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        ask_and_close(helper)
    # The server has a moment to see that a client is gone.
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 20


def ask_and_close(helper: Path) -> None:
    for descriptor in ask(helper, encode_request(Word.EVENTS))[2]:
        os.close(descriptor)
