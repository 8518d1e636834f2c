"""Charts of how something grows, as SVG: both axes logarithmic, so that twice as much is the same
distance everywhere, and what grows in proportion is a straight line.

Drawn by arithmetic, as `fabricd.core.svg` is: the same numbers give the same bytes, text stays
text, and text and lines follow the page, light or dark. No library that draws does all of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 300
"""Of the plot itself."""
LEFT: Final = 76
RIGHT: Final = 28
MARGIN: Final = 14
"""Left of the vertical axis's label, which stands above it."""
TOP: Final = 46
"""Where the legend begins, below the title."""
LINE: Final = 24
"""From one line of the legend to the next."""
FOOT: Final = 58
"""Below the plot, for the horizontal axis."""
SIGN: Final = 4.5
"""Half a marker."""

COLOURS: Final = ("#3b82d6", "#d9761a", "#2f9e6e")
"""Three that are told apart by colour-blind eyes too, and stand out from white and from black."""

STYLE: Final = "\n".join(
    [
        ":root { color-scheme: light dark }",
        ".growth { max-width: 100%; height: auto }",
        ".growth text { font: 15px system-ui, sans-serif; fill: currentColor }",
        ".growth .title { font-weight: 600; font-size: 18px }",
        ".growth .middle { text-anchor: middle }",
        ".growth .end { text-anchor: end }",
        ".growth path { fill: none; stroke-width: 2.5; stroke-linejoin: round }",
        ".growth .grid { stroke: currentColor; stroke-width: 1; opacity: 0.18 }",
        ".growth .axis { stroke: currentColor; stroke-width: 1; opacity: 0.6 }",
        *(
            f".growth .s{number} {{ stroke: {colour} }} .growth .m{number} {{ fill: {colour} }}"
            for number, colour in enumerate(COLOURS)
        ),
        ".growth .floor { stroke: #858585; stroke-dasharray: 7 5 }",
        ".growth .hollow { stroke: #858585; stroke-width: 2.5; fill: none }",
    ]
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: tuple[Point, ...]
    """What it grows with, and what it is; both above 0."""
    floor: bool = False
    """It is what another one is held against."""


@dataclass(frozen=True)
class Chart:
    """What a picture shows. At most three series are not floors."""

    title: str
    across: str
    """What things grow with: the label of the horizontal axis."""
    up: str
    """What grows, with its unit: the label of the vertical axis."""
    series: tuple[Series, ...]


@dataclass(frozen=True)
class _Scale:
    """From values to places on one axis."""

    low: float
    high: float
    start: float
    """Where `low` is."""
    end: float

    def at(self, value: float) -> float:
        share = log10(value / self.low) / log10(self.high / self.low)
        return self.start + share * (self.end - self.start)


def svg(chart: Chart) -> str:
    """A document of its own."""
    xs = sorted({x for series in chart.series for x, _ in series.points})
    ys = [y for series in chart.series for _, y in series.points]
    top = TOP + LINE * len(chart.series) + 34
    ticks = _ticks(min(ys), max(ys))
    low, high = (xs[0], xs[-1]) if xs[0] < xs[-1] else (xs[0] / 2, xs[0] * 2)
    across = _Scale(low, high, LEFT + 16, WIDTH - RIGHT - 16)
    up = _Scale(ticks[0], ticks[-1], top + HEIGHT, top)
    height = top + HEIGHT + FOOT
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" class="growth" role="img" '
        f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(chart.title)}</text>',
        *_axes(chart, xs, ticks, across, up),
    ]
    for number, (series, kind) in enumerate(_kinds(chart.series)):
        y = TOP + LINE * number
        lines += [
            f'<path class="{_stroke(kind)}" d="M {LEFT} {y} h 40"/>',
            _marker(kind, LEFT + 20, y, ""),
            f'<text x="{LEFT + 52}" y="{y + 5}">{escape(series.name)}</text>',
            *_line(series, kind, across, up),
        ]
    return "\n".join([*lines, "</svg>", ""])


def number(value: float) -> str:
    """As labels have it: `0.5`, `20`, `1,000`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _ticks(least: float, most: float) -> list[float]:
    """1, 2, 5, 10 … around all values, over a decade at least: a flat line has to look flat."""
    steps = [digit * 10.0**power for power in range(-9, 13) for digit in (1, 2, 5)]
    first = max(place for place, step in enumerate(steps) if step <= least * (1 + 1e-9))
    last = min(place for place, step in enumerate(steps) if step >= most * (1 - 1e-9))
    while last - first < 3:
        first, last = (first - 1, last) if (last - first) % 2 else (first, last + 1)
    return steps[first : last + 1]


def _kinds(series: Iterable[Series]) -> Iterator[tuple[Series, int | None]]:
    """Each with the number of its colour; None: a floor."""
    colour = 0
    for item in series:
        yield item, None if item.floor else colour
        colour += not item.floor


def _axes(
    chart: Chart, xs: Sequence[float], ticks: Sequence[float], across: _Scale, up: _Scale
) -> Iterator[str]:
    bottom, top, right = up.start, up.end, WIDTH - RIGHT
    for tick in ticks:
        y = up.at(tick)
        yield f'<path class="grid" d="M {LEFT} {y:.1f} H {right}"/>'
        if len(ticks) <= 8 or log10(tick).is_integer():
            yield f'<text class="end" x="{LEFT - 10}" y="{y + 5:.1f}">{number(tick)}</text>'
    for x in xs:
        place = across.at(x)
        yield f'<path class="grid" d="M {place:.1f} {bottom} V {top}"/>'
        yield f'<text class="middle" x="{place:.1f}" y="{bottom + 22}">{number(x)}</text>'
    yield f'<path class="axis" d="M {LEFT} {top} V {bottom} H {right}"/>'
    yield f'<text x="{MARGIN}" y="{top - 14}">{escape(chart.up)}</text>'
    middle = (LEFT + right) / 2
    yield f'<text class="middle" x="{middle:.1f}" y="{bottom + 46}">{escape(chart.across)}</text>'


def _line(series: Series, kind: int | None, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across.at(x), up.at(y)) for x, y in series.points]
    way = " L ".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path class="{_stroke(kind)}" d="M {way}"/>'
    for (x, y), (of, value) in zip(places, series.points, strict=True):
        yield _marker(kind, x, y, f"{series.name}, {number(of)}: {number(value)}")


def _stroke(kind: int | None) -> str:
    return "floor" if kind is None else f"s{kind}"


def _marker(kind: int | None, x: float, y: float, text: str) -> str:
    """A shape for each colour, a ring for a floor."""
    title = f"<title>{escape(text)}</title>" if text else ""
    if kind is None:
        return f'<circle class="hollow" cx="{x:.1f}" cy="{y:.1f}" r="{SIGN}">{title}</circle>'
    if kind == 0:
        return f'<circle class="m0" cx="{x:.1f}" cy="{y:.1f}" r="{SIGN + 0.5}">{title}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == 2 else ""
    return (
        f'<rect class="m{kind}" x="{x - SIGN:.1f}" y="{y - SIGN:.1f}" width="{2 * SIGN:g}" '
        f'height="{2 * SIGN:g}"{turn}>{title}</rect>'
    )
