"""What every command of fabricctl takes and how it fails: `--config`, `-o`, one line of error.

It is imported by each command and by `fabricctl --help`: click and the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from fabricd.config import Config

DEFAULT_CONFIG: Final = Path("/etc/fabricd/fabricd.toml")

FORMS: Final = ("table", "wide", "json", "yaml")

C = TypeVar("C", bound=Callable[..., Any])


class Failed(click.ClickException):
    """An expected failure: one line for each fault (what, where, what to do), exit status 1."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the lines on stderr, or on `file`."""
        for fault in self.faults:
            click.echo(f"fabricctl: {printable(fault)}", file=file, err=True)


def warn(text: str) -> None:
    """Tell the operator something that stops nothing, on stderr."""
    click.echo(f"fabricctl: warning: {printable(text)}", err=True)


def printable(text: str) -> str:
    """`text` on one line, and harmless to a terminal: what it can't show is escaped.

    Names and reasons come from records, which others write.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Settings:
    """The common options, as given before or after the command; the later one counts."""

    path: Path = DEFAULT_CONFIG
    form: str = "table"

    def config(self) -> Config:
        """Read the config file. Raises Failed."""
        from fabricd.config import ConfigError, load  # noqa: PLC0415  # --help does without

        try:
            return load(self.path)
        except ConfigError as error:
            raise Failed(*error.faults) from error


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _remember(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        settings = context.ensure_object(Settings)
        if value is not None:
            setattr(settings, attribute, value)

    return callback


def config_option(command: C) -> C:
    """`--config PATH`, for a command or a group."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=_remember("path"),
        expose_value=False,
        help=f"The daemon's config file.  [default: {DEFAULT_CONFIG}]",
    )(command)


def output_option(command: C) -> C:
    """`-o FORM`, for a reading command or a group."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMS),
        callback=_remember("form"),
        expose_value=False,
        help="How to print it.  [default: table]",
    )(command)


def join(texts: Sequence[str]) -> str:
    """Several values in one cell or sentence."""
    return ", ".join(texts)
