"""`fabricctl status` and `confirm`: what the daemon says of this node, and the safety valve.

The daemon's document is shown as it is; nothing is computed here but how it looks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
)
from fabricd.cli.output import Cell, duration, octets, render, table
from fabricd.model import Rejection

Section = Mapping[str, Any]

REDRAW: Final = 2.0
"""Seconds between two looks of `--watch`."""

STYLES: Final = {
    "up": "green",
    "standby": "green",
    "partial": "yellow",
    "connecting": "yellow",
    "waiting": "yellow",
    "unknown": "yellow",
    "impossible": "red",
}
"""By the state of a peer; others are plain."""

NUMBERS: Final = ("UP", "IN", "OUT", "AGE")


@click.command()
@config_option
@output_option
@click.option("--watch", is_flag=True, help="Look again every 2 s, until Ctrl-C.")
@pass_settings
def status(settings: Settings, watch: bool) -> None:
    """The peers of this node, its tunnels and records."""
    path = settings.config().control.socket
    text = _look(path, settings.form)
    if not watch:
        click.echo(text)
        return
    try:
        _watch(path, settings.form, text)
    except KeyboardInterrupt:
        return


def _look(path: Path, form: str) -> str:
    document = ask(path, "GET", "/status")
    return render(document, form, lambda wide: status_text(document, wide=wide))


def _watch(path: Path, form: str, text: str) -> None:
    while True:
        if sys.stdout.isatty():
            click.clear()
        click.echo(text)
        time.sleep(REDRAW)
        try:
            text = _look(path, form)
        except Failed as error:  # it may be restarted just now: keep looking
            text = "\n".join(map(printable, error.faults))


@click.command()
@config_option
@pass_settings
def confirm(settings: Settings) -> None:
    """Obey a loss of records that is held."""
    keys = ask(settings.config().control.socket, "POST", "/confirm")["confirmed"]
    for key in keys:
        click.echo(f"{printable(key)}: its loss is obeyed")
    if not keys:
        click.echo("nothing is held")


# ---------------------------------------------------------------- words


def status_text(document: Section, *, wide: bool) -> str:
    """The whole status: this node, its peers, what is wrong with the records, warnings."""
    peers = sorted(document["peers"], key=lambda peer: peer["name"])
    parts = ["\n".join(_headline(document)), _peers(peers, wide=wide) if peers else "no peers"]
    if document["rejected"]:
        parts.append(rejected_text(document["rejected"]))
    if document["warnings"]:
        lines = (printable(text) for text in document["warnings"])
        parts.append("\n".join(f"warning: {line}" for line in lines))
    if document.get("held"):
        parts.append(printable(f"held, not obeyed: the loss of {join(document['held'])}"))
    return "\n\n".join(parts)


def rejected_document(rejected: Sequence[Rejection], prefix: str) -> list[dict[str, str]]:
    """Rejections as the daemon shows them; `prefix` is that of the keys in the store."""
    return [
        {"key": f"{prefix}/{fault.key}", "field": fault.field, "reason": fault.reason}
        for fault in rejected
    ]


def rejected_text(rejected: Sequence[Section]) -> str:
    """The records that are not in force, and why."""
    rows = [(item["key"], item["field"], item["reason"]) for item in rejected]
    return "Rejected records\n" + table(("KEY", "FIELD", "REASON"), rows)


def _headline(document: Section) -> Iterator[str]:
    source, kernel, charon = (document.get(key, {}) for key in ("source", "kernel", "charon"))
    role = document.get("role") or "no record is in force"
    yield printable(f"{document['node']} ({role}), fabricd {document.get('version', '')}".rstrip())
    synced = "in sync" if document["synced"] else "not in sync"
    reason = "" if document["synced"] else source.get("reason")
    yield printable(f"source: {source.get('type', '')} {synced}{_because(reason)}")
    yield printable(f"kernel: {_state_of(kernel)}")
    userspace = ", userspace ESP" if charon.get("userspace_esp") else ""
    yield printable(f"charon: {_state_of(charon)}{userspace}")


def _state_of(part: Section) -> str:
    if "ok" not in part:
        return "unknown"
    return "ok" if part["ok"] else f"not ok{_because(part.get('reason'))}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


# ---------------------------------------------------------------- peers


def _peers(peers: Sequence[Section], *, wide: bool) -> str:
    headers = ["PEER", "ROLE", "STATE", *NUMBERS, "REASON"]
    rows = [_peer(peer) for peer in peers]
    if wide:
        headers[-1:] = [
            "IKE",
            "INITIATOR",
            "ENDPOINT",
            "REMOTE",
            "COMMUNITIES",
            "REASON",
            "LAST ERROR",
        ]
        rows = []
        for peer in peers:
            rows.append(_wide_peer(peer))
            rows += [_child(child) for child in sorted(peer["children"], key=_pair)]
    return table(headers, rows, numbers=NUMBERS)


def _peer(peer: Section) -> list[Cell]:
    reason, error = peer["reason"], peer.get("last_error")
    if error and not peer["up"] and error not in reason:
        reason = f"{reason}; last error: {error}" if reason else f"last error: {error}"
    return [*_columns(peer), reason]


def _wide_peer(peer: Section) -> list[Cell]:
    return [
        *_columns(peer),
        peer.get("ike") or "-",
        "this node" if peer.get("initiator") else "peer",
        peer.get("endpoint") or "-",
        peer.get("remote") or "-",
        join(peer.get("communities", [])) or "-",
        peer["reason"],
        peer.get("last_error") or "-",
    ]


def _columns(peer: Section) -> list[Cell]:
    children = peer["children"]
    up = sum(bool(child["up"]) for child in children)
    state = peer["state"]
    return [
        peer["name"],
        peer.get("role") or "-",
        (state, STYLES.get(state, "")),
        f"{up}/{len(children)}",
        *_traffic(peer),
    ]


def _child(child: Section) -> list[Cell]:
    style = "" if child["up"] else "yellow"
    up = "yes" if child["up"] else "no"
    return [f"  {_pair(child)}", "", (child["state"], style), up, *_traffic(child)]


def _pair(child: Section) -> str:
    return f"{child['local']} === {child['remote']}"


def _traffic(section: Section) -> list[Cell]:
    return [
        octets(section.get("bytes_in") or 0),
        octets(section.get("bytes_out") or 0),
        duration(section.get("age")),
    ]
