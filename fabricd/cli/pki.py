"""`fabricctl pki`: the CA, and certificates that bind each node's key to its subnets."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography.x509 import Certificate

from fabricd.cli.options import Failed, Settings, config_option, output_option, pass_settings, warn
from fabricd.cli.pki_export import export
from fabricd.cli.pki_options import (
    PkiGroup,
    algorithm_option,
    day,
    days_option,
    dir_option,
    find_file,
    force_option,
    from_store_option,
    identity_for,
    identity_option,
    name_argument,
    now,
    prefixes_given,
    prefixes_option,
    record_of,
    subnets_given,
    the_folder,
)
from fabricd.cli.pki_revoke import crl, revoke
from fabricd.cli.pki_show import show, verify
from fabricd.model import Prefix
from fabricd.pki.authority import EVERYWHERE, Authority, Grant
from fabricd.pki.certificate import describe
from fabricd.pki.fault import PkiError
from fabricd.pki.files import refuse_existing
from fabricd.pki.folder import CA, Folder
from fabricd.pki.keys import (
    Algorithm,
    PublicKey,
    generate,
    node_algorithm,
    public_der,
    same_algorithm,
    usable,
)
from fabricd.pki.names import identity_of, name_of
from fabricd.pki.pem import read_certificates, read_private_key, read_request
from fabricd.pki.request import make_request, requested_key, requested_name
from fabricd.pki.verify import Trust

CA_DAYS = 3650
NODE_DAYS = 730


@click.group(cls=PkiGroup)
@config_option
@output_option
@dir_option
def pki() -> None:
    """The CA and node certificates: make, renew, revoke, show, verify, export."""


for command in (show, verify, revoke, crl, export):
    pki.add_command(command)


@pki.command()
@config_option
@dir_option
@algorithm_option("ecdsa256")
@click.option(
    "--identity", metavar="DN", default="C=CN, O=StrongSwan, CN=Root CA", show_default=True
)
@prefixes_option("--network", "Nodes' subnets must be in these.  [default: all addresses]")
@days_option(CA_DAYS, "How long the CA is valid.")
@force_option
def init(
    algorithm: Algorithm | None,
    identity: str,
    prefixes: tuple[str, ...],
    more: tuple[str, ...],
    days: int,
    force: bool,
) -> None:
    """Make a CA: ca.crt and ca.key."""
    folder = the_folder()
    networks = prefixes_given("--network", prefixes, more)
    try:
        subject = name_of(identity)
    except ValueError as error:
        raise click.UsageError(f"--identity: {error}") from error
    if not force:
        refuse_existing([folder.certificate(), folder.key()])
    key = generate(algorithm or Algorithm.ECDSA256)
    authority = Authority.create(subject, key, networks or EVERYWHERE, days=days, now=now())
    folder.write_authority(authority, replace=force)
    _tell(folder.certificate(), authority.certificate)
    click.echo(f"{folder.key()}: whoever has this key makes nodes: keep it off the nodes")


@pki.command()
@config_option
@dir_option
@name_argument
@prefixes_option("--subnet", "The node's subnets; its certificate is good for no others.")
@from_store_option
@identity_option
@algorithm_option("the CA's sort")
@days_option(NODE_DAYS, "How long the certificate is valid.")
@force_option
@pass_settings
def issue(
    settings: Settings,
    *,
    name: str,
    prefixes: tuple[str, ...],
    more: tuple[str, ...],
    from_store: bool,
    identity: str | None,
    algorithm: Algorithm | None,
    days: int,
    force: bool,
) -> None:
    """Make a node's key and certificate: NAME.key and NAME.crt.

    Where the key should not travel: request it on the node, and sign that here.
    """
    folder = the_folder()
    grant = _grant(settings, name, identity, prefixes, more, from_store=from_store)
    authority = folder.authority()
    if not force:
        refuse_existing([folder.certificate(name), folder.key(name)])
    key = generate(algorithm or node_algorithm(authority.certificate.public_key()))
    certificate = authority.issue(grant, key.public_key(), days=days, now=now())
    folder.write_certificate(name, certificate, key, replace=force)
    _tell(folder.certificate(name), certificate, authority)


@pki.command()
@config_option
@dir_option
@name_argument
@identity_option
@algorithm_option("ecdsa256")
@force_option
@pass_settings
def request(
    settings: Settings, name: str, identity: str | None, algorithm: Algorithm | None, force: bool
) -> None:
    """On a node: make its key, and NAME.csr for the CA to sign. The key stays here."""
    folder = the_folder()
    grant = _grant(settings, name, identity)
    if not force:
        refuse_existing([folder.key(name), folder.request(name)])
    key = generate(algorithm or Algorithm.ECDSA256)
    folder.write_request(name, make_request(grant, key), key, replace=force)
    click.echo(
        f"{folder.request(name)}: let the CA sign it (fabricctl pki sign), and put what it gives "
        f"you to {folder.certificate(name)}"
    )


@pki.command()
@config_option
@dir_option
@click.argument("file", type=click.Path(path_type=Path))
@prefixes_option("--subnet", "The node's subnets; its certificate is good for no others.")
@from_store_option
@identity_option
@days_option(NODE_DAYS, "How long the certificate is valid.")
@force_option
@pass_settings
def sign(
    settings: Settings,
    *,
    file: Path,
    prefixes: tuple[str, ...],
    more: tuple[str, ...],
    from_store: bool,
    identity: str | None,
    days: int,
    force: bool,
) -> None:
    """At the CA: make a certificate of a node's request.

    FILE is the request, or the name of one in the directory, with or without its `.csr`.
    Which node it is, the request says; which subnets it has, you say: nothing else in the
    request is obeyed.
    """
    folder = the_folder()
    named = folder.request(str(file))
    file = named if not file.exists() and named.exists() else find_file(file, folder)
    csr = read_request(file)
    try:
        name, key = requested_name(csr), requested_key(csr)
    except PkiError as error:
        raise Failed(*(f"{file}: {fault}" for fault in error.faults)) from error
    if name == CA:
        raise Failed(f"{file}: asks for {CA!r}, which is the name of the CA's files")
    grant = _grant(settings, name, identity, prefixes, more, from_store=from_store)
    wanted, expected = identity_of(csr.subject), identity_of(grant.subject)
    if wanted != expected:
        raise Failed(
            f"{file}: asks for {wanted!r}, but node {name} has to be {expected!r} (--identity if "
            "it is another)"
        )
    _refuse_other_key(folder, name, key)
    authority = folder.authority()
    certificate = authority.issue(grant, key, days=days, now=now())
    folder.write_certificate(name, certificate, None, replace=force)
    _tell(folder.certificate(name), certificate, authority)


@pki.command()
@config_option
@dir_option
@name_argument
@click.option("--new-key", is_flag=True, help="Make a new key too.")
@algorithm_option("that of the old key; with --new-key only")
@days_option(NODE_DAYS, "How long the certificate is valid.")
def renew(name: str, new_key: bool, algorithm: Algorithm | None, days: int) -> None:
    """Replace a node's certificate by a new one for the same key, subject and subnets.

    NAME.crt is enough: the key may be on its node only.
    """
    folder = the_folder()
    path = folder.certificate(name)
    old = read_certificates(path)[0]
    authority = folder.authority()
    entry = Trust(folder.authorities(), folder.crls(), now()).revocation(old)
    if entry is not None:
        raise Failed(f"{path}: is revoked: fabricctl pki issue {name} --force makes another")
    if algorithm is not None and not new_key:
        raise click.UsageError("--algorithm is for a new key: add --new-key")
    try:
        grant, public = Grant.again(old), usable(old.public_key())
    except (PkiError, ValueError) as error:
        raise Failed(f"{path}: {error}") from error
    if new_key:
        key = generate(algorithm or same_algorithm(public))
        certificate = authority.issue(grant, key.public_key(), days=days, now=now())
        folder.write_certificate(name, certificate, key, replace=True)
    else:
        _refuse_other_key(folder, name, public)
        certificate = authority.issue(grant, public, days=days, now=now())
        folder.write_certificate(name, certificate, None, replace=True)
    _tell(path, certificate, authority)


def _grant(
    settings: Settings,
    name: str,
    identity: str | None,
    prefixes: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    *,
    from_store: bool = False,
) -> Grant:
    """What the node's certificate shall say. Raises click.UsageError, Failed, Unavailable."""
    subnets: tuple[Prefix, ...] = subnets_given(prefixes, more)
    if from_store:
        if subnets:
            raise click.UsageError("--from-store takes the subnets from the record: no --subnet")
        node = record_of(name, settings)
        subnets, identity = node.subnets, identity or node.identity
    try:
        return Grant.of(name, identity_for(name, identity, settings), subnets)
    except ValueError as error:
        raise Failed(f"identity of {name}: {error}") from error


def _refuse_other_key(folder: Folder, name: str, key: PublicKey) -> None:
    """A certificate is not put beside another key than its own."""
    path = folder.key(name)
    if path.exists() and public_der(read_private_key(path).public_key()) != public_der(key):
        raise Failed(f"{path}: belongs to another certificate: move it away")


def _tell(path: Path, certificate: Certificate, authority: Authority | None = None) -> None:
    own = describe(certificate)
    blocks = f", {own.blocks}" if own.blocks is not None else ""
    click.echo(f"{path}: {own.subject}{blocks}, until {day(own.not_after)} UTC")
    if authority and certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc:
        warn(f"{path}: ends with its CA, earlier than asked for")
