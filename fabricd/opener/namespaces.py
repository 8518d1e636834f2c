"""Network namespaces by their path, and sockets in them.

A thread enters the namespace, opens the socket there, and ends: the socket stays where it was
made, and no thread that goes on is ever anywhere but at home.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
from threading import Thread
from typing import Any, Final

_CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h."""
_NS_GET_NSTYPE: Final = 0xB703
"""linux/nsfs.h."""

SOL_NETLINK: Final = 270
LISTEN_ALL_NSID: Final = 8
"""NETLINK_LISTEN_ALL_NSID, netlink(7): an option, and the number of what comes with a message."""


def open_namespace(path: str) -> int:
    """A descriptor of the network namespace at a path. Raises OSError: there is none, or it is the
    process's own.
    """
    descriptor = _open(path)
    try:
        if not _is_network(descriptor):
            raise OSError(errno.EINVAL, "it is no network namespace", path)
        if _is_own(descriptor):
            raise OSError(errno.EINVAL, "it is the node's own network namespace", path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_socket_in(descriptor: int) -> socket.socket:
    """A NETLINK_ROUTE socket in the namespace behind a descriptor. Raises OSError: EPERM without
    CAP_SYS_ADMIN.
    """
    answer: list[socket.socket | OSError] = []

    def run() -> None:
        try:
            _setns(descriptor)
            answer.append(netlink_socket())
        except OSError as error:
            answer.append(error)

    thread = Thread(target=run, name="netns")
    thread.start()
    thread.join()  # some hundred microseconds
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def netlink_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """A socket in the namespace of the calling thread."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


def hear_others(sock: socket.socket) -> None:
    """Let a socket receive the notifications of other namespaces too, of those that its own has a
    number for. Raises OSError: EPERM without CAP_NET_BROADCAST.
    """
    sock.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 1)


def is_gone(path: str) -> bool:
    """Whether there is no network namespace at this path, for certain."""
    try:
        descriptor = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it can't be looked at
        return False
    try:
        return not _is_network(descriptor)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for


def _is_network(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:  # no namespace at all; or a name in /run/netns that nothing is mounted on
        return False


def _is_own(descriptor: int) -> bool:
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.path.sameopenfile(descriptor, own)
    finally:
        os.close(own)


def _setns(descriptor: int) -> None:
    """setns(2), which `os` has from Python 3.12 on."""
    native: Any = getattr(os, "setns", None)
    if native is not None:
        native(descriptor, _CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
