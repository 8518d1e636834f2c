"""The status page: one HTML document out of the status document and the last changes.

It is made of parts, each an element with an id: `daemon.live` sends those that have changed to the
pages that are open. Without scripts the page loads again by itself. It loads nothing else: what it
looks like and does is in it, see `assets`. It shows no more than the metrics do, but for names and
reasons: it is as public as they are. Everything in it is text, see `markup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fabricd.core.facts import PeerView
from fabricd.core.graph import Arc, Graph, Level, Vertex, level_of
from fabricd.core.svg import drawing
from fabricd.daemon.assets import ICON, POLICY, SCRIPT, STYLE
from fabricd.daemon.markup import Html, tag
from fabricd.daemon.recent import Change
from fabricd.model import Role

Section = Mapping[str, Any]

REFRESH: Final = 5
"""Seconds after which a browser without scripts asks again."""

DRAWN: Final = 60
"""Peers in the picture: with more nobody could read it."""

LISTED: Final = 500
"""Lines of a table."""

NUMBERS: Final = frozenset({"Bytes in", "Bytes out", "Rekeyings", "Attempts"})
"""Columns that are aligned right."""


def page(status: Section, recent: Iterable[Change]) -> bytes:
    """The document; `status` is the status document."""
    made = parts(status, recent)
    again = tag("meta", http_equiv="refresh", content=str(REFRESH))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("noscript", again),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title(status)),
        tag("link", rel="icon", href=ICON),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the peers", href="#peers", class_="skip"),
        made["head"],
        tag("p", tag("noscript", f"loads again every {REFRESH} s"), id="live", role="status"),
        tag(
            "main",
            *(made[name] for name in ("fabric", "peers", "rejected", "warnings", "recent")),
            id="main",
            tabindex="-1",
        ),
        made["foot"],
        tag("script", Html(SCRIPT)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n".encode()


def title(status: Section) -> str:
    """What a browser's tab says."""
    return f"{status['node']}: {_sum(status)}"


def parts(status: Section, recent: Iterable[Change]) -> dict[str, Html]:
    """The elements of the page that change, by their ids."""
    peers = sorted(status["peers"], key=lambda peer: (peer["up"], peer["name"]))
    return {
        "head": _header(status),
        "fabric": _picture(status, peers),
        "peers": _peers(peers),
        "rejected": _rejected(status),
        "warnings": _warnings(status),
        "recent": _recent(list(recent)),
        "foot": _footer(status),
    }


# ---------------------------------------------------------------- parts of the page


def _header(status: Section) -> Html:
    role = status["role"] or "no record is in force"
    worst = max((_level(peer) for peer in status["peers"]), key=list(Level).index, default=Level.UP)
    lines = [tag("p", _sum(status), class_=f"sum state s-{worst}")]
    if not status["synced"]:
        lines.append(_bad(f"not in sync with the store: {status['source']['reason']}"))
    lines += [
        _bad(f"{part} does not answer: {status[part]['reason']}")
        for part in ("kernel", "charon")
        if not status[part]["ok"]
    ]
    heard = tag("div", *lines, role="status")  # is read out when it changes
    return tag("header", tag("h1", f"{status['node']} ({role})"), heard, id="head")


def _sum(status: Section) -> str:
    up = sum(peer["up"] for peer in status["peers"])
    return f"{up} of {len(status['peers'])} tunnels up"


def _picture(status: Section, peers: Sequence[Section]) -> Html:
    if not peers:
        return tag("section", tag("p", "no peers"), id="fabric")
    more = len(peers) - DRAWN
    note = [tag("p", f"{more} more peers, all of them up or like these, are not drawn")]
    name = "the fabric around this node"
    return tag(
        "section",
        _scrolling(name, Html(drawing(_graph(status, peers[:DRAWN]), middle=status["node"]))),
        *(note if more > 0 else ()),
        id="fabric",
        aria_label=name,
    )


def _graph(status: Section, peers: Iterable[Section]) -> Graph:
    """The node and its peers, by name and by the communities that join them."""
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
    vertices = [
        Vertex(peer["name"], Role(peer["role"]), (), tuple(peer["communities"])) for peer in peers
    ]
    vertices.append(Vertex(me, Role(status["role"] or Role.EDGE)))
    return Graph(tuple(sorted(vertices)), tuple(sorted(arcs)))


