"""`fabricctl completion`: the script by which a shell completes fabricctl's commands and options.

click makes it, and answers what it asks (`_FABRICCTL_COMPLETE` in the environment).
"""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from fabricd.cli.options import config_option

SHELLS: Final = ("bash", "zsh", "fish")

VARIABLE: Final = "_FABRICCTL_COMPLETE"
"""As click calls it for the program `fabricctl`."""


@click.command("completion")
@config_option
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    An installed fabricctl has it in place for bash, zsh and fish. From a checkout, for bash:
    source <(fabricctl completion bash)
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has all three"
    program = context.find_root().command
    click.echo(kind(program, {}, "fabricctl", VARIABLE).source())
