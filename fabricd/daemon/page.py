"""The status page: one HTML document out of the status document and the last changes.

It loads again by itself, without scripts, and loads nothing else: its one style sheet is in it,
and its Content-Security-Policy allows that one alone. It shows no more than the metrics do, but
for names and reasons: it is as public as they are. Everything in it is text, see `markup`.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fabricd.core.facts import PeerView
from fabricd.core.graph import Arc, Graph, Level, Vertex, level_of
from fabricd.core.svg import STYLE as PICTURE_STYLE
from fabricd.core.svg import drawing
from fabricd.daemon.markup import Html, tag
from fabricd.daemon.recent import Change
from fabricd.model import Role

Section = Mapping[str, Any]

REFRESH: Final = 5
"""Seconds after which a browser asks again."""

DRAWN: Final = 60
"""Peers in the picture: with more nobody could read it."""

LISTED: Final = 500
"""Lines of a table."""

STYLE: Final = f"""
:root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }}
body {{ margin: 0 auto; max-width: 70rem; padding: 1rem }}
h1 {{ font-size: 1.35rem; margin: 0 }}
h2 {{ font-size: 1.1rem; margin: 1.6rem 0 0.4rem }}
.fabric {{ display: block; width: 100%; max-width: 38rem; margin: 0 auto }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: 0.25rem 0.6rem 0.25rem 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
td.long {{ overflow-wrap: anywhere; min-width: 14rem }}
.state {{ border-left: 0.4rem solid; padding-left: 0.4rem; white-space: nowrap }}
.s-up {{ border-color: #2e8b57 }} .s-standby {{ border-color: #3b7dd8 }}
.s-unknown {{ border-color: #8a8f98 }} .s-partial {{ border-color: #c98a00 }}
.s-down, .s-impossible, .bad {{ border-color: #d13438 }}
.bad {{ border-left: 0.4rem solid #d13438; padding-left: 0.4rem }}
footer {{ margin-top: 2rem; opacity: 0.75 }}
{PICTURE_STYLE}
"""

POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
"""Content-Security-Policy (CSP Level 3)."""


def page(status: Section, recent: Iterable[Change]) -> bytes:
    """The document; `status` is the status document."""
    peers = sorted(status["peers"], key=lambda peer: (peer["up"], peer["name"]))
    title = f"{status['node']}: fabricd"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", http_equiv="refresh", content=str(REFRESH)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        _header(status),
        tag(
            "main",
            _picture(status, peers),
            _peers(peers),
            _rejected(status),
            _warnings(status),
            _recent(list(recent)),
        ),
        _footer(status),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n".encode()


# ---------------------------------------------------------------- parts of the page


def _header(status: Section) -> Html:
    role = status["role"] or "no record is in force"
    up = sum(peer["up"] for peer in status["peers"])
    lines = [
        tag("h1", f"{status['node']} ({role})"),
        tag("p", f"{up} of {len(status['peers'])} tunnels up"),
    ]
    if not status["synced"]:
        lines.append(_bad(f"not in sync with the store: {status['source']['reason']}"))
    lines += [
        _bad(f"{part} does not answer: {status[part]['reason']}")
        for part in ("kernel", "charon")
        if not status[part]["ok"]
    ]
    return tag("header", *lines)


def _picture(status: Section, peers: Sequence[Section]) -> Html:
    if not peers:
        return tag("p", "no peers")
    more = len(peers) - DRAWN
    note = [tag("p", f"{more} more peers, all of them up or like these, are not drawn")]
    return tag(
        "section",
        Html(drawing(_graph(status, peers[:DRAWN]))),
        *(note if more > 0 else ()),
        aria_label="the fabric around this node",
    )


def _graph(status: Section, peers: Iterable[Section]) -> Graph:
    """The node and its peers, by name alone."""
    me = status["node"]
    arcs = [
        Arc(
            me if peer["initiator"] else peer["name"],
            peer["name"] if peer["initiator"] else me,
            tuple(peer["communities"]),
            _level(peer),
            peer["reason"],
        )
        for peer in peers
    ]
    vertices = [Vertex(peer["name"], Role(peer["role"])) for peer in peers]
    vertices.append(Vertex(me, Role(status["role"] or Role.EDGE)))
    return Graph(tuple(sorted(vertices)), tuple(sorted(arcs)))


def _level(peer: Section) -> Level:
    return level_of(PeerView(peer["name"], peer["up"], peer["state"]))


def _peers(peers: Sequence[Section]) -> Html:
    def row(peer: Section) -> list[Html]:
        return [
            tag("th", peer["name"], scope="row"),
            tag("td", tag("span", peer["state"], class_=f"state s-{_level(peer)}")),
            _number(f"{peer['bytes_in']:,}"),
            _number(f"{peer['bytes_out']:,}"),
            tag("td", _time(peer["established"])),
            _number(str(peer["rekeys"])),
            _number(str(peer["initiations"])),
            tag("td", peer["reason"] or peer["last_error"], class_="long"),
        ]

    headers = ["Peer", "State", "Bytes in", "Bytes out", "Since", "Rekeyings", "Attempts", "Reason"]
    return _section("Peers", headers, peers, row)


def _rejected(status: Section) -> Html:
    def row(item: Section) -> list[Html]:
        cells = (item["key"], item["field"] or "-", item["reason"])
        return [tag("td", cell, class_="long") for cell in cells]

    return _section("Rejected records", ["Record", "Field", "Reason"], status["rejected"], row)


def _warnings(status: Section) -> Html:
    texts = [*status["warnings"], *(f"held, not obeyed: the loss of {k}" for k in status["held"])]
    return _section("Warnings", ["Warning"], texts, lambda line: [tag("td", line, class_="long")])


def _recent(changes: Sequence[Change]) -> Html:
    def row(change: Change) -> list[Html]:
        what = f"failed: {change.error}" if change.error else change.reason
        return [
            tag("td", _time(change.when)),
            tag("td", change.kind),
            tag("td", change.target, class_="long"),
            tag("td", change.disruption),
            tag("td", what, class_="long"),
        ]

    headers = ["When", "Action", "Object", "Disruption", "Why"]
    return _section("Recent changes", headers, changes, row)


def _footer(status: Section) -> Html:
    links = [tag("a", name, href=name) for name in ("/metrics", "/healthz", "/readyz")]
    text = f"fabricd {status['version']}, "
    spaced = [part for link in links for part in (" ", link)]
    return tag("footer", text, _time(status["time"]), *spaced)


# ---------------------------------------------------------------- pieces


def _section(
    title: str, headers: Sequence[str], items: Sequence[Any], row: Callable[[Any], list[Html]]
) -> Html:
    """A heading and a table; nothing where there is nothing."""
    if not items:
        return Html()
    head = tag("thead", tag("tr", *(tag("th", header, scope="col") for header in headers)))
    body = tag("tbody", *(tag("tr", *row(item)) for item in items[:LISTED]))
    more = len(items) - LISTED
    return tag(
        "section",
        tag("h2", title),
        tag("div", tag("table", head, body), class_="scroll", tabindex="0", aria_label=title),
        *([tag("p", f"{more} more are not shown here")] if more > 0 else ()),
    )


def _number(value: str) -> Html:
    return tag("td", value, class_="number")


def _bad(line: str) -> Html:
    return tag("p", line, class_="bad")


def _time(moment: float | None) -> Html:
    if moment is None:
        return Html("-")
    when = datetime.fromtimestamp(moment, UTC)
    return tag("time", f"{when:%Y-%m-%d %H:%M:%S} UTC", datetime=f"{when:%Y-%m-%dT%H:%M:%SZ}")
