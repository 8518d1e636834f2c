"""Hears from a kernel when fabricd's routes into tunnels come and go, with the time of each."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Collection, Iterator
from typing import Final

from fabricd.core.routing import TUNNEL_METRIC
from fabricd.kernel.netlink import parse
from fabricd.kernel.routes import decode, is_ours
from lab.netns import Namespace
from tests.bench.bare import RTM_DELROUTE, RTM_NEWROUTE

RTMGRP_IPV4_ROUTE: Final = 0x40
"""linux/rtnetlink.h."""

_BUFFER: Final = 8 << 20
"""Octets, so that thousands of routes that change at once are all heard of."""
_LOOK: Final = 0.2
"""Seconds after which the thread looks whether it is to end."""


class RouteEvents:
    """Listens in a network namespace, in a thread of its own, from construction to `close`.

    Unlike asking again and again it takes no time of those that are measured.
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.around_thread():
            self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sock.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        self._sock.settimeout(_LOOK)
        self._sock.bind((0, RTMGRP_IPV4_ROUTE))
        self._changed = threading.Condition()
        self._state: dict[str, tuple[bool, float]] = {}
        """By prefix: whether it is there, and since when."""
        self._closing = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait(
        self, come: Collection[str], gone: Collection[str], after: float, timeout: float = 60
    ) -> float:
        """When the last of the prefixes `come` came or of `gone` went, all of them later than
        `after` (monotonic s). Raises TimeoutError.
        """
        wanted = dict.fromkeys(come, True) | dict.fromkeys(gone, False)
        deadline = time.monotonic() + timeout
        with self._changed:
            for prefix, there in wanted.items():
                while not self._is(prefix, there, after):
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise TimeoutError(f"{prefix} did not {'come' if there else 'go'}")
            return max(self._state[prefix][1] for prefix in wanted)

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._sock.close()

    def _is(self, prefix: str, there: bool, after: float) -> bool:
        found, when = self._state.get(prefix, (False, 0.0))
        return found is there and when > after

    def _listen(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                data = self._sock.recv(1 << 16)
                now = time.monotonic()
                found = {prefix: (there, now) for prefix, there in _told(data)}
                if found:
                    with self._changed:
                        self._state |= found
                        self._changed.notify_all()


def _told(datagram: bytes) -> Iterator[tuple[str, bool]]:
    """Prefixes of our routes into tunnels, and whether they have come."""
    for message in parse(datagram):
        if message.kind in (RTM_NEWROUTE, RTM_DELROUTE) and is_ours(message.data):
            route = decode(message.data, {})
            if route.metric == TUNNEL_METRIC:
                yield str(route.prefix), message.kind == RTM_NEWROUTE
