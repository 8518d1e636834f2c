"""What the commands of `fabricctl pki` have in common: the directory, options, who a node is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fabricd.cli.options import DEFAULT_CONFIG, Failed, Settings, warn
from fabricd.config import Config, ConfigError, IkeSection
from fabricd.core.events import Listed, Put
from fabricd.core.records import SHORTEST, check_identity
from fabricd.core.rib import Rib
from fabricd.model import NAME_PATTERN, Node, Prefix, family, network, prefix
from fabricd.pki.fault import PkiError
from fabricd.pki.folder import CA, Folder
from fabricd.pki.keys import Algorithm

DEFAULT_DIR: Final = Path("/etc/fabricd/pki")

C = TypeVar("C", bound=Callable[..., Any])


def now() -> float:
    """Unix seconds."""
    return time.time()


class PkiGroup(click.Group):
    """A group whose commands may raise PkiError."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; each fault is a line."""
        try:
            return super().invoke(ctx)
        except PkiError as error:
            raise Failed(*error.faults) from error


def dir_option(command: C) -> C:
    """`--dir DIR`, for a command or a group; the later one counts."""

    def remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            context.meta[__name__] = value

    return click.option(
        "--dir",
        type=click.Path(path_type=Path, file_okay=False),
        callback=remember,
        expose_value=False,
        help=f"Where keys and certificates are.  [default: {DEFAULT_DIR}]",
    )(command)


def the_folder() -> Folder:
    """The directory that `--dir` names."""
    return Folder(click.get_current_context().meta.get(__name__, DEFAULT_DIR))


def check_name(value: str) -> str:
    """NAME of a node; raises click.BadParameter."""
    if not re.fullmatch(NAME_PATTERN, value):
        raise click.BadParameter(
            f"{value!r} is no node's name: 1 to 63 of a-z 0-9 - ., starting and ending with a "
            "letter or digit"
        )
    if value == CA:
        raise click.BadParameter(f"{CA!r} is the name of the CA's files; no node can have it")
    return value


name_argument = click.argument("name", callback=lambda _, __, value: check_name(value))

force_option = click.option("--force", is_flag=True, help="Replace files that are there.")

identity_option = click.option(
    "--identity", metavar="DN", help="Subject.  [default: from [ike] identity of the config]"
)

from_store_option = click.option(
    "--from-store", is_flag=True, help="Subnets and identity are those of the node's record."
)


def algorithm_option(default: str) -> Callable[[C], C]:
    """`--algorithm`; `default` is for the help only."""
    return click.option(
        "--algorithm",
        type=click.Choice([item.value for item in Algorithm]),
        callback=lambda _, __, value: None if value is None else Algorithm(value),
        help=f"Sort of the key.  [default: {default}]",
    )


def days_option(default: int, what: str) -> Callable[[C], C]:
    """`--days`."""
    return click.option(
        "--days", type=click.IntRange(1, 36525), default=default, show_default=True, help=what
    )


def prefixes_option(option: str, what: str) -> Callable[[C], C]:
    """An option that takes CIDRs: repeated, with commas, or several behind one another."""

    def decorate(command: C) -> C:
        command = click.option(option, "prefixes", multiple=True, metavar="CIDR...", help=what)(
            command
        )
        return click.argument("more", nargs=-1, metavar="")(command)

    return decorate


def prefixes_given(option: str, values: Sequence[str], more: Sequence[str]) -> tuple[Prefix, ...]:
    """The CIDRs behind `option`, canonical. Raises click.UsageError."""
    if more and not values:
        raise click.UsageError(f"Got unexpected extra argument ({more[0]})")
    result = []
    for text in (part.strip() for value in (*values, *more) for part in value.split(",")):
        try:
            result.append(prefix(text))
        except ValueError as error:
            raise click.UsageError(f"{option}: {text!r}: {error}") from error
    return tuple(result)


def subnets_given(values: Sequence[str], more: Sequence[str]) -> tuple[Prefix, ...]:
    """The CIDRs behind `--subnet`, canonical; warns of those that no node's record may have.
    Raises click.UsageError.
    """
    found = prefixes_given("--subnet", values, more)
    for subnet in found:
        if network(subnet).prefixlen < SHORTEST[family(subnet)]:
            warn(f"--subnet {subnet}: is more than one node can have, and binds it to little")
    return found


def identity_for(name: str, given: str | None, settings: Settings) -> str:
    """The node's identity: as given, else by the config's template. Raises UsageError, Failed."""
    if given is None:
        return _template(settings).replace("{name}", name)
    try:
        return check_identity(given)
    except ValueError as error:
        raise click.UsageError(f"--identity: {error}") from error


def record_of(name: str, settings: Settings) -> Node:
    """The node's record in the store, as it is in force. Raises Failed, Unavailable."""
    config = settings.config()
    rib = Rib(config.ike.identity)
    rib.apply(Listed(_listed(config)), now=0)
    in_force = rib.in_force()
    node = in_force.nodes.get(name)
    if node is None:
        faults = [str(fault) for fault in in_force.rejected if fault.key == f"nodes/{name}"]
        absent = f"nodes/{name}: there is no such record: see fabricctl node list"
        raise Failed(*(faults or [absent]))
    return node


def find(target: str, folder: Folder) -> tuple[str, Path]:
    """A certificate by the name of its node, or by its file; name and file. Raises Failed."""
    if re.fullmatch(NAME_PATTERN, target) and folder.certificate(target).exists():
        return target, folder.certificate(target)
    path = find_file(Path(target), folder)
    return path.stem, path


def find_file(path: Path, folder: Folder) -> Path:
    """A file by its path, or by its name in the directory. Raises Failed."""
    for found in (path, folder.path / path):
        if found.exists():
            return found
    raise Failed(f"{path}: there is no such file, nor in {folder.path}")


def day(seconds: float) -> str:
    """A moment for people, UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _template(settings: Settings) -> str:
    if settings.path == DEFAULT_CONFIG and not settings.path.exists():
        return IkeSection().identity
    return settings.config().ike.identity


def _listed(config: Config) -> tuple[Put, ...]:
    import trio  # noqa: PLC0415  # most of pki does without the store, and its gRPC

    from fabricd.daemon.store import open_store  # noqa: PLC0415

    async def main() -> tuple[Put, ...]:
        async with aclosing(open_store(config)) as store:
            return await store.list()

    try:
        return trio.run(main)
    except ConfigError as error:
        raise Failed(*error.faults) from error
