"""fabricctl's way in: which commands there are, and which file has each.

A command's file is loaded when the command is called, so that `--help` and a command that only
asks the daemon never pay for gRPC, netlink or cryptography.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from fabricd import __version__
from fabricd.cli.options import Failed, config_option, output_option
from fabricd.errors import Unavailable


class Entry(NamedTuple):
    """Where a command is found, and its line in `--help`."""

    module: str
    attribute: str
    help: str


COMMANDS: Final = {
    "status": Entry("status", "status", "The peers of this node, its tunnels and records."),
    "plan": Entry("plan", "plan", "What fabricd would change now, in order."),
    "why": Entry("why", "why", "Why two pods can or cannot talk: the first broken hop."),
    "doctor": Entry(
        "doctor", "doctor", "Check this machine: kernel, charon, credentials, store, network."
    ),
    "graph": Entry("graph", "graph", "The fabric's nodes and tunnels as a picture."),
    "node": Entry("records", "node", "Node records: put, get, list, delete."),
    "community": Entry("records", "community", "Community records: put, get, list, delete."),
    "import": Entry("import_", "import_", "Make records of ipsec.conf's connections."),
    "pod": Entry("pod", "pod", "Pods of this node: attach, detach, list."),
    "pki": Entry(
        "pki", "pki", "The CA and node certificates: make, renew, revoke, show, verify, export."
    ),
    "drain": Entry("drain", "drain", "Hand the edges of a gateway, this node, to the others."),
    "undrain": Entry("drain", "undrain", "Let edges come back to a gateway, this node."),
    "confirm": Entry("status", "confirm", "Obey a loss of records that is held."),
    "calico": Entry(
        "calico",
        "calico",
        "Calico's IP pools, and whether its nodes find the edges.",
    ),
    "purge": Entry(
        "purge", "purge", "Remove all that is fabricd's from this node's kernel and charon."
    ),
    "completion": Entry("completion", "completion", "Print a shell's completion script."),
}


class LazyGroup(click.Group):
    """Loads a command's module when the command is called; tells expected errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        """Commands in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load a command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"fabricd.cli.{entry.module}")
        command: click.Command = getattr(module, entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without loading any."""
        found = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what the world refuses is no traceback."""
        try:
            return super().invoke(ctx)
        except Unavailable as error:
            raise Failed(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@output_option
@click.version_option(__version__, prog_name="fabricctl", message="%(prog)s %(version)s")
def fabricctl() -> None:
    """See and steer fabricd, the daemon that keeps this node's part of the IPsec fabric.

    Exit status: 0 done, 1 failed, 2 wrong usage or (for plan) changes pending.
    """


def main() -> None:
    """The program `fabricctl`."""
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding can't show must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    fabricctl(prog_name="fabricctl")
