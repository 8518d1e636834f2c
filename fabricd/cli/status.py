"""`fabricctl status` and `confirm`: what the daemon says of this node, and the safety valve.

The daemon's document is shown as it is; nothing is computed here but how it looks. In a table,
warnings about charon's settings stand beside its own: who runs this as root can read their files,
the daemon, which is not root, perhaps can't.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from fabricd.cli.control import ask
from fabricd.cli.options import (
    Settings,
    config_option,
    join,
    output_option,
    pass_settings,
    printable,
)
from fabricd.cli.output import Cell, Document, duration, octets, on_terminal, render, table
from fabricd.core.essence import essence

if TYPE_CHECKING:
    from fabricd.config import Config

Section = Mapping[str, Any]

STYLES: Final = {
    "up": "green",
    "standby": "green",
    "partial": "yellow",
    "connecting": "yellow",
    "waiting": "yellow",
    "unknown": "yellow",
    "leaving": "yellow",
    "silent": "red",
    "impossible": "red",
}
"""By the state of a peer; others are plain."""

NUMBERS: Final = ("UP", "IN", "OUT", "AGE")


@click.command()
@config_option
@output_option
@click.option(
    "--watch",
    is_flag=True,
    help="Look again every 2 s, until Ctrl-C: redrawn on a terminal, elsewhere told when it "
    "changes, as JSON one line each time.",
)
@pass_settings
def status(settings: Settings, watch: bool) -> None:
    """The peers of this node, its tunnels and records."""
    config, form = settings.config(), settings.form

    def look() -> Document:
        return ask(config.control.socket, "GET", "/status")

    def as_text(document: Document, *, wide: bool) -> str:
        warnings = [*document["warnings"], *_settings_warnings(config, document)]
        return status_text({**document, "warnings": warnings}, wide=wide)

    def show(document: Document) -> str:
        one_line = watch and not on_terminal()
        return render(document, form, lambda w: as_text(document, wide=w), one_line=one_line)

    if not watch:
        click.echo(show(look()))
        return
    from fabricd.cli.watch import keep_looking  # noqa: PLC0415  # once needs none of it

    keep_looking(look, show, essence, {"json": "", "yaml": "---\n"}.get(form, "\n"))


def _settings_warnings(config: Config, document: Document) -> list[str]:
    """What charon's settings should be and are not; nothing where they can't be known from here,
    where charon does not answer, or where it is another node's daemon that has answered.
    """
    if document["node"] != config.node.name or not document["charon"].get("ok"):
        return []
    # `--help` and JSON do without.
    from fabricd.core.charon_settings import settings_warnings  # noqa: PLC0415
    from fabricd.probe.charon_files import running, settings  # noqa: PLC0415

    try:
        charon = running(config.vici_socket)
        found = settings([charon.pid])
    except (OSError, ValueError):
        return []
    return settings_warnings(found, charon.version, len(document["peers"]))


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


def rejected_text(rejected: Sequence[Section]) -> str:
    """The records that are not in force, and why."""
    rows = [(item["key"], item.get("at") or item["field"], item["reason"]) for item in rejected]
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
