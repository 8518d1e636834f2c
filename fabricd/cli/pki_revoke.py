"""`fabricctl pki revoke` and `crl`: the CA's list of what it takes back."""

from __future__ import annotations

import re

import click
from cryptography.x509 import Certificate

from fabricd.cli.options import Failed, config_option
from fabricd.cli.pki_options import day, days_option, dir_option, find, now, the_folder
from fabricd.model import NAME_PATTERN
from fabricd.pki.authority import Authority
from fabricd.pki.folder import CA, Folder
from fabricd.pki.names import identity_of
from fabricd.pki.pem import read_certificates
from fabricd.pki.revocation import REASONS, is_by, updated
from fabricd.pki.verify import is_issued_by

LIST_DAYS = 30


@click.command()
@config_option
@dir_option
@click.argument("targets", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--serial", "serials", multiple=True, metavar="HEX", help="Of a lost certificate.")
@click.option(
    "--reason",
    type=click.Choice(REASONS, case_sensitive=False),
    default="unspecified",
    show_default=True,
)
@days_option(LIST_DAYS, "How long the list is good; then make a fresh one.")
def revoke(targets: tuple[str, ...], serials: tuple[str, ...], reason: str, days: int) -> None:
    """Take certificates back: ca.crl has them from now on.

    A NAME means all certificates that were issued for that node, those that were renewed since
    too. Bring ca.crl to every node.
    """
    folder = the_folder()
    if not targets and not serials:
        raise click.UsageError("say what to revoke: NAME, FILE or --serial HEX")
    wanted = {_serial(text): f"serial {text}" for text in serials}
    authority = folder.authority()
    for target in targets:
        for certificate in _certificates(target, folder, authority):
            serial = certificate.serial_number
            wanted[serial] = f"{identity_of(certificate.subject)}, serial {serial:x}"
    known = _write(folder, authority, dict.fromkeys(wanted, reason), days)
    for serial, text in wanted.items():
        click.echo(f"{text}: {'was revoked already' if serial in known else 'revoked'}")


@click.command()
@config_option
@dir_option
@days_option(LIST_DAYS, "How long the list is good; then make a fresh one.")
def crl(days: int) -> None:
    """Write a fresh ca.crl, with what is revoked so far."""
    folder = the_folder()
    _write(folder, folder.authority(), {}, days)


def _write(folder: Folder, authority: Authority, serials: dict[int, str], days: int) -> set[int]:
    """Extend the CA's list; returns the serials that were in it before."""
    with folder.locked():
        lists = [item for item in folder.crls() if is_by(item, authority.certificate)]
        before = lists[0] if lists else None
        moment = now()
        made = updated(authority, before, serials, days=days, now=moment)
        folder.write_crl(made, authority)
    click.echo(f"{folder.crl}: {len(made)} revoked, good until {day(moment + days * 86400)} UTC")
    return {entry.serial_number for entry in before or ()}


def _certificates(target: str, folder: Folder, authority: Authority) -> list[Certificate]:
    """Those of the CA's certificates that `target` means. Raises Failed."""
    found = folder.issued(target) if re.fullmatch(NAME_PATTERN, target) and target != CA else []
    if not found:
        found = read_certificates(find(target, folder)[1])[:1]
    if authority.certificate in found:
        raise Failed(f"{target}: is the CA itself: take it out of ca.crt on every node instead")
    own = [item for item in found if is_issued_by(item, authority.certificate)]
    if not own:
        raise Failed(
            f"{target}: was issued by {identity_of(found[0].issuer)}, not by the CA whose key is "
            "here: revoke it there"
        )
    return own


def _serial(text: str) -> int:
    digits = text.replace(":", "").removeprefix("0x")
    if not re.fullmatch(r"[0-9a-fA-F]{1,40}", digits) or not int(digits, 16):
        raise click.UsageError(f"--serial: {text!r} is no serial number: 1 to 40 hex digits")
    return int(digits, 16)
