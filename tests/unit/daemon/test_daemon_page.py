"""The status page: what is on it, that nothing breaks out of its place, and how it is served.

How it looks and works in a browser, and how it is kept up to date, is tests/lab/test_page.py's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import trio

from fabricd.core.action import Action, Disruption, Kind
from fabricd.core.desired import NOTHING
from fabricd.core.graph import COLOURS, Level
from fabricd.core.rib import InForce
from fabricd.core.svg import DASHES
from fabricd.daemon import serve
from fabricd.daemon.assets import MARKS, POLICY
from fabricd.daemon.live import Live
from fabricd.daemon.markup import Html, tag
from fabricd.daemon.page import DRAWN, LISTED, page, parts
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
    assert found.within("title")[:2] == ["edge2: 1 of 2 tunnels up", "3 nodes, 1 of 2 tunnels up"]
    assert "edge2 to gw (app1): down: no answer" in found.within("title")
    states = [a["class"] for t, a in found.elements if t == "span" and "class" in a]
    assert states == ["state s-down", "state s-up"], "what is not up comes first"
    assert "app1" in found.within("text"), "the communities that join them are in the picture"
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
    assert {*fault.values(), "the certificate expires"} <= {
        *found.within("td"),
        *found.within("th"),
    }
    assert "held, not obeyed: the loss of /fabric/nodes/edge7" in found.within("td")
    assert found.within("h2") == ["Rejected records (1)", "Warnings (2)"]


def test_recent_changes() -> None:
    done = Change(1_700_000_000.0, "route.set", "2.2.2.32/27", "none", "it is missing")
    failed = Change(
        1_700_000_001.0, "conn.load", "fabric-edge3", "none", "missing", "drift", "refused"
    )
    found = read(recent=(failed, done))
    assert {"failed: refused", "drift", "it is missing"} <= set(found.within("td"))


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


def test_its_policy_allows_its_own_style_and_script_and_nothing_else() -> None:
    found = read(peer("edge3"))
    assert found.meta(**{"http-equiv": "Content-Security-Policy"}) == POLICY
    for kind in ("style", "script"):
        [text] = found.within(kind)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'")
    assert "unsafe" not in POLICY


def test_without_scripts_it_loads_again() -> None:
    text = page(status(peer("edge3")), ()).decode()
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text


def test_it_loads_nothing() -> None:
    found = read(peer("edge3"), recent=(Change(0.0, "a", "b", "c", "d"),))
    assert not {"img", "iframe", "object", "embed"} & {t for t, _ in found.elements}
    for element, attributes in found.elements:
        assert not any(key in {"src", "style"} or key.startswith("on") for key in attributes)
        if element == "link":
            assert (attributes["rel"], str(attributes["href"])[:5]) == ("icon", "data:")
    links = [a["href"] for t, a in found.elements if t == "a"]
    assert links == ["#peers", "metrics", "healthz", "readyz"]


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
    harmless = read(calm, peer("y", up=False))
    assert len([tag for tag, _ in found.elements if tag == "script"]) == 1
    assert found.within("script") == harmless.within("script")
    assert any(text.startswith("</td></script><script>alert(1)") for text in found.within("td"))
    shown = [text for where, text in found.texts if where not in {"style", "script"}]
    assert all(text.isprintable() for text in shown)
    assert all(str(value).isprintable() for _, a in found.elements for value in a.values())


def test_a_tag_escapes_what_is_not_html() -> None:
    inner = tag("b", "<i>", title="\"'&<")
    assert inner == '<b title="&quot;&#x27;&amp;&lt;">&lt;i&gt;</b>'
    assert tag("p", inner, "&") == f"<p>{inner}&amp;</p>"
    assert tag("meta", http_equiv="x") == '<meta http-equiv="x">'
    assert tag("p", Html("<br>")) == "<p><br></p>"


# ---------------------------------------------------------------- for everybody


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_states_can_be_seen_on_a_light_and_a_dark_page_and_without_colours() -> None:
    for colour in COLOURS.values():
        for background in ("#ffffff", "#121212"):
            darker, lighter = sorted(map(luminance, (colour, background)))
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (colour, background)
    for shapes in (MARKS, DASHES):
        assert set(shapes) == set(Level)
        assert len(set(shapes.values())) == len(Level)


def test_every_part_is_one_element_under_its_id_be_there_something_in_it_or_not() -> None:
    for full in (status(), status(peer("edge3"), warnings=["a"])):
        for key, html in parts(full, ()).items():
            (_, attributes), *_ = Reader(html).elements
            assert attributes["id"] == key
            assert len(re.findall(f'id="{key}"', page(full, ()).decode())) == 1
    hidden = {key for key, html in parts(status(), ()).items() if "hidden" in html}
    assert hidden == {"peers", "rejected", "warnings", "recent"}


def test_tables_say_what_their_cells_are() -> None:
    found = read(peer("edge3"), rejected=[{"key": "k", "field": "", "reason": "r"}])
    headers = [a for t, a in found.elements if t == "th"]
    assert all(a["scope"] in {"row", "col"} for a in headers)
    scrolled = [a for _, a in found.elements if a.get("tabindex") == "0"]
    assert scrolled
    assert all(a["role"] == "region" and a["aria-label"] for a in scrolled)
    assert [a["role"] for t, a in found.elements if t == "div" and "class" not in a] == ["status"]


# ---------------------------------------------------------------- recent changes


def picture(passes: int, *targets: str, **failures: str) -> Picture:
    actions = tuple(
        Action(Kind.CONN_LOAD, target, Disruption.NONE, "missing", "") for target in targets
    )
    named = {f"conn.load {target}": error for target, error in failures.items()}
    found = Picture(InForce({}, {}, (), ()), NOTHING, actions=actions, passes=passes)
    found.failures = named
    found.causes = {action.name: f"record nodes/{action.target}" for action in actions}
    return found


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
    assert next(iter(recent)).cause == "record nodes/a"


def test_only_the_last_ones_are_kept() -> None:
    recent = Recent()
    for number in range(KEPT + 5):
        recent.note(picture(number + 1, f"t{number}"), 0.0)
    assert len(list(recent)) == KEPT
    assert next(iter(recent)).target == f"t{KEPT + 4}"


# ---------------------------------------------------------------- how it is served


async def test_it_is_served_fresh_and_head_has_no_body(nursery: trio.Nursery) -> None:
    calls: list[str] = []

    async def now() -> dict[str, Any]:
        calls.append("asked")
        return status(peer("edge3"))

    routes = serve.page_routes(now, Recent(), Live(now, Recent()))
    client = Client(nursery, Server(routes))
    code, headers, body = await client.ask("GET", "/")
    assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b'<!DOCTYPE html>\n<html lang="en">')
    assert await client.ask("HEAD", "/") == (200, headers, b"")
    assert calls == ["asked"] * 2
    code, headers, _ = await client.ask("POST", "/")
    assert (code, headers["allow"]) == (405, "GET, HEAD")
