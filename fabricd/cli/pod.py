"""`fabricctl pod`: network namespaces get an interface in the fabric, through the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from fabricd.cli.control import ask
from fabricd.cli.options import (
    Failed,
    Settings,
    config_option,
    join,
    output_option,
    pass_settings,
    printable,
    warn,
)
from fabricd.cli.output import Cell, emit, table

NAMESPACES: Final = Path("/run/netns")
"""Where `ip netns` keeps its names."""

STYLES: Final = {"attached": "green", "failed": "red", "gone": "red", "leaving": "yellow"}


@click.group()
@config_option
@output_option
def pod() -> None:
    """Pods of this node: attach, detach, list."""


@pod.command()
@config_option
@output_option
@click.argument("name")
@click.option(
    "--netns", required=True, metavar="PATH", help="The network namespace; or its ip-netns name."
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="CIDR",
    help="Of the node's subnets; once a family.  [default: the next free ones]",
)
@click.option("--ifname", default="eth0", show_default=True, help="The interface's name in there.")
@pass_settings
def attach(
    settings: Settings, name: str, netns: str, addresses: tuple[str, ...], ifname: str
) -> None:
    """Give the network namespace an interface in the fabric, under the name NAME.

    Back when the pod can talk. It stays attached over restarts, until it is detached or its
    namespace is gone.
    """
    path = Path(netns) if "/" in netns else NAMESPACES / netns
    wish = {"name": name, "netns": str(path.absolute()), "ifname": ifname, "addresses": addresses}
    document = ask(settings.config().control.socket, "POST", "/pods/attach", wish)

    def as_text(_: bool) -> str:
        return printable(
            f"pod {name}: {join(document['addresses'])} on {ifname} in {document['netns']}"
        )

    emit(document, settings.form, as_text)


@pod.command()
@config_option
@click.argument("name")
@pass_settings
def detach(settings: Settings, name: str) -> None:
    """Take the pod's interface away, and free its addresses."""
    socket = settings.config().control.socket
    if not ask(socket, "POST", "/pods/detach", {"name": name})["detached"]:
        raise Failed(f"there is no pod {name} here: see fabricctl pod list")


@pod.command("list")
@config_option
@output_option
@pass_settings
def list_(settings: Settings) -> None:
    """All pods of this node."""
    document = ask(settings.config().control.socket, "GET", "/pods")
    for fault in document["faults"]:
        warn(fault)
    emit(document, settings.form, lambda wide: _pods_text(document["pods"], wide))


def _pods_text(pods: list[dict[str, Any]], wide: bool) -> str:
    if not pods:
        return "no pods"
    headers = ["POD", "STATE", "ADDRESSES", "INTERFACE", "NAMESPACE", "REASON"]
    if wide:
        headers += ["PORT", "NETWORK"]
    rows: list[list[Cell]] = []
    for item in pods:
        state = (item["state"], STYLES.get(item["state"], ""))
        row: list[Cell] = [item["name"], state, join(item["addresses"])]
        row += [item["ifname"], item["netns"], item["reason"]]
        rows.append([*row, item["port"], item["network"]] if wide else row)
    return table(headers, rows)
