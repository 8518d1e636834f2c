"""`fabricctl pki show` and `verify`: what is in certificates, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography.x509 import Certificate, CertificateRevocationList

from fabricd.cli.options import (
    Failed,
    Settings,
    config_option,
    join,
    output_option,
    pass_settings,
    printable,
)
from fabricd.cli.output import Cell, emit, table
from fabricd.cli.pki_options import dir_option, find, now, the_folder
from fabricd.pki.certificate import Validity, describe
from fabricd.pki.fault import PkiError
from fabricd.pki.folder import CA, Folder
from fabricd.pki.keys import public_der
from fabricd.pki.names import identity_of
from fabricd.pki.pem import read_certificates, read_crls, read_private_key, readable_by_others
from fabricd.pki.revocation import number_of, reason_of
from fabricd.pki.verify import Trust

Entry = Mapping[str, Any]

STYLES: Final = {
    Validity.VALID: "green",
    Validity.EXPIRING: "yellow",
    Validity.NOT_YET: "yellow",
    Validity.EXPIRED: "red",
    "revoked": "red",
}

targets_argument = click.argument("targets", nargs=-1, metavar="[NAME|FILE]...")


# ---------------------------------------------------------------- show


@click.command()
@config_option
@output_option
@dir_option
@targets_argument
@pass_settings
def show(settings: Settings, targets: tuple[str, ...]) -> None:
    """What is in certificates and lists of revoked ones: of the whole directory by default."""
    folder = the_folder()
    found = _Files(folder, targets)
    trust = found.trust()
    certificates = [_entry(item, trust, found.faults) for item in found.certificates]
    document = {
        "dir": str(folder.path),
        "certificates": [entry for entry in certificates if entry],
        "crls": [_crl_entry(path, crl, trust) for path, crl in found.crls],
    }
    emit(document, settings.form, lambda wide: _show_text(document, wide))
    if found.faults:
        raise Failed(*found.faults)


@dataclass(frozen=True)
class _Item:
    """A certificate and where it was found."""

    name: str
    path: Path
    certificate: Certificate


class _Files:
    """What there is to show or verify; files that can't be read are faults."""

    def __init__(self, folder: Folder, targets: Sequence[str]) -> None:
        self.folder = folder
        self.certificates: list[_Item] = []
        self.crls: list[tuple[Path, CertificateRevocationList]] = []
        self.faults: list[str] = []
        if targets:
            paths = [find(target, folder) for target in targets]
        else:
            everything = [CA, *folder.names()]
            paths = [(name, folder.certificate(name)) for name in everything]
            paths = [(name, path) for name, path in paths if path.exists()]
            if folder.crl.exists():
                paths.append((CA, folder.crl))
        for name, path in paths:
            self._read(name, path)
        if not paths:
            raise Failed(f"{folder.path}: there are no certificates")

    def _read(self, name: str, path: Path) -> None:
        try:
            if b"-----BEGIN X509 CRL-----" in path.read_bytes():
                self.crls += [(path, crl) for crl in read_crls(path)]
            else:
                found = read_certificates(path)
                # Behind a node's certificate may stand those of its issuers.
                own = found if path == self.folder.certificate() else found[:1]
                self.certificates += [_Item(name, path, item) for item in own]
        except OSError as error:
            self.faults.append(f"{path}: {error.strerror}")
        except PkiError as error:
            self.faults += error.faults

    def trust(self) -> Trust:
        """The directory's CAs and lists, as far as they can be read."""
        authorities: list[Certificate] = []
        crls: list[CertificateRevocationList] = []
        try:
            authorities = self.folder.authorities()
            crls = self.folder.crls()
        except PkiError as error:
            if self.folder.certificate().exists():
                self.faults += [fault for fault in error.faults if fault not in self.faults]
        return Trust(authorities, crls, now())


