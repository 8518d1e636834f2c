"""What a machine can and has, beside fabricd: kernel features by trying, ports, clock, users.

Kernel features are tried in a network namespace that ends with the trial (unshare(1)): nothing of
the machine's is touched, but that the kernel may load a module.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from fabricd.core.machine import USER, Door
from fabricd.core.ownership import ROUTE_PROTOCOL, TABLE
from fabricd.errors import Unavailable
from fabricd.probe.packets import PORTS
from fabricd.probe.tool import run, try_run

TRIALS: Final[Mapping[str, str]] = {
    "bridge": "ip link add name b type bridge",
    "policy routing": f"ip rule add priority 198 table {TABLE} protocol {ROUTE_PROTOCOL}",
    "nftables": "nft add table inet fabricd",
    "ESP": "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1 mode tunnel "
    f"aead 'rfc4106(gcm(aes))' 0x{'00' * 20} 128",
}
"""Each in a namespace of its own; documentation's addresses (RFC 5737)."""


async def try_features() -> dict[str, str]:
    """Each trial's name, and in what words it is refused. Raises Unavailable: none can be tried."""
    _, refused = await try_run("unshare", "--net", "true")
    if refused:
        raise Unavailable("kernel", f"a network namespace can't be made: {refused}")
    found: dict[str, str] = {}

    async def attempt(name: str, script: str) -> None:
        _, refused = await try_run("unshare", "--net", "sh", "-c", script)
        found[name] = refused

    async with trio.open_nursery() as nursery:
        for name, script in TRIALS.items():
            nursery.start_soon(attempt, name, script)
    return found


# ---------------------------------------------------------------- charon's ports and socket


async def holders() -> dict[int, dict[str, int]]:
    """Who listens on IKE's UDP ports: program and pid (0: can't be seen, the program is `?`).

    Format: ss(8). Raises Unavailable.
    """
    sports = " or ".join(f"sport = :{port}" for port in PORTS)
    return read_sockets(await run("ss", "-H", "-lunp", f"( {sports} )"))


def read_sockets(text: str) -> dict[int, dict[str, int]]:
    """What `ss -H -lunp` prints."""
    found: dict[int, dict[str, int]] = {port: {} for port in PORTS}
    for line in text.splitlines():
        fields = line.split()
        port = int(fields[3].rpartition(":")[2])
        users = re.findall(r'\("([^"]*)",pid=(\d+)', line)
        found.setdefault(port, {}).update({name: int(pid) for name, pid in users} or {"?": 0})
    return found


def door(socket: Path) -> Door | None:
    """Who may use a socket; None: it is not there."""
    try:
        found = socket.stat()
    except OSError:
        return None
    return Door(group_name(found.st_gid), found.st_mode & 0o777)


# ---------------------------------------------------------------- users, clock, switches


def group_name(gid: int) -> str:
    """Its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def owner(file: Path) -> str:
    """Name of a file's user; its number where it has none; empty: no such file."""
    try:
        uid = file.stat().st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def has_service_user() -> bool:
    """Whether the service's user is there."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h, as far as it is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("values", ctypes.c_long * 4),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


STA_UNSYNC: Final = 0x40


def synchronised() -> bool | None:
    """Whether the kernel takes its clock for right; None: it can't be asked."""
    timex = _Timex()  # modes 0: only read, for which nobody needs a right
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & STA_UNSYNC


def switches(links: set[str]) -> dict[str, str]:
    """Values below /proc/sys, those that there are."""
    names = ["net/ipv4/ip_forward"]
    names += [f"net/ipv4/conf/{link}/rp_filter" for link in ("all", *sorted(links))]
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = Path("/proc/sys", name).read_text(encoding="ascii").strip()
    return found


def can_switch() -> bool:
    """Whether /proc/sys/net can be written: in a container it often can't."""
    return os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK)
