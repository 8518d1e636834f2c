"""The status page: what is on it, that nothing breaks out of its place, and how it is served."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from typing import Any

import trio

from fabricd.core.action import Action, Disruption, Kind
from fabricd.core.desired import NOTHING
from fabricd.core.rib import InForce
from fabricd.daemon import serve
from fabricd.daemon.markup import Html, tag
from fabricd.daemon.page import DRAWN, LISTED, POLICY, page
from fabricd.daemon.picture import Picture
from fabricd.daemon.recent import KEPT, Change, Recent
from fabricd.daemon.web import Server
from tests.unit.daemon.test_daemon_web import Client

VOID = frozenset({"meta", "link", "br"})


class Reader(HTMLParser):
    """Reads a page: its elements with attributes, and its text by the element it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1], data))

    def within(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]

    def meta(self, **wanted: str) -> str | None:
        [found] = [a for t, a in self.elements if t == "meta" and wanted.items() <= a.items()]
        return found["content"]


def peer(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "role": "edge",
        "up": True,
        "state": "up",
        "reason": "",
        "last_error": "",
        "initiator": True,
        "endpoint": "10.20.8.12",
        "remote": "10.20.8.12",
        "communities": ["app1"],
        "established": 1_700_000_000.0,
        "bytes_in": 1234567,
        "bytes_out": 5,
        "rekeys": 3,
        "initiations": 4,
        "children": [{"local": "2.2.2.0/27", "remote": "2.2.2.32/27"}],
        **more,
    }


def status(*peers: dict[str, Any], **more: Any) -> dict[str, Any]:
    part = {"ok": True, "reason": ""}
    return {
        "node": "edge2",
        "role": "edge",
        "version": "0.1.0",
        "time": 1_700_000_060.0,
        "synced": True,
        "source": {"type": "etcd", "reason": ""},
        "kernel": part,
        "charon": part,
        "peers": list(peers),
        "rejected": [],
        "warnings": [],
        "held": [],
        **more,
    }


def read(*peers: dict[str, Any], recent: tuple[Change, ...] = (), **more: Any) -> Reader:
    return Reader(page(status(*peers, **more), recent).decode())


# ---------------------------------------------------------------- what is on it


def test_the_node_its_picture_and_its_peers() -> None:
    found = read(
        peer("edge3"),
        peer(
            "gw", role="cloud", up=False, state="connecting", reason="no answer", established=None
        ),
    )
    assert found.within("h1") == ["edge2 (edge)"]
    assert "1 of 2 tunnels up" in found.within("p")
    assert found.within("title")[:2] == ["edge2: fabricd", "3 nodes, 1 of 2 tunnels up"]
    assert "edge2 to gw (app1): down: no answer" in found.within("title")
    states = [a["class"] for t, a in found.elements if t == "span"]
    assert states == ["state s-down", "state s-up"], "what is not up comes first"
    assert "1,234,567" in found.within("td")
    assert "2023-11-14 22:13:20 UTC" in found.within("time")


def test_what_is_wrong() -> None:
    fault = {"key": "/fabric/nodes/edge4", "field": "subnets", "reason": "overlaps"}
    found = read(
        synced=False,
        source={"reason": "no answer"},
        charon={"ok": False, "reason": "no socket"},
        rejected=[fault],
        warnings=["the certificate expires"],
        held=["/fabric/nodes/edge7"],
    )
    assert {"no peers", "not in sync with the store: no answer"} <= set(found.within("p"))
    assert "charon does not answer: no socket" in found.within("p")
    assert {*fault.values(), "the certificate expires"} <= set(found.within("td"))
    assert "held, not obeyed: the loss of /fabric/nodes/edge7" in found.within("td")
    assert found.within("h2") == ["Rejected records", "Warnings"]


def test_recent_changes() -> None:
    done = Change(1_700_000_000.0, "route.set", "2.2.2.32/27", "none", "it is missing")
    failed = Change(1_700_000_001.0, "conn.load", "fabric-edge3", "none", "missing", "refused")
    found = read(recent=(failed, done))
    assert "failed: refused" in found.within("td")
    assert "it is missing" in found.within("td")


def test_no_more_than_the_metrics_tell_but_names_and_reasons() -> None:
    text = page(status(peer("edge3")), ()).decode()
    for private in ("10.20.8.12", "2.2.2.32/27", "2.2.2.0/27"):
        assert private not in text


