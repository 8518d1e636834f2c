"""The topology drawn: gateways in the middle, or one node, the others around, tunnels as lines.

A layout of its own, by arithmetic: no program is needed to draw, and the same graph gives the
same picture. Names come from records, which others write: every text is escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from math import cos, pi, sin
from typing import Final

from fabricd.core.graph import COLOURS, Graph, Level, Vertex
from fabricd.model import Role

SPACE: Final = 120
"""Units between two nodes on a circle."""
INNER: Final = 60
OUTER: Final = 115
"""The least radius of the circles."""
MARGIN: Final = 75
"""Left and right, for names."""
EDGE: Final = 64
"""Above and below, for names too."""
TURN: Final = 0.6
"""Radians by which the inner circle is turned, so that no two tunnels lie on one line."""
LARGE: Final = 600
"""Side of a picture that would have to shrink too much to fit a page."""
BEND: Final = 0.15
"""How far a tunnel between edges is bent around the gateways, of its length."""
RADIUS: Final = 9
"""Of a node."""
FOOT: Final = 34
"""Height of the legend."""

DASHES: Final = {
    Level.UP: "",
    Level.STANDBY: "10 5",
    Level.UNKNOWN: "1 5",
    Level.PARTIAL: "14 4 3 4",
    Level.DOWN: "5 5",
    Level.IMPOSSIBLE: "2 9",
}
"""A line's state can be told without its colour."""

CROSSED: Final = frozenset({Level.DOWN, Level.IMPOSSIBLE})
"""With a cross on the line."""

WORDED: Final = CROSSED | {Level.PARTIAL}
"""With the word on the line: what somebody has to look after."""

STYLE: Final = "\n".join(
    [
        ".fabric text { font: 12px system-ui, sans-serif; fill: currentColor }",
        ".fabric text { text-anchor: middle }",
        ".fabric text { paint-order: stroke; stroke: Canvas; stroke-width: 4px }",
        ".fabric .small { font-size: 10.5px; opacity: 0.8 }",
        ".fabric path { fill: none; stroke-width: 2.5; stroke-linecap: round }",
        ".fabric .node { fill: Canvas; stroke: currentColor; stroke-width: 2 }",
        ".fabric .cloud { fill: currentColor }",
        *(
            f".fabric .{level} {{ stroke: {COLOURS[level]}"
            f"{f'; stroke-dasharray: {dashes}' if dashes else ''} }}"
            for level, dashes in DASHES.items()
        ),
        ".fabric .cross { stroke-dasharray: none }",
    ]
)
"""Light or dark as the page is."""

Point = tuple[float, float]


def svg(graph: Graph) -> str:
    """A document of its own."""
    style = f"<style>:root {{ color-scheme: light dark }}\n{STYLE}</style>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawing(graph, style)}\n'


def drawing(graph: Graph, style: str = "", middle: str = "") -> str:
    """An `svg` element for a page that has `STYLE`; `middle`: the node that stands there alone."""
    inside = {middle} if middle else {v.name for v in graph.vertices if v.role is Role.CLOUD}
    places, centre, (width, height) = _layout(graph.vertices, inside)
    kind = "fabric large" if width > LARGE else "fabric"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" '
            f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<title>{text(_summary(graph))}</title>",
            *([style] if style else []),
            *_lines(graph, places, inside, centre),
            *_nodes(graph, places, centre),
            *_legend(graph, width, height - FOOT),
            "</svg>",
        ]
    )