def _entry(item: _Item, trust: Trust, faults: list[str]) -> dict[str, Any] | None:
    try:
        own = describe(item.certificate)
    except ValueError as error:
        faults.append(f"{item.path}: {error}")
        return None
    revoked = trust.revocation(item.certificate)
    entry: dict[str, Any] = {
        "name": item.name,
        "authority": own.authority,
        "state": "revoked" if revoked else str(own.validity(trust.now)),
        "subject": own.subject,
        "blocks": None if own.blocks is None else list(own.blocks.texts()),
        "not_before": _iso(own.not_before),
        "not_after": _iso(own.not_after),
        "days_left": int((own.not_after - trust.now) // 86400),
        "lifetime_used": round(own.lifetime_used(trust.now), 4),
        "issuer": own.issuer,
        "serial": own.serial,
        "san": list(own.alternatives),
        "key": own.key_type,
        "file": str(item.path),
    }
    if revoked:
        since = _iso(revoked.revocation_date_utc.timestamp())
        entry["revoked"] = {"since": since, "reason": reason_of(revoked)}
    return entry


def _crl_entry(path: Path, crl: CertificateRevocationList, trust: Trust) -> dict[str, Any]:
    end = crl.next_update_utc
    outdated = end is not None and end.timestamp() < trust.now
    return {
        "issuer": identity_of(crl.issuer),
        "state": str(Validity.EXPIRED if outdated else Validity.VALID),
        "number": number_of(crl),
        "last_update": _iso(crl.last_update_utc.timestamp()),
        "next_update": None if end is None else _iso(end.timestamp()),
        "revoked": [
            {
                "serial": f"{entry.serial_number:x}",
                "since": _iso(entry.revocation_date_utc.timestamp()),
                "reason": reason_of(entry),
            }
            for entry in crl
        ],
        "file": str(path),
    }


def _show_text(document: Entry, wide: bool) -> str:
    parts = []
    if document["certificates"]:
        rows = [_columns(entry, wide) for entry in document["certificates"]]
        cells = [list(row.values()) for row in rows]
        parts.append(table(list(rows[0]), cells, numbers=("DAYS LEFT",)))
    for crl in document["crls"]:
        until = f", next update {crl['next_update']}" if crl["next_update"] else ""
        head = f"revoked by {crl['issuer']} (CRL {crl['number']}, {crl['state']}{until}): "
        entries = [f"  {e['serial']} {e['since']} {e['reason']}" for e in crl["revoked"]]
        lines = [head + ("nothing" if not entries else ""), *entries]
        parts.append("\n".join(printable(line).rstrip() for line in lines))
    return "\n\n".join(parts)


def _columns(entry: Entry, wide: bool) -> dict[str, Cell]:
    blocks = entry["blocks"]
    columns: dict[str, Cell] = {
        "NAME": entry["name"],
        "SUBJECT": entry["subject"],
        "BLOCKS": "-" if blocks is None else join(blocks) or "none",
        "NOT AFTER": entry["not_after"],
        "DAYS LEFT": str(entry["days_left"]),
        "STATE": (entry["state"], STYLES[entry["state"]]),
    }
    if wide:
        columns["KEY"] = entry["key"]
        columns["SAN"] = join(entry["san"]) or "-"
        columns["SERIAL"] = entry["serial"]
        columns["ISSUER"] = entry["issuer"]
        columns["FILE"] = entry["file"]
    return columns


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


# ---------------------------------------------------------------- verify


@click.command()
@config_option
@output_option
@dir_option
@targets_argument
@pass_settings
@click.pass_context
def verify(context: click.Context, settings: Settings, targets: tuple[str, ...]) -> None:
    """Say whether charon will take certificates; exit status 1 if not one of them.

    Chain, validity, revocation, address blocks, and the private keys beside them.
    """
    folder = the_folder()
    found = _Files(folder, targets)
    trust = Trust(folder.authorities(), folder.crls(), now())
    checked = [(item.path, _certificate_faults(item, trust, folder)) for item in found.certificates]
    checked += [(path, trust.crl_faults(crl)) for path, crl in found.crls]
    document = {
        "ok": not found.faults and not any(faults for _, faults in checked),
        "checked": [
            {"file": str(path), "ok": not faults, "faults": faults} for path, faults in checked
        ],
        "unreadable": found.faults,
    }
    emit(document, settings.form, lambda _: _verify_text(document))
    if not document["ok"]:
        context.exit(1)


def _certificate_faults(item: _Item, trust: Trust, folder: Folder) -> list[str]:
    if item.path == folder.certificate():
        own = trust.authority_faults(item.certificate)
        holders: Sequence[Certificate] = trust.authorities
    else:
        own, holders = trust.faults(item.certificate), [item.certificate]
    return own + _key_faults(item.path.with_suffix(".key"), holders)


def _key_faults(path: Path, holders: Sequence[Certificate]) -> list[str]:
    """What is wrong with the private key beside a certificate; nothing when there is none."""
    if not path.exists():
        return []
    faults = []
    try:
        if readable_by_others(path):
            faults.append(f"{path}: others may read the private key: chmod 600 {path}")
        key = public_der(read_private_key(path).public_key())
    except PkiError as error:
        return [*faults, *error.faults]
    if key not in {public_der(holder.public_key()) for holder in holders}:
        faults.append(f"{path}: does not belong to the certificate")
    return faults


def _verify_text(document: Entry) -> str:
    lines = [f"{fault}" for fault in document["unreadable"]]
    for entry in document["checked"]:
        lines += [f"{entry['file']}: {fault}" for fault in entry["faults"] or ["good"]]
    return "\n".join(map(printable, lines))
