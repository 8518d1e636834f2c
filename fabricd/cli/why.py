"""`fabricctl why SRC DST`: every hop between two pods, and the first broken one.

Asks daemon, store, kernel and charon, and goes on with what answers: at three in the morning one
of them does not. What the hops mean is `core.explain`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from fabricd.cli.control import ask
from fabricd.cli.options import (
    Failed,
    Settings,
    config_option,
    output_option,
    pass_settings,
    printable,
)
from fabricd.cli.output import Document, emit, table
from fabricd.cli.progress import working
from fabricd.config import Config
from fabricd.model import Address, address, family

if TYPE_CHECKING:
    from fabricd.core.facts import Facts, NodeView

STYLES: Final = {"ok": "green", "warning": "yellow", "broken": "red", "unknown": "yellow"}


class Pod(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """An IPv4 or IPv6 address."""

    name = "address"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        """The address in canonical form."""
        try:
            return address(value)
        except ValueError:
            self.fail(f"{value!r} is no IP address of a pod, such as 2.2.2.2", param, ctx)


@click.command()
@config_option
@output_option
@click.argument("source", metavar="SRC", type=Pod())
@click.argument("destination", metavar="DST", type=Pod())
@click.pass_context
@pass_settings
def why(settings: Settings, context: click.Context, source: Address, destination: Address) -> None:
    """Why two pods can or cannot talk: the first broken hop.

    SRC and DST are addresses of pods. Run it on the node of one of them to have every hop checked:
    elsewhere only the records, and what the nodes publish, can be seen.

    Exit status: 0 they can talk, 1 they cannot.
    """
    if family(source) != family(destination):
        raise click.UsageError(f"{source} and {destination} are of two address families")
    # These need trio, netlink, VICI and cryptography.
    import trio  # noqa: PLC0415

    from fabricd.core.explain import explain  # noqa: PLC0415

    config = settings.config()
    with working(f"looking at every hop from {source} to {destination}"):
        facts = trio.run(_facts, config, source, destination)
    document = explain(facts).document()
    emit(document, settings.form, lambda wide: why_text(document, wide=wide))
    context.exit(0 if document["can"] else 1)


async def _facts(config: Config, source: Address, destination: Address) -> Facts:
    from fabricd.probe.gather import gather  # noqa: PLC0415
    from fabricd.probe.records import read_source  # noqa: PLC0415

    return await gather(
        config, source, destination, await read_source(config), daemons_view(config)
    )


def daemons_view(config: Config) -> NodeView | str:
    """What the daemon of this node says, or why it says nothing."""
    from fabricd.probe.records import view_of  # noqa: PLC0415

    try:
        return view_of(ask(config.control.socket, "GET", "/status"))
    except Failed as error:
        return error.faults[0]
    except ValueError as error:
        return f"fabricd gives no status: {error}"


def why_text(document: Document, *, wide: bool) -> str:
    """The hops as a table, then the answer and what to do."""
    rows = [
        [
            hop["name"],
            (hop["verdict"], STYLES[hop["verdict"]]),
            hop["detail"],
            *([hop["do"]] if wide else []),
        ]
        for hop in document["hops"]
    ]
    text = table(["HOP", "IS", "DETAIL", *(["DO"] if wide else [])], rows)
    ends = f"{document['source']} and {document['destination']}"
    if document["can"]:
        lines = [f"{ends} can talk"]
        lines += [
            f"but: {hop['name']}: {hop['do'] or hop['detail']}"
            for hop in document["hops"]
            if hop["verdict"] in {"warning", "unknown"}
        ]
    else:
        unknown = any(
            hop["name"] == document["broken"] and hop["ok"] is None for hop in document["hops"]
        )
        cannot = "may not be able to talk" if unknown else "cannot talk"
        lines = [
            f"{ends} {cannot}: {document['broken']}: {document['detail']}",
            f"what to do: {document['do']}",
        ]
    return "\n".join([text, "", *map(printable, lines)])