def test_a_fabric_that_is_large() -> None:
    peers = [peer(f"edge{n}", role="edge") for n in range(LISTED + 50)]
    found = read(*peers)
    assert len([t for t, _ in found.elements if t == "circle"]) == DRAWN + 1
    assert len([a for t, a in found.elements if a.get("scope") == "row"]) == LISTED
    assert "50 more are not shown here" in found.within("p")
    assert len(page(status(*peers), ())) < 400_000


# ---------------------------------------------------------------- what it may not do


def test_its_policy_allows_its_own_style_and_nothing_else() -> None:
    found = read(peer("edge3"))
    assert found.meta(**{"http-equiv": "Content-Security-Policy"}) == POLICY
    [style] = found.within("style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'")
    assert found.meta(**{"http-equiv": "refresh"}) == "5"


def test_it_loads_nothing_and_runs_nothing() -> None:
    found = read(peer("edge3"), recent=(Change(0.0, "a", "b", "c", "d"),))
    assert not {"script", "img", "iframe", "link", "object"} & {t for t, _ in found.elements}
    for _, attributes in found.elements:
        assert not any(key in {"src", "style"} or key.startswith("on") for key in attributes)
    links = [a["href"] for t, a in found.elements if t == "a"]
    assert links == ["/metrics", "/healthz", "/readyz"]


NASTY = "</td></script><script>alert(1)</script>\"'&<!-- \x00\x1b]0;\u202e"


def test_hostile_records_stay_text() -> None:
    calm, hostile = peer("x"), peer(NASTY, reason=NASTY, state=NASTY, communities=[NASTY], up=False)
    change = Change(0.0, NASTY, NASTY, NASTY, NASTY, NASTY)
    fault = {"key": NASTY, "field": NASTY, "reason": NASTY}
    found = read(
        calm,
        hostile,
        recent=(change,),
        rejected=[fault],
        warnings=[NASTY],
        held=[NASTY],
        node=NASTY,
    )
    names = {tag for tag, _ in found.elements}
    assert "script" not in names
    assert any(text.startswith("</td></script><script>alert(1)") for text in found.within("td"))
    assert all(text.isprintable() for where, text in found.texts if where in {"td", "th", "text"})


def test_a_tag_escapes_what_is_not_html() -> None:
    inner = tag("b", "<i>", title="\"'&<")
    assert inner == '<b title="&quot;&#x27;&amp;&lt;">&lt;i&gt;</b>'
    assert tag("p", inner, "&") == f"<p>{inner}&amp;</p>"
    assert tag("meta", http_equiv="x") == '<meta http-equiv="x">'
    assert tag("p", Html("<br>")) == "<p><br></p>"


# ---------------------------------------------------------------- recent changes


def picture(passes: int, *targets: str, **failures: str) -> Picture:
    actions = tuple(
        Action(Kind.CONN_LOAD, target, Disruption.NONE, "missing", "") for target in targets
    )
    named = {f"conn.load {target}": error for target, error in failures.items()}
    return Picture(InForce({}, {}, (), ()), NOTHING, actions=actions, passes=passes, failures=named)


def test_what_has_to_be_done_again_is_told_once() -> None:
    recent = Recent()
    recent.note(picture(1, "a", "b", b="refused"), 1.0)
    recent.note(picture(1, "a", "b", b="refused"), 2.0)  # perhaps no pass was made meanwhile
    recent.note(picture(2, "b", b="refused"), 3.0)
    recent.note(picture(3, "b"), 4.0)
    recent.note(picture(4), 5.0)
    recent.note(picture(5, "a"), 6.0)
    assert [(c.when, c.target, c.error) for c in recent] == [
        (6.0, "a", ""),
        (4.0, "b", ""),
        (1.0, "b", "refused"),
        (1.0, "a", ""),
    ]


def test_only_the_last_ones_are_kept() -> None:
    recent = Recent()
    for number in range(KEPT + 5):
        recent.note(picture(number + 1, f"t{number}"), 0.0)
    assert len(list(recent)) == KEPT
    assert next(iter(recent)).target == f"t{KEPT + 4}"


# ---------------------------------------------------------------- how it is served


async def test_it_is_served_fresh_and_head_has_no_body(nursery: trio.Nursery) -> None:
    calls: list[str] = []

    async def refresh() -> None:
        calls.append("refreshed")

    routes = serve.page_routes(refresh, lambda: page(status(peer("edge3")), ()))
    client = Client(nursery, Server(routes))
    code, headers, body = await client.ask("GET", "/")
    assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b'<!DOCTYPE html>\n<html lang="en">')
    assert await client.ask("HEAD", "/") == (200, headers, b"")
    assert calls == ["refreshed"] * 2
    code, headers, _ = await client.ask("POST", "/")
    assert (code, headers["allow"]) == (405, "GET, HEAD")
