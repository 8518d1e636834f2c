"""`fabricctl pki export`: the files as swanctl or the ipsec script of strongSwan look for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from cryptography.hazmat.primitives.serialization import Encoding

from fabricd.cli.options import Failed, config_option
from fabricd.cli.pki_options import check_name, dir_option, force_option, the_folder
from fabricd.pki.files import SECRET, File, make_directory, put_in_place, refuse_existing
from fabricd.pki.folder import CA, Folder
from fabricd.pki.keys import private_pem
from fabricd.pki.pem import read_certificates, read_private_key


@dataclass(frozen=True)
class Layout:
    """Where files are, and what they are called."""

    authorities: str
    certificates: str
    keys: str
    crls: str
    certificate: str = "{}.crt"
    key: str = "{}.key"


LAYOUTS: Final = {
    "swanctl": Layout("x509ca", "x509", "private", "x509crl"),
    # Names as in `leftcert=edge2Cert.pem` and `: RSA edge2Key.pem`.
    "ipsec.d": Layout("cacerts", "certs", "private", "crls", "{}Cert.pem", "{}Key.pem"),
}


@click.command()
@config_option
@dir_option
@click.argument(
    "names",
    nargs=-1,
    metavar="[NAME]...",
    callback=lambda _, __, values: tuple(check_name(value) for value in values),
)
@click.option("--layout", type=click.Choice(list(LAYOUTS)), required=True)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="/etc/swanctl or /etc/ipsec.d, say.",
)
@force_option
def export(names: tuple[str, ...], layout: str, target: Path, force: bool) -> None:
    """Copy CA certificates, ca.crl, and nodes' certificates and keys into strongSwan's folders.

    All nodes of the directory by default. The CA's key stays where it is.
    """
    folder = the_folder()
    files = _files(folder, names or tuple(folder.names()), LAYOUTS[layout], target)
    changed = [file for file in files if not _is_as(file)]
    if not force:
        refuse_existing([file.path for file in changed])
    for directory in sorted({file.path.parent for file in files}):
        make_directory(directory, 0o700 if directory.name == "private" else 0o755)
    if changed:
        put_in_place(changed, replace=force)
    for file in files:
        click.echo(f"{file.path}")


def _files(folder: Folder, names: tuple[str, ...], layout: Layout, target: Path) -> list[File]:
    """One certificate and one CRL a file: strongSwan reads no more of a file than the first."""
    files = []
    for number, authority in enumerate(folder.authorities(), 1):
        path = target / layout.authorities / layout.certificate.format(_numbered(number))
        files.append(File(path, authority.public_bytes(Encoding.PEM)))
    for number, crl in enumerate(folder.crls(), 1):
        path = target / layout.crls / f"{_numbered(number)}.crl"
        files.append(File(path, crl.public_bytes(Encoding.PEM)))
    for name in names:
        if not folder.certificate(name).exists():
            raise Failed(f"{folder.certificate(name)}: there is no such certificate")
        certificate = read_certificates(folder.certificate(name))[0]
        path = target / layout.certificates / layout.certificate.format(name)
        files.append(File(path, certificate.public_bytes(Encoding.PEM)))
        if folder.key(name).exists():
            key = private_pem(read_private_key(folder.key(name)))
            files.append(File(target / layout.keys / layout.key.format(name), key, SECRET))
    return files


def _numbered(number: int) -> str:
    return CA if number == 1 else f"{CA}-{number}"


def _is_as(file: File) -> bool:
    """Whether the file is there with this content and mode."""
    try:
        mode = file.path.stat().st_mode & 0o777
        return mode == file.mode and file.path.read_bytes() == file.content
    except OSError:
        return False
