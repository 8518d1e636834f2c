"""Is this machine fit to be a node? One row for each thing, the first causes first.

Pure: from `core.machine` to findings. A row is a `core.hop.Hop`: ok; a warning, with which it
works; broken; or unknown, because it could not be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fabricd.core.checkup_charon import charon_rows
from fabricd.core.checkup_network import kernel_rows, network_rows
from fabricd.core.hop import Hop, Verdict
from fabricd.core.machine import USER, Machine
from fabricd.model import Role


def checkup(machine: Machine) -> list[Hop]:
    """All rows."""
    return [
        _config(machine),
        *kernel_rows(machine),
        *charon_rows(machine),
        _clock(machine),
        *_credentials(machine),
        *_store(machine),
        *network_rows(machine),
        _daemon(machine),
    ]


def document(rows: Sequence[Hop], node: str) -> dict[str, Any]:
    """`{"node", "fit", "checks": [{"name", "ok", "verdict", "detail", "do"}]}`."""
    fit = not any(row.verdict is Verdict.BROKEN for row in rows)
    return {"node": node, "fit": fit, "checks": [row.document() for row in rows]}


def _config(machine: Machine) -> Hop:
    if machine.config_faults:
        return Hop.broken(
            "config",
            "; ".join(machine.config_faults),
            "write it; examples/fabricd.toml below /usr/share/doc/fabricd or "
            "/usr/local/share/doc/fabricd is a start",
        )
    return Hop.ok("config", f"{machine.config}: this node is {machine.name}")


def _clock(machine: Machine) -> Hop:
    now = f"{datetime.fromtimestamp(machine.now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if machine.synchronised is None:
        return Hop.unknown("clock", f"{now}; whether that is right can't be asked")
    if machine.synchronised:
        return Hop.ok("clock", f"{now}, synchronised")
    return Hop.warn(
        "clock",
        f"{now}, not synchronised: certificates are judged by it",
        "apt install systemd-timesyncd, or another NTP client",
    )


def _credentials(machine: Machine) -> Iterator[Hop]:
    found = machine.credentials
    if found is None:
        return
    if not found.subject:
        todo = "fabricctl pki verify; or get a certificate: fabricctl pki request"
        yield from (Hop.broken("credentials", fault, todo) for fault in found.faults)
        return
    troubles = (*found.faults, *found.warnings)
    if not troubles:
        end = f"{datetime.fromtimestamp(found.expiry, UTC):%Y-%m-%d}"
        yield Hop.ok("credentials", f"{found.subject}, until {end}, with its key and its CA")
    yield from (Hop.warn("credentials", trouble, "fabricctl pki verify") for trouble in troubles)
    if machine.service_user and found.key_owner != USER:
        yield Hop.broken(
            "key",
            f"{found.key} belongs to {found.key_owner}, and the service runs as {USER}",
            f"chown {USER} {found.key}",
        )
    if found.uncovered:
        yield Hop.broken(
            "certificate",
            f"it is not for {', '.join(found.uncovered)}, which this node's record claims: peers "
            "refuse that",
            "get one for all subnets: fabricctl pki sign",
        )
    if found.other_identity:
        yield Hop.broken(
            "certificate",
            f"it is for {found.subject}, and this node's record is for {found.other_identity}",
            "put the certificate's subject into the record's identity, or get another certificate",
        )


def _store(machine: Machine) -> Iterator[Hop]:
    records = machine.records
    if records is None:
        return
    if records.fault and not records.nodes:
        yield Hop.broken("store", f"{machine.store}: {records.fault}", "see [store] in the config")
        return
    if records.fault:
        found = f"{machine.store}: {records.fault}; the last good records are kept here"
        yield Hop.warn("store", found, "bring the store back")
    else:
        yield Hop.ok("store", f"{machine.store}: {len(records.nodes)} nodes")
    rejected = [fault for fault in records.rejected if fault.key == f"nodes/{machine.name}"]
    if rejected:
        yield Hop.broken("record", str(rejected[0]), f"mend the record nodes/{machine.name}")
    elif machine.record is None:
        yield Hop.warn(
            "record",
            f"there is none for {machine.name}: this node has no peers",
            f"fabricctl node put {machine.name} --subnet CIDR",
        )
    else:
        yield Hop.ok("record", f"{machine.record.role}, {', '.join(machine.record.subnets)}")


def _daemon(machine: Machine) -> Hop:
    if machine.daemon_fault:
        return Hop.warn("fabricd", machine.daemon_fault, "systemctl enable --now fabricd")
    gateway = machine.record is not None and machine.record.role is Role.CLOUD
    more = "; fabricctl calico check looks at the cluster's side" if gateway else ""
    return Hop.ok("fabricd", f"runs; fabricctl status has its peers{more}")