def _level(peer: Section) -> Level:
    return level_of(PeerView(peer["name"], peer["up"], peer["state"]))


def _peers(peers: Sequence[Section]) -> Html:
    def row(peer: Section) -> list[Html]:
        return [
            tag("th", peer["name"], scope="row"),
            tag("td", tag("span", peer["state"], class_=f"state s-{_level(peer)}")),
            _cell("In", f"{peer['bytes_in']:,}", "number"),
            _cell("Out", f"{peer['bytes_out']:,}", "number"),
            _cell("Since", _time(peer["established"]), "time"),
            _cell("Rekeyings", str(peer["rekeys"]), "number"),
            _cell("Attempts", str(peer["initiations"]), "number"),
            _cell("", peer["reason"] or peer["last_error"], "long"),
        ]

    headers = ["Peer", "State", "Bytes in", "Bytes out", "Since", "Rekeyings", "Attempts", "Reason"]
    return _table("peers", "Peers", headers, peers, row)


def _rejected(status: Section) -> Html:
    def row(item: Section) -> list[Html]:
        return [
            tag("th", item["key"], scope="row", class_="long"),
            _cell("Field", item.get("at") or item["field"] or "-"),
            _cell("", item["reason"], "long"),
        ]

    headers = ["Record", "Field", "Reason"]
    return _table("rejected", "Rejected records", headers, status["rejected"], row)


def _warnings(status: Section) -> Html:
    def row(text: str) -> list[Html]:
        return [_cell("", text, "long")]

    texts = [*status["warnings"], *(f"held, not obeyed: the loss of {k}" for k in status["held"])]
    return _table("warnings", "Warnings", ["Warning"], texts, row)


def _recent(changes: Sequence[Change]) -> Html:
    def row(change: Change) -> list[Html]:
        found = f"failed: {change.error}" if change.error else change.reason
        return [
            _cell("", _time(change.when), "time"),
            tag("th", change.kind, scope="row"),
            _cell("", change.target, "long"),
            _cell("Cause", change.cause),
            _cell("Disruption", change.disruption),
            _cell("", found, "long"),
        ]

    headers = ["When", "Action", "Object", "Cause", "Disruption", "Found"]
    return _table("recent", "Recent changes", headers, changes, row)


def _footer(status: Section) -> Html:
    links = [tag("a", name, href=name) for name in ("metrics", "healthz", "readyz")]
    said = tag("span", f"fabricd {status['version']}, as of ", _time(status["time"]))
    return tag("footer", said, *links, id="foot")


# ---------------------------------------------------------------- pieces


def _table(
    id_: str,
    heading: str,
    headers: Sequence[str],
    items: Sequence[Any],
    row: Callable[[Any], list[Html]],
) -> Html:
    """A section that can be closed, with a table; nothing to be seen where there is nothing."""
    if not items:
        return tag("section", id=id_, hidden="")
    heads = (
        tag("th", header, scope="col", class_="number" if header in NUMBERS else "text")
        for header in headers
    )
    head = tag("thead", tag("tr", *heads))
    body = tag("tbody", *(tag("tr", *row(item)) for item in items[:LISTED]))
    more = len(items) - LISTED
    return tag(
        "section",
        tag(
            "details",
            tag("summary", tag("h2", f"{heading} ({len(items)})")),
            _scrolling(heading, tag("table", head, body)),
            *([tag("p", f"{more} more are not shown here")] if more > 0 else ()),
            open="",
        ),
        id=id_,
    )


def _scrolling(name: str, content: Html) -> Html:
    """What may be wider than the screen; it is scrolled by keyboard too."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=name)


def _cell(label: str, content: str, kind: str = "") -> Html:
    """A cell; `label` stands before it where the table is too narrow for columns."""
    attributes = {"class": kind, "data-label": label}
    return tag("td", content, **{key: value for key, value in attributes.items() if value})


def _bad(line: str) -> Html:
    return tag("p", line, class_="bad")


def _time(moment: float | None) -> Html:
    if moment is None:
        return Html("-")
    when = datetime.fromtimestamp(moment, UTC)
    return tag("time", f"{when:%Y-%m-%d %H:%M:%S} UTC", datetime=f"{when:%Y-%m-%dT%H:%M:%SZ}")
