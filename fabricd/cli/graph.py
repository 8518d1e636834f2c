"""`fabricctl graph`: the fabric's topology with the states of its tunnels.

The records come from the store or from what this node has kept of them, the states from what the
nodes publish and this node's daemon says. How it looks is `core.graph`'s and `core.svg`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from fabricd.cli.options import Failed, Settings, config_option, pass_settings, warn

if TYPE_CHECKING:
    from fabricd.core.graph import Graph

FORMS: Final = ("dot", "mermaid", "svg")


@click.command("graph")
@config_option
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMS),
    default="dot",
    show_default=True,
    help="For Graphviz, for Mermaid, or drawn.",
)
@pass_settings
def graph(settings: Settings, form: str) -> None:
    """The fabric's nodes and tunnels as a picture."""
    click.echo(_projection(form)(_graph(settings)), nl=False)


def _graph(settings: Settings) -> Graph:
    # These need trio, and the store's client.
    import trio  # noqa: PLC0415

    from fabricd.cli.why import daemons_view  # noqa: PLC0415
    from fabricd.core.graph import graph as topology  # noqa: PLC0415
    from fabricd.probe import read_source  # noqa: PLC0415

    config = settings.config()
    source = trio.run(read_source, config)
    records = source.records
    if records.fault and not records.nodes:
        raise Failed(
            f"the store does not answer ({records.fault}), and no earlier records are kept here"
        )
    if records.fault:
        warn(f"the store does not answer ({records.fault}): these are the last good records")
    elif source.published_fault:
        warn(f"what the nodes publish can't be read: {source.published_fault}")
    own = daemons_view(config)
    views = dict(source.published)
    if not isinstance(own, str):
        views[own.node] = own
    return topology(records.nodes, records.communities, views)


def _projection(form: str) -> Callable[[Graph], str]:
    from fabricd.core.graph import dot, mermaid  # noqa: PLC0415
    from fabricd.core.svg import svg  # noqa: PLC0415

    return {"dot": dot, "mermaid": mermaid, "svg": svg}[form]
