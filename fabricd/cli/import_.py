"""`fabricctl import`: records from the ipsec.conf of nodes that have their tunnels from there.

What the connections mean is `core.migration`'s; here files are read and records written.
"""

from __future__ import annotations

import glob
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fabricd.cli.options import (
    DEFAULT_CONFIG,
    Failed,
    Settings,
    config_option,
    pass_settings,
    warn,
)
from fabricd.cli.records import in_store, refusals
from fabricd.config import Config, ConfigError, parse
from fabricd.core.events import Put
from fabricd.core.ipsec_conf import Conf, ConfError
from fabricd.core.ipsec_conf import parse as parse_conf
from fabricd.core.migration import migrate

if TYPE_CHECKING:
    from fabricd.sources import Store

CERTS: Final = Path("/etc/ipsec.d/certs")
"""Where ipsec.conf(5) looks for certificates."""


@click.command("import")
@config_option
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write DIR/nodes/NAME.json.",
)
@click.option("--put", is_flag=True, help="Write the records into the store.")
@click.option("--force", is_flag=True, help="Replace records that are there.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="ADDRESS=NAME",
    help="Who has an address, where the files don't tell. Repeat for each.",
)
@click.option(
    "--certs",
    type=click.Path(path_type=Path, file_okay=False),
    default=CERTS,
    show_default=True,
    help="Where certificates are that the files name.",
)
@pass_settings
def import_(
    settings: Settings,
    *,
    files: tuple[Path, ...],
    output: Path | None,
    put: bool,
    force: bool,
    names: tuple[str, ...],
    certs: Path,
) -> None:
    """Make records of ipsec.conf's connections.

    FILE is a node's ipsec.conf; give those of several nodes, and more is known of who is who.
    Without --output and --put the records are printed as commands of etcdctl. What can't be carried
    over is told on standard error.
    """
    if put and output:
        raise click.UsageError("--put and --output: one of the two")
    config = settings.config() if put else _config(settings)
    done = migrate(
        [conn for file in files for conn in _read(file).conns],
        config.networks,
        config.ike.identity,
        _names(names),
        lambda cert: _subject(certs / cert),
    )
    for text in dict.fromkeys(done.warnings):
        warn(text)
    if done.faults:
        raise Failed(*dict.fromkeys(done.faults))
    if not done.records:
        raise Failed(f"{', '.join(map(str, files))}: no connection there becomes a tunnel")
    values = {f"nodes/{name}": _encode(record) for name, record in done.records.items()}
    if put:
        in_store(config, lambda store: _put(store, values, config, force=force))
    else:
        _check((), values, config)
        _write(output, values, force=force) if output else _print(values, config)


def _config(settings: Settings) -> Config:
    """The config, or its defaults where none was named and there is none."""
    if settings.path != DEFAULT_CONFIG or DEFAULT_CONFIG.exists():
        return settings.config()
    try:
        return parse({"node": {"name": "node"}}, settings.path)
    except ConfigError as error:
        raise Failed(*error.faults) from error


# ---------------------------------------------------------------- reading


def _read(file: Path) -> Conf:
    """Raises Failed."""

    def include(pattern: str, within: str) -> Mapping[str, str]:
        # A relative one is beside the file that has it.
        found = sorted(glob.glob(str(Path(within).parent / pattern)))  # noqa: PTH207 - as above
        return {name: Path(name).read_text(encoding="utf-8") for name in found}

    try:
        conf = parse_conf(file.read_text(encoding="utf-8"), str(file), include)
    except ConfError as error:
        raise Failed(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{file}: can't be read: {error}") from error
    for other in conf.others:
        warn(f"{other} is not carried over: charon's settings are in strongswan.conf")
    return conf


def _names(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for address, _, name in pairs:
        if not address or not name:
            raise click.UsageError(f"--name {address}: ADDRESS=NAME, such as 10.20.8.4=edge2")
    return {address: name for address, _, name in pairs}


def _subject(file: Path) -> str | None:
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415 - only where needed

    from fabricd.pki.names import identity_of  # noqa: PLC0415

    try:
        return identity_of(load_pem_x509_certificate(file.read_bytes()).subject)
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------- writing


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _check(there: Sequence[Put], values: Mapping[str, bytes], config: Config) -> None:
    """As `node put` does, record after record. Raises Failed."""
    puts = {put.key: put for put in there}
    faults: list[str] = []
    for key, value in values.items():
        faults += refusals(tuple(puts.values()), key, value, config.ike.identity)
        puts[key] = Put(key, value)  # contradicts nothing, or is not written
    if faults:
        raise Failed(*(f"{fault}; nothing was written" for fault in faults))


async def _put(store: Store, values: Mapping[str, bytes], config: Config, *, force: bool) -> None:
    there = await store.list()
    stored = {put.key: put.value for put in there}
    _refuse_to_replace(
        [key for key, value in values.items() if key in stored and not same(stored[key], value)],
        force=force,
    )
    _check(there, values, config)
    for key, value in values.items():
        await store.put(key, value)
        click.echo(f"{key}: written")


def _write(folder: Path, values: Mapping[str, bytes], *, force: bool) -> None:
    files = {folder / f"{key}.json": value for key, value in values.items()}
    different = [
        str(file)
        for file, value in files.items()
        if file.exists() and not same(file.read_bytes(), value)
    ]
    _refuse_to_replace(different, force=force)
    try:
        for file, value in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{file.name}")
            new.write_bytes(value + b"\n")
            new.rename(file)
            click.echo(f"{file}: written")
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from error


def _refuse_to_replace(found: Sequence[str], *, force: bool) -> None:
    if found and not force:
        raise Failed(
            *(f"{name} is there already, and says something else" for name in found),
            "nothing was written; --force replaces what is there",
        )


def same(one: bytes, other: bytes) -> bool:
    """Whether two values are the same JSON."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def _print(values: Mapping[str, bytes], config: Config) -> None:
    for key, value in values.items():
        click.echo(f"etcdctl put {config.store.prefix}/{key} {shlex.quote(value.decode())}")
