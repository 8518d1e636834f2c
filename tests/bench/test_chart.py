"""Charts of how costs grow: right places, the same each time, and the ones of the page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import growth, plots
from tests.bench.chart import Chart, Series, svg
from tests.docs import ROOT

NAMESPACE = "{http://www.w3.org/2000/svg}"


def chart(*series: Series) -> Chart:
    return Chart("what <it> takes", "things", "milliseconds", series)


def ends(document: str, kind: str) -> list[list[tuple[float, float]]]:
    """The corners of lines of a kind, the one in the legend left out."""
    ways = re.findall(rf'<path class="{kind}" d="M ([^"h]+)"/>', document)
    return [
        [(float(x), float(y)) for x, y in (point.split() for point in way.split(" L "))]
        for way in ways
    ]


def texts(document: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(document).iter(f"{NAMESPACE}text")]


def test_ten_times_as_much_is_as_far_everywhere() -> None:
    line = Series("ours", ((10, 0.2), (100, 2), (1_000, 20)))
    [[(x1, y1), (x2, y2), (x3, y3)]] = ends(svg(chart(line)), "s0")
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 > y2
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)


def test_what_does_not_grow_is_level_and_small_differences_look_small() -> None:
    level, noisy = ((10, 15), (100, 15)), ((10, 15), (100, 16))
    [line], [other] = (ends(svg(chart(Series("a", points))), "s0") for points in (level, noisy))
    assert line[0][1] == line[1][1]
    assert 0 < other[0][1] - other[1][1] < 20


def test_everything_is_named() -> None:
    first, floor = Series("ours & more", ((10, 3), (100, 40))), Series("floor", ((10, 1),), True)
    document = svg(chart(first, floor))
    found = texts(document)
    assert {"what <it> takes", "things", "milliseconds", "ours & more", "floor"} <= {*found}
    assert {"10", "100", "1", "2", "5", "20", "50"} <= {*found}
    assert "<title>ours &amp; more, 100: 40</title>" in document
    assert 'class="hollow"' in document


def test_a_single_size_can_be_drawn() -> None:
    [[(x, _)]] = ends(svg(chart(Series("ours", ((100, 7),)))), "s0")
    assert 76 < x < 720


def test_numbers_survive_and_lead_to_the_same_pictures(tmp_path: Path) -> None:
    charts = {"one": chart(Series("a", ((1, 2.5), (10, 3)))), "two": chart(Series("b", ((1, 1),)))}
    first = [path.read_text() for path in plots.save(tmp_path, charts.items())]
    assert plots.load(tmp_path) == charts
    assert [path.read_text() for path in plots.save(tmp_path, charts.items())] == first


def test_the_page_shows_what_its_numbers_say() -> None:
    charts = plots.load(plots.FOLDER)
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert charts.keys() == growth.CHARTS.keys()
    assert {f"{name}.svg" for name in charts} == {p.name for p in plots.FOLDER.glob("*.svg")}
    for name, found in charts.items():
        picture = (plots.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert picture == svg(found), "python -m tests.bench.plots"
        assert f"(performance/{name}.svg)" in page
