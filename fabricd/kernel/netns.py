"""Other network namespaces, entered by the daemon itself or with the help of `fabricd-netns`."""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from fabricd.kernel.netlink import Netlink
from fabricd.opener.namespaces import open_namespace, open_socket_in
from fabricd.opener.protocol import MAX_PACKET, Word, decode_answer, encode_request

_DEADLINE: Final = 5.0
"""Seconds for `fabricd-netns` to be started, and to answer."""

_DENIED: Final = frozenset({errno.EPERM, errno.EACCES})


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, open."""

    descriptor: int
    netlink: Netlink
    """Its NETLINK_ROUTE."""


class Opener:
    """Opens namespaces. `helper` is the socket of `fabricd-netns`."""

    def __init__(self, helper: str) -> None:
        self._helper = helper

    @asynccontextmanager
    async def entered(self, path: str) -> AsyncIterator[Namespace]:
        """The network namespace at a path. It is kept alive as long as the context is.

        Raises OSError: there is none, it is the process's own, or it can't be entered.
        """
        descriptor, sock = await self._open(path)
        try:
            netlink = Netlink.of(sock)
            try:
                yield Namespace(descriptor, netlink)
            finally:
                netlink.close()
        finally:
            os.close(descriptor)

    async def listener(self) -> socket.socket:
        """A NETLINK_ROUTE socket that hears of what happens in other namespaces too. Raises
        OSError.
        """
        (descriptor,) = await self._ask(Word.EVENTS)
        return socket.socket(fileno=descriptor)

    async def _open(self, path: str) -> tuple[int, socket.socket]:
        try:
            descriptor = open_namespace(path)
            try:
                return descriptor, open_socket_in(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            if error.errno not in _DENIED:
                raise
        descriptor, sock = await self._ask(Word.NAMESPACE, path)
        return descriptor, socket.socket(fileno=sock)

    async def _ask(self, word: Word, path: str = "") -> list[int]:
        """Descriptors from `fabricd-netns`."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            try:
                with trio.fail_after(_DEADLINE):
                    await client.connect(self._helper)
                    await client.send(encode_request(word, path))
                    space = socket.CMSG_SPACE(2 * array("i").itemsize)
                    packet, extra, _, _ = await client.recvmsg(
                        MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC
                    )
            except (OSError, trio.TooSlowError) as error:
                raise PermissionError(
                    errno.EPERM,
                    "to enter other network namespaces takes CAP_SYS_ADMIN, or fabricd-netns "
                    f"({self._helper}: {error}): systemctl enable --now fabricd-netns.socket",
                ) from error
        descriptors = array("i")
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        code, text = decode_answer(packet) if packet else (errno.EIO, "fabricd-netns broke off")
        if code:
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(code, text)
        return list(descriptors)
