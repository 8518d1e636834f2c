"""`fabricctl graph`: the fabric's topology with the states of its tunnels.

The records come from the store or from what this node has kept of them, the states from what the
nodes publish and this node's daemon says. How it looks is `core.graph`'s and `core.svg`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from fabricd.cli import options
from fabricd.cli.options import Failed, Settings, config_option, join, pass_settings, warn
from fabricd.cli.output import Document, emit, table
from fabricd.cli.progress import working

if TYPE_CHECKING:
    from fabricd.core.graph import Graph

PICTURES: Final = ("dot", "mermaid", "svg")
FORMS: Final = (*PICTURES, *options.FORMS)

STYLES: Final = {
    "up": "green",
    "standby": "green",
    "partial": "yellow",
    "down": "red",
    "impossible": "red",
}


@click.command("graph")
@config_option
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMS),
    help="For Graphviz, for Mermaid, drawn; or as any other list.  [default: dot]",
)
@pass_settings
def graph(settings: Settings, form: str | None) -> None:
    """The fabric's nodes and tunnels as a picture."""
    from fabricd.core.graph import dot, graph_document, mermaid  # noqa: PLC0415
    from fabricd.core.svg import svg  # noqa: PLC0415

    chosen = form or ("dot" if settings.form == "table" else settings.form)
    found = _graph(settings)
    if chosen in PICTURES:
        click.echo({"dot": dot, "mermaid": mermaid, "svg": svg}[chosen](found), nl=False)
        return
    document = graph_document(found)
    emit(document, chosen, lambda wide: _text(document, wide))


def _text(document: Document, wide: bool) -> str:
    """The tunnels as a table; before them, where there is room, the nodes."""
    nodes = [
        (node["name"], node["role"], join(node["subnets"]), join(node["communities"]) or "-")
        for node in document["nodes"]
    ]
    tunnels = [
        (
            tunnel["initiator"],
            tunnel["responder"],
            join(tunnel["communities"]) or "-",
            (tunnel["state"], STYLES.get(tunnel["state"], "")),
            tunnel["reason"],
        )
        for tunnel in document["tunnels"]
    ]
    headers = ("INITIATOR", "RESPONDER", "COMMUNITIES", "STATE", "REASON")
    parts = [table(("NODE", "ROLE", "SUBNETS", "COMMUNITIES"), nodes)] if wide else []
    return "\n\n".join([*parts, table(headers, tunnels) if tunnels else "no tunnels"])


def _graph(settings: Settings) -> Graph:
    # These need trio, and the store's client.
    import trio  # noqa: PLC0415

    from fabricd.cli.why import daemons_view  # noqa: PLC0415
    from fabricd.core.graph import graph as topology  # noqa: PLC0415
    from fabricd.probe.records import read_source  # noqa: PLC0415

    config = settings.config()
    with working("reading the records"):
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
