"""charon, judged: whether it answers, what it has loaded, who encrypts, its settings, its ports,
and what one before it has left in the kernel. Of settings, what is right is in
`core.charon_settings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fabricd.core.charon_settings import settings_rows
from fabricd.core.hop import Hop
from fabricd.core.machine import USER, KernelSa, Machine
from fabricd.core.surroundings import USERSPACE_LINK

NEEDED_PLUGINS: Final = {
    "addrblock": "who can write records gets traffic for subnets that are not in its certificate",
    "revocation": "it lets in peers whose certificates are revoked",
}
"""Without which charon works, and does not keep what is promised."""

USERSPACE: Final = "kernel-libipsec"

AS_ROOT: Final = "run this as root"

FLUSH: Final = "ip xfrm state flush, ip xfrm policy flush (that takes other programs' too)"

SHOWN: Final = 3
"""Orphaned SAs that are named; the others are counted."""


def charon_rows(machine: Machine) -> Iterator[Hop]:
    """All about it."""
    yield _answer(machine)
    yield from _esp(machine)
    yield from _plugins(machine)
    yield from _door(machine)
    yield from _settings(machine)
    yield from _orphans(machine)
    if machine.ports_fault:
        yield Hop.unknown("ports", machine.ports_fault)
    yield from (_port(machine, port) for port in sorted(machine.ports))


def _answer(machine: Machine) -> Hop:
    if machine.charon is not None:
        return Hop.ok("charon", f"{machine.charon.version}, at {machine.socket}")
    values = machine.settings.values if machine.settings else {}
    elsewhere = values.get("plugins.vici.socket", "").removeprefix("unix://")
    if elsewhere and elsewhere != machine.socket:
        return Hop.broken(
            "charon",
            f"{machine.charon_fault} Its settings have it at {elsewhere}",
            f'socket = "unix://{elsewhere}" under [ike] in the config',
        )
    return Hop.broken(
        "charon",
        machine.charon_fault,
        "apt install charon-systemd; systemctl start strongswan; or name the socket that it has "
        "under [ike] in the config",
    )


def _esp(machine: Machine) -> Iterator[Hop]:
    """Somebody has to encrypt: the kernel, or charon itself."""
    charon, refused = machine.charon, machine.trials.get("ESP", "")
    if charon is not None and USERSPACE in charon.plugins:
        if machine.kernel is not None and USERSPACE_LINK not in machine.kernel.links:
            yield Hop.broken(
                "ESP",
                f"charon encrypts by itself ({USERSPACE}), and has no device {USERSPACE_LINK}",
                "give it /dev/net/tun and restart it",
            )
        elif machine.trials_fault or refused:
            yield Hop.ok("ESP", f"charon encrypts by itself ({USERSPACE})")
        else:
            yield Hop.warn(
                "ESP",
                f"charon encrypts by itself ({USERSPACE}), though the kernel can, and faster",
                f"charon.plugins.{USERSPACE}.load = no; restart charon",
            )
    elif refused:
        yield Hop.broken(
            "ESP",
            f"the kernel has none: {refused}",
            f"modprobe -a xfrm_user esp4 esp6; or have charon load its plugin {USERSPACE}",
        )
    elif not machine.trials_fault:
        yield Hop.ok("ESP", "the kernel encrypts, with AES-GCM")


def _plugins(machine: Machine) -> Iterator[Hop]:
    if machine.charon is None:
        return
    missing = [name for name in NEEDED_PLUGINS if name not in machine.charon.plugins]
    if not missing:
        yield Hop.ok("plugins", f"{' and '.join(NEEDED_PLUGINS)} are loaded")
    for name in missing:
        yield Hop.broken(
            "plugins",
            f"{name} is not loaded: {NEEDED_PLUGINS[name]}",
            "apt install libcharon-extra-plugins libstrongswan-standard-plugins; restart charon",
        )


def _door(machine: Machine) -> Iterator[Hop]:
    """Whether the service gets in: who runs this is root, and always does."""
    door = machine.door
    if door is None or not machine.service_user:
        return
    if door.mode & 0o006 == 0o006 or (door.group == USER and door.mode & 0o060 == 0o060):
        yield Hop.ok("VICI socket", f"the service's user, {USER}, may use it")
        return
    yield Hop.broken(
        "VICI socket",
        f"it is for root and the group {door.group}, and the service runs as {USER}",
        f"charon.group = {USER} in /etc/strongswan.d/fabricd.conf; restart charon",
    )


# ---------------------------------------------------------------- settings


def _settings(machine: Machine) -> Iterator[Hop]:
    if machine.settings is None:
        yield Hop.unknown("settings", f"charon's can't be read: {machine.settings_fault}")
        return
    charon = machine.charon
    # The userspace plugin makes the table whatever is set.
    userspace = charon is not None and USERSPACE in charon.plugins
    yield from settings_rows(
        machine.settings,
        charon.version if charon else "",
        machine.peers,
        other_routes=machine.table_220 and not userspace,
    )


# ---------------------------------------------------------------- SAs in the kernel


def _orphans(machine: Machine) -> Iterator[Hop]:
    """SAs that a charon has left in the kernel: neither a new one nor fabricd knows them."""
    name = "orphaned SAs"
    if machine.trials.get("ESP"):
        return  # a kernel without ESP has none
    if machine.sas is None:
        yield Hop.unknown(name, f"the kernel's can't be listed: {machine.sas_fault}", AS_ROOT)
    elif machine.spis is None and machine.sas:
        found = f"{len(machine.sas)} SAs in the kernel, and no charon that says which are its"
        yield Hop.unknown(name, found, f"if charon does not run, {FLUSH}")
    else:
        yield _orphaned(name, [sa for sa in machine.sas if sa.spi not in (machine.spis or ())])


def _orphaned(name: str, orphans: Sequence[KernelSa]) -> Hop:
    if not orphans:
        return Hop.ok(name, "none")
    shown = ", ".join(map(str, sorted(orphans, key=str)[:SHOWN]))
    more = f" and {len(orphans) - SHOWN} more" if len(orphans) > SHOWN else ""
    return Hop.warn(
        name,
        f"charon does not list {shown}{more}: left by one that was killed, or another program's",
        f"ip xfrm state delete, one by one; or stop charon, {FLUSH}, start charon",
    )


# ---------------------------------------------------------------- ports


def _port(machine: Machine, port: int) -> Hop:
    holders = machine.ports[port]
    name, strangers = f"UDP {port}", [who for who in holders if "charon" not in who]
    if not holders and machine.charon is None:
        return Hop.warn(name, "nobody listens: charon does not run", "start charon")
    if not holders:
        return Hop.broken(
            name,
            "nobody listens: charon uses another port, where peers don't look for it",
            "take port and port_nat_t out of charon's settings; restart it",
        )
    if strangers and set(strangers) == {"?"}:
        return Hop.unknown(name, "somebody listens; it can't be seen who", AS_ROOT)
    if strangers:
        found = f"{', '.join(strangers)} listens, not charon"
        return Hop.broken(name, found, f"stop {strangers[0]}; restart charon")
    return Hop.ok(name, f"{', '.join(holders)} listens")
