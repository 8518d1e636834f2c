"""The status page as somebody sees it who looks at it: a real fabric, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from lab.fabric import Fabric
from lab.process import wait_until
from lab.topology import RECORDS
from tests.lab.browser import Browser, browser, inside
from tests.lab.observe import SOON, or_else, revive, wait_converged

URL = "http://127.0.0.1:9815/"
NODE = "edge2"

HOSTILE = (
    "</td></script><img src=x onerror=\"window.taken='img'\"><script>window.taken=1</script>\x1b[2J"
)


@pytest.fixture(scope="module")
def window(fabric: Fabric) -> Iterator[Browser]:
    """A browser on edge2."""
    with inside(fabric.namespaces[NODE]), browser(fabric.run) as opened:
        yield opened


@pytest.fixture
def page(window: Browser) -> Iterator[Browser]:
    """The page, open and live; nothing has been complained of when the test is over."""
    window.resize(1100, 800)
    window.prefer(color_scheme="light")
    window.open(URL)
    wait_live(window)
    window.js("window.loadedOnce = true")
    yield window
    complaints = window.complaints()
    window.open("about:blank")
    assert complaints == []


def wait_live(window: Browser) -> None:
    wait_text(window, "live", "live")


def wait_text(window: Browser, part: str, text: str) -> None:
    """Until an element of the page contains a text."""
    found = "return document.getElementById(arguments[0]).textContent.includes(arguments[1])"
    wait_until(lambda: window.js(found, part, text), f"#{part} says {text!r}", SOON)


def states(window: Browser) -> dict[str, str]:
    """The table of peers: state by name."""
    rows = "return [...document.querySelectorAll('#peers tbody tr')]"
    cells = ".map((row) => [row.cells[0].textContent, row.cells[1].textContent])"
    return dict(window.js(rows + cells))


def lines(window: Browser) -> set[str]:
    """The tunnels in the picture, in words."""
    return set(
        window.js(
            "return [...document.querySelectorAll('path > title')]"
            ".map((title) => title.textContent)"
        )
    )


def is_still_loaded(window: Browser) -> bool:
    return bool(window.js("return window.loadedOnce"))


# ---------------------------------------------------------------- what it shows


def test_it_shows_the_fabric(page: Browser) -> None:
    assert page.js("return document.title") == "edge2: 2 of 2 tunnels up"
    assert states(page) == {"edge3": "up", "node1": "up"}
    assert lines(page) == {"edge2 to edge3 (app1): up", "edge2 to node1: up"}
    assert page.js("return document.querySelector('#recent tbody').textContent").count("start") >= 1
    drawn = page.js(
        "const line = document.querySelector('path.up');"
        "return [getComputedStyle(line).stroke, line.getBoundingClientRect().width]"
    )
    assert drawn[0] == "rgb(46, 139, 87)"
    assert drawn[1] > 20


def test_it_changes_by_itself_when_a_tunnel_goes_down_and_comes_back(
    page: Browser, fabric: Fabric
) -> None:
    fabric.nodes["edge3"].charon.kill()
    try:
        wait_text(page, "head", "1 of 2 tunnels up")
        # Whichever notices first: the probes that nothing comes through, or charon's own.
        assert states(page)["edge3"] in {"silent", "connecting"}
        assert states(page)["node1"] == "up"
        [line] = lines(page) - {"edge2 to node1: up"}
        assert line.startswith("edge2 to edge3 (app1): down")
        assert page.js("return document.title") == "edge2: 1 of 2 tunnels up"
    finally:
        fabric.nodes["edge3"].charon.start()
    wait_text(page, "head", "2 of 2 tunnels up")
    wait_text(page, "recent", "child.initiate")
    assert is_still_loaded(page)
    wait_converged(fabric)


def test_focus_scrolling_and_what_was_closed_stay_as_they_are(
    page: Browser, fabric: Fabric
) -> None:
    page.resize(1100, 400)
    page.js(
        "document.querySelector('#recent details').open = false;"
        "document.querySelector('#peers summary').focus({preventScroll: true});"
        "scrollTo(0, 150)"
    )
    try:
        for name, number in (("warned", 1), ("warned again", 2)):
            fabric.etcd.put("/fabric/nodes/edge3", {**RECORDS["edge3"], name: number})
            wait_text(page, "warnings", f"'{name}'")
            assert page.js("return document.activeElement.matches('#peers summary')")
            assert page.js("return [scrollY, document.querySelector('#recent details').open]") == [
                150,
                False,
            ]
    finally:
        fabric.etcd.put("/fabric/nodes/edge3", dict(RECORDS["edge3"]))
    gone = "return document.getElementById('warnings').hidden"
    wait_until(lambda: page.js(gone), "the warning goes", SOON)
    assert is_still_loaded(page)


def test_where_focus_was_on_what_goes_it_is_not_lost(page: Browser, fabric: Fabric) -> None:
    fabric.etcd.put("/fabric/nodes/edge3", {**RECORDS["edge3"], "warned": 1})
    try:
        wait_text(page, "warnings", "'warned'")
        page.js("document.querySelector('#warnings summary').focus()")
    finally:
        fabric.etcd.put("/fabric/nodes/edge3", dict(RECORDS["edge3"]))
    where = "return document.activeElement.id"
    wait_until(lambda: page.js(where) == "main", "what is left has the focus", SOON)


def test_records_that_are_hostile_stay_text(page: Browser, fabric: Fabric) -> None:
    page.resize(360, 740, phone=True)
    evil = {
        "nodes/evil1": {**RECORDS["edge3"], "subnets": [HOSTILE], "endpoint": HOSTILE},
        "nodes/evil2": {"subnets": ["2.2.2.96/27"], "community": HOSTILE, "identity": HOSTILE},
        "nodes/edge3": {**RECORDS["edge3"], HOSTILE: HOSTILE},
        f"communities/{HOSTILE}": {"members": [HOSTILE]},
    }
    for key, record in evil.items():
        fabric.etcd.put(f"/fabric/{key}", record)
    try:
        for part in ("rejected", "warnings"):
            wait_text(page, part, "onerror=")
        wait_text(page, "rejected", "evil2")
        page.open(URL)  # as it comes, too
        wait_live(page)
        counted = "return document.querySelectorAll(arguments[0]).length"
        assert [page.js(counted, name) for name in ("script", "img", "style")] == [1, 0, 1]
        assert page.js("return window.taken ?? null") is None
        assert page.js("return document.documentElement.scrollWidth") <= 360
        shown = page.js("return document.body.textContent")
        assert "\x1b" not in shown
    finally:
        for key in evil.keys() - {"nodes/edge3"}:
            fabric.etcd.delete(f"/fabric/{key}")
        fabric.etcd.put("/fabric/nodes/edge3", dict(RECORDS["edge3"]))
    wait_converged(fabric)


# ---------------------------------------------------------------- for everybody


def test_light_dark_and_on_a_phone(page: Browser, tmp_path: Path) -> None:
    text = "return getComputedStyle(document.body).color"
    assert page.js(text) == "rgb(0, 0, 0)"
    light = page.picture(tmp_path / "light.png")
    page.prefer(color_scheme="dark")
    assert page.js(text) == "rgb(255, 255, 255)"
    dark = page.picture(tmp_path / "dark.png")
    page.resize(360, 740, phone=True)
    overflow = (
        "return [...document.querySelectorAll('body *')]"
        ".filter((each) => each.getBoundingClientRect().right > 360 && !each.closest('svg, thead'))"
        ".map((each) => each.outerHTML.slice(0, 80))"
    )
    assert page.js("return document.documentElement.scrollWidth") == 360
    assert page.js(overflow) == []
    phone = page.picture(tmp_path / "phone.png")
    assert len({light, dark, phone}) == 3
    small = page.js(
        "return [...document.querySelectorAll('a:not(.skip), summary')]"
        ".filter((each) => each.getBoundingClientRect().height < 24)"
        ".map((each) => each.textContent)"
    )
    assert small == [], "everything can be hit with a finger (WCAG 2.2, 2.5.8)"


def test_it_is_used_by_keyboard(page: Browser) -> None:
    order = page.js(
        "return [...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')]"
        ".filter((each) => each.checkVisibility()).map(describe);"
        "function describe(each) { return each.outerHTML.slice(0, 60) }"
    )
    assert len(order) >= 8
    visited = []
    for _ in order:
        page.press(Keys.TAB)
        where, outline = page.js(
            "const at = document.activeElement; const style = getComputedStyle(at);"
            "return [at.outerHTML.slice(0, 60), style.outlineStyle + ' ' + style.outlineWidth]"
        )
        visited.append(where)
        assert outline == "solid 3px", where
    assert visited == order
    page.press(Keys.TAB)
    assert page.js("return document.activeElement === document.body"), "and out again: no trap"

    page.open(URL)
    page.press(Keys.TAB, Keys.ENTER)
    assert page.js("return location.hash") == "#peers"
    page.press(Keys.TAB)
    closed = "return document.querySelector('#peers details').open"
    assert page.js(closed) is True
    page.press(Keys.SPACE)
    assert page.js(closed) is False


def test_it_says_to_those_who_hear_it(page: Browser) -> None:
    tree = page.devtools("Accessibility.getFullAXTree")["nodes"]
    found = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree}
    assert {
        ("heading", "edge2 (edge)"),
        ("heading", "Peers (2)"),
        ("image", "3 nodes, 2 of 2 tunnels up"),
        ("columnheader", "State"),
        ("rowheader", "edge3"),
        ("region", "Peers"),
    } <= found
    assert {"main", "banner", "contentinfo", "status", "table"} <= {role for role, _ in found}
    page.resize(360, 740, phone=True)
    roles = [n["role"]["value"] for n in page.devtools("Accessibility.getFullAXTree")["nodes"]]
    assert {"table", "row", "columnheader", "rowheader", "cell"} <= set(roles)


def test_without_scripts_it_loads_again_by_itself(page: Browser) -> None:
    page.open("about:blank")
    page.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(URL)
        # When it is asked, it may be loading again already.
        first = wait_until(lambda: whole_page(page), "it is there", SOON)
        assert "edge3" in first
        assert "loads again every 5 s" in first
        wait_until(lambda: as_of(texts(page)) > as_of(first), "it has been loaded again", SOON)
    finally:
        page.devtools("Emulation.setScriptExecutionDisabled", value=False)


def texts(page: Browser) -> list[str]:
    """All that is in the document, asked without a script and at once: it may be loading."""

    def of(node: dict[str, Any]) -> Iterator[str]:
        yield node["nodeValue"]
        for child in node.get("children", []):
            yield from of(child)

    return [text for text in of(page.devtools("DOM.getDocument", depth=-1)["root"]) if text]


def whole_page(page: Browser) -> list[str]:
    """All that is in the document, once its foot is there."""
    found = texts(page)
    return found if as_of(found) else []


def as_of(found: list[str]) -> str:
    """What the foot of the page says; empty while it is not there."""
    return next((found[at + 1] for at, text in enumerate(found) if text.endswith("as of ")), "")


# ---------------------------------------------------------------- the daemon behind it


def test_it_says_when_the_daemon_is_gone_and_goes_on_when_it_is_back(
    page: Browser, fabric: Fabric
) -> None:
    daemon = fabric.nodes[NODE].fabricd
    assert daemon is not None
    with or_else(lambda: revive(fabric)):
        assert daemon.stop(SOON) == 0, "an open stream does not keep it"
        wait_text(page, "live", "No connection to fabricd since")
        position = "return getComputedStyle(document.getElementById('live')).position"
        assert page.js(position) == "sticky"
        assert states(page) == {"edge3": "up", "node1": "up"}
    fabric.start_fabricd(NODE)
    wait_live(page)
    assert is_still_loaded(page)
    refused = page.complaints()
    # As it ends it may take a connection, and answer nothing.
    assert all("net::ERR_" in line for line in refused), refused
    wait_converged(fabric)


def test_pages_that_are_closed_leave_nothing_behind(page: Browser, fabric: Fabric) -> None:
    daemon = fabric.nodes[NODE].fabricd
    assert daemon is not None
    files = Path(f"/proc/{daemon.pid}/fd")

    def open_files() -> int:
        return len(list(files.iterdir()))

    page.open("about:blank")
    before = wait_until(open_files, "files are open")
    for _ in range(5):
        page.open(URL)
        wait_live(page)
        page.open("about:blank")
    wait_until(lambda: open_files() <= before, "all connections are closed", SOON)


def test_the_events_are_an_attackers_to_read_no_more_than_the_page_is(
    page: Browser, fabric: Fabric
) -> None:
    """A page of another origin gets neither."""
    page.open("data:text/html,<title>elsewhere</title>")
    script = (
        "const done = arguments[arguments.length - 1];"
        "const source = new EventSource(arguments[0]);"
        "source.onmessage = source.onopen = () => done('read');"
        "source.onerror = () => done('refused');"
    )
    assert page.driver.execute_async_script(script, f"{URL}events") == "refused"
    assert any("CORS" in line for line in page.complaints())