def text(value: str) -> str:
    """Text of an XML document: escaped, and without the characters that XML does not have."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value))


def _layout(
    vertices: Sequence[Vertex], inside: Collection[str]
) -> tuple[Mapping[str, Point], Point, Point]:
    """Where each node is, where the centre is, and the width and height that they need."""
    middle = [vertex.name for vertex in vertices if vertex.name in inside]
    around = [vertex.name for vertex in vertices if vertex.name not in inside]
    inner = 0.0 if len(middle) < 2 else max(INNER, len(middle) * SPACE / (2 * pi))
    outer = max(OUTER, inner + SPACE, len(around) * SPACE / (2 * pi)) if around else inner
    found = dict(_circle(middle, inner, TURN)) | dict(_circle(around, outer))
    across, down = zip((0.0, 0.0), *found.values(), strict=True)
    left, top = MARGIN - min(across), EDGE - min(down)
    size = max(across) + left + MARGIN, max(down) + top + EDGE + FOOT
    return {name: (x + left, y + top) for name, (x, y) in found.items()}, (left, top), size


def _circle(names: Sequence[str], radius: float, turn: float = 0.0) -> Iterator[tuple[str, Point]]:
    """Around the origin, beginning at the left, clockwise."""
    for number, name in enumerate(names):
        angle = pi + turn + 2 * pi * number / len(names)
        yield name, (radius * cos(angle), radius * sin(angle))


def _lines(
    graph: Graph, places: Mapping[str, Point], inside: Collection[str], middle: Point
) -> Iterator[str]:
    for arc in graph.arcs:
        start, end = places[arc.initiator], places[arc.responder]
        bend = 0.0 if arc.initiator in inside or arc.responder in inside else BEND
        (x1, y1), (x, y), (x2, y2) = start, _between(start, end, middle, 2 * bend), end
        way = f"M {x1:.1f} {y1:.1f} Q {x:.1f} {y:.1f} {x2:.1f} {y2:.1f}"
        yield f'<path class="{arc.level}" d="{way}"><title>{text(str(arc))}</title></path>'
        x, y = _between(start, end, middle, bend)
        if arc.level in CROSSED:
            yield f'<path class="{arc.level} cross" d="{_cross(x, y)}"/>'
        if arc.level in WORDED:
            yield f'<text class="small" x="{x:.1f}" y="{y - 9:.1f}">{arc.level}</text>'


def _cross(x: float, y: float) -> str:
    return f"M {x - 5:.1f} {y - 5:.1f} l 10 10 m -10 0 l 10 -10"


def _between(start: Point, end: Point, middle: Point, bend: float) -> Point:
    """The point half-way, moved aside by `bend` times the distance, away from the middle."""
    (x1, y1), (x2, y2) = start, end
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    aside_x, aside_y = bend * (y1 - y2), bend * (x2 - x1)
    outward = 1 if aside_x * (x - middle[0]) + aside_y * (y - middle[1]) > 0 else -1
    return x + outward * aside_x, y + outward * aside_y


def _nodes(graph: Graph, places: Mapping[str, Point], centre: Point) -> Iterator[str]:
    for vertex in graph.vertices:
        x, y = places[vertex.name]
        kind = "node cloud" if vertex.role is Role.CLOUD else "node"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        words = [vertex.name, ", ".join(vertex.subnets), ", ".join(vertex.communities)]
        lines = [line for line in words if line]
        # Away from the centre, where the tunnels are.
        top = y - RADIUS - 13 * len(lines) + 6 if y < centre[1] - 1 else y + RADIUS + 16
        for number, line in enumerate(lines):
            kind, at = ' class="small"' if number else "", top + 13 * number
            yield f'<text{kind} x="{x:.1f}" y="{at:.1f}">{text(_short(line))}</text>'


def _legend(graph: Graph, width: float, top: float) -> Iterator[str]:
    levels = [level for level in Level if any(arc.level is level for arc in graph.arcs)]
    step = width / (len(levels) + 1)
    for number, level in enumerate(levels, 1):
        x, y = number * step, top + 6
        yield f'<path class="{level}" d="M {x - 18:.1f} {y:.1f} h 36"/>'
        if level in CROSSED:
            yield f'<path class="{level} cross" d="{_cross(x, y)}"/>'
        yield f'<text class="small" x="{x:.1f}" y="{y + 15:.1f}">{level}</text>'


def _summary(graph: Graph) -> str:
    up = sum(arc.level in {Level.UP, Level.STANDBY} for arc in graph.arcs)
    return f"{len(graph.vertices)} nodes, {up} of {len(graph.arcs)} tunnels up"


def _short(line: str) -> str:
    return line if len(line) <= 24 else f"{line[:23]}\N{HORIZONTAL ELLIPSIS}"
