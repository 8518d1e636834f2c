"""`fabricctl plan`: what would change, from the daemon or from files alone.

Knows how a plan is asked for and how it looks; computing one from files is `offline`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from fabricd.cli.control import ask
from fabricd.cli.options import Settings, config_option, output_option, pass_settings, warn
from fabricd.cli.output import emit, table
from fabricd.core.action import Disruption

PENDING: Final = 2
"""Exit status when there is something to do."""

STYLES: Final = {"rekey": "yellow", "drop": "red"}


@click.command()
@config_option
@output_option
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compute from nodes/NAME.json and communities/NAME.json below DIR, without a daemon, "
    "for a node that has nothing yet.",
)
@click.option("--node", metavar="NAME", help="With --records: for this node.  [default: own]")
@click.pass_context
@pass_settings
def plan(
    settings: Settings, context: click.Context, records: Path | None, node: str | None
) -> None:
    """What fabricd would change now, in order.

    Exit status: 0 nothing to do, 1 failed, 2 there are changes.
    """
    if records is not None:
        # Only this one needs trio, charon's codec and cryptography.
        from fabricd.cli.offline import offline_plan  # noqa: PLC0415

        document = offline_plan(settings, records, node)
    elif node is not None:
        raise click.UsageError("--node goes with --records: a daemon knows its own node only")
    else:
        document = ask(settings.config().control.socket, "GET", "/plan")
    emit(document, settings.form, lambda _: plan_text(document["actions"]))
    away: dict[str, str] = document.get("unavailable", {})
    for part, reason in away.items():
        warn(f"the plan leaves out {part}: {reason}")
    if document["actions"]:
        context.exit(PENDING)
    context.exit(1 if away else 0)


def plan_text(actions: Sequence[Mapping[str, str]]) -> str:
    """The actions as a table, and how many of them disturb traffic."""
    if not actions:
        return "nothing to do"
    rows = [
        (
            action["kind"],
            action["target"],
            (action["disruption"], STYLES.get(action["disruption"], "")),
            action["reason"],
        )
        for action in actions
    ]
    counts = Counter(action["disruption"] for action in actions)
    shares = ", ".join(f"{counts[kind]} {kind}" for kind in Disruption if counts[kind])
    return f"{table(('KIND', 'TARGET', 'DISRUPTION', 'REASON'), rows)}\n\ndisruption: {shares}"
