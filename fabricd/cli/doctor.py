"""`fabricctl doctor`: whether this machine is fit to be a node, before or while it is one.

Works without a config, a daemon, charon or a store: each is a row. What a row means is
`core.checkup`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fabricd.cli.control import is_running
from fabricd.cli.options import Failed, Settings, config_option, output_option, pass_settings
from fabricd.cli.output import Document, emit, table

if TYPE_CHECKING:
    from fabricd.config import Config

STYLES = {"ok": "green", "warning": "yellow", "broken": "red", "unknown": "yellow"}


@click.command()
@config_option
@output_option
@click.pass_context
@pass_settings
def doctor(settings: Settings, context: click.Context) -> None:
    """Check this machine: kernel, charon, credentials, store, network.

    Changes nothing. Run it as root: much can't be seen otherwise.

    Exit status: 0 it is fit, perhaps with warnings; 1 something is broken.
    """
    # These need trio, netlink, VICI, gRPC and cryptography.
    import trio  # noqa: PLC0415

    from fabricd.core.checkup import checkup, document  # noqa: PLC0415
    from fabricd.probe.machine import examine  # noqa: PLC0415

    config, faults = _config(settings)
    machine = trio.run(examine, config, faults, _daemon_fault(config))
    found = document(checkup(machine), machine.name)
    emit(found, settings.form, lambda wide: as_text(found, wide=wide))
    context.exit(0 if found["fit"] else 1)


def _config(settings: Settings) -> tuple[Config, tuple[str, ...]]:
    """The config and its faults; with any, defaults stand in its place."""
    from fabricd.config import parse  # noqa: PLC0415

    try:
        return settings.config(), ()
    except Failed as error:
        return parse({"node": {"name": "node"}}, settings.path), error.faults


def _daemon_fault(config: Config) -> str:
    try:
        running = is_running(config.control.socket)
    except Failed as error:
        return error.faults[0]
    return "" if running else f"it does not run: nobody listens at {config.control.socket}"


def as_text(found: Document, *, wide: bool) -> str:
    """The rows as a table, and what to do about those that are not ok."""
    rows = [
        [
            check["name"],
            (check["verdict"], STYLES[check["verdict"]]),
            check["detail"],
            *([check["do"]] if wide else []),
        ]
        for check in found["checks"]
    ]
    text = table(["CHECK", "IS", "DETAIL", *(["DO"] if wide else [])], rows)
    todo = [[f"{check['name']}:", check["do"]] for check in found["checks"] if check["do"]]
    advice = f"\n\n{table(['WHAT TO DO', ''], todo)}" if todo and not wide else ""
    verdict = "fit to be a node" if found["fit"] else "not fit to be a node yet"
    return f"{text}{advice}\n\n{verdict}"
