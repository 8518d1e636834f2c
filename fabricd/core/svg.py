"""The topology drawn: gateways in the middle, edges around them, tunnels as lines.

A layout of its own, by arithmetic: no program is needed to draw, and the same graph gives the
same picture. Names come from records, which others write: every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import cos, pi, sin
from typing import Final

from fabricd.core.graph import COLOURS, SOLID, Graph, Level, Vertex
from fabricd.model import Role

SPACE: Final = 120
"""Units between two nodes on a circle."""
INNER: Final = 70
OUTER: Final = 170
"""The least radius of the circles."""
MARGIN: Final = 90
BEND: Final = 0.15
"""How far a tunnel between edges is bent around the gateways, of its length."""
RADIUS: Final = 9
"""Of a node."""
FOOT: Final = 34
"""Height of the legend."""

STYLE: Final = "\n".join(
    [
        ".fabric text { font: 12px system-ui, sans-serif; fill: currentColor }",
        ".fabric text { text-anchor: middle }",
        ".fabric .small { font-size: 10px; opacity: 0.75 }",
        ".fabric path { fill: none; stroke-width: 2.5 }",
        ".fabric .node { fill: Canvas; stroke: currentColor; stroke-width: 2 }",
        ".fabric .cloud { fill: currentColor }",
        *(
            f".fabric .{level} {{ stroke: {colour}"
            f"{'' if level in SOLID else '; stroke-dasharray: 6 4'} }}"
            for level, colour in COLOURS.items()
        ),
    ]
)
"""Light or dark as the page is."""

Point = tuple[float, float]


def svg(graph: Graph) -> str:
    """A document of its own."""
    style = f"<style>:root {{ color-scheme: light dark }}\n{STYLE}</style>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawing(graph, style)}\n'


def drawing(graph: Graph, style: str = "") -> str:
    """An `svg` element for a page that has `STYLE`."""
    places, size = _layout(graph.vertices)
    height = size + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="fabric" role="img" '
            f'viewBox="0 0 {size:.0f} {height:.0f}">',
            f"<title>{text(_summary(graph))}</title>",
            *([style] if style else []),
            *_lines(graph, places, size / 2),
            *_nodes(graph, places),
            *_legend(graph, size),
            "</svg>",
        ]
    )


def text(value: str) -> str:
    """Text of an XML document: escaped, and without the characters that XML does not have."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value))


def _layout(vertices: Sequence[Vertex]) -> tuple[Mapping[str, Point], float]:
    """Where each node is, and the side of the square that they need."""
    inside = [vertex.name for vertex in vertices if vertex.role is Role.CLOUD]
    around = [vertex.name for vertex in vertices if vertex.role is not Role.CLOUD]
    inner = 0.0 if len(inside) < 2 else max(INNER, len(inside) * SPACE / (2 * pi))
    outer = max(OUTER, inner + SPACE, len(around) * SPACE / (2 * pi)) if around else inner
    middle = outer + MARGIN
    places = dict(_circle(inside, inner, middle)) | dict(_circle(around, outer, middle))
    return places, 2 * middle


def _circle(names: Sequence[str], radius: float, middle: float) -> Iterator[tuple[str, Point]]:
    """Beginning at the left, clockwise."""
    for number, name in enumerate(names):
        angle = pi + 2 * pi * number / len(names)
        yield name, (middle + radius * cos(angle), middle + radius * sin(angle))


def _lines(graph: Graph, places: Mapping[str, Point], middle: float) -> Iterator[str]:
    inside = {vertex.name for vertex in graph.vertices if vertex.role is Role.CLOUD}
    for arc in graph.arcs:
        start, end = places[arc.initiator], places[arc.responder]
        bend = 0.0 if {arc.initiator, arc.responder} & inside else BEND
        (x1, y1), (x, y), (x2, y2) = start, _between(start, end, middle, 2 * bend), end
        way = f"M {x1:.1f} {y1:.1f} Q {x:.1f} {y:.1f} {x2:.1f} {y2:.1f}"
        yield f'<path class="{arc.level}" d="{way}"><title>{text(str(arc))}</title></path>'
        if arc.level not in {Level.UP, Level.STANDBY}:  # not to be told by colour alone
            x, y = _between(start, end, middle, bend)
            yield f'<text class="small" x="{x:.1f}" y="{y - 4:.1f}">{arc.level}</text>'


def _between(start: Point, end: Point, middle: float, bend: float) -> Point:
    """The point half-way, moved aside by `bend` times the distance, away from the middle."""
    (x1, y1), (x2, y2) = start, end
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    aside_x, aside_y = bend * (y1 - y2), bend * (x2 - x1)
    outward = 1 if aside_x * (x - middle) + aside_y * (y - middle) > 0 else -1
    return x + outward * aside_x, y + outward * aside_y


def _nodes(graph: Graph, places: Mapping[str, Point]) -> Iterator[str]:
    for vertex in graph.vertices:
        x, y = places[vertex.name]
        kind = "node cloud" if vertex.role is Role.CLOUD else "node"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        below = [vertex.name, ", ".join(vertex.subnets), ", ".join(vertex.communities)]
        for number, line in enumerate(filter(None, below)):
            small = ' class="small"' if number else ""
            dy = RADIUS + 16 + 13 * number
            yield f'<text{small} x="{x:.1f}" y="{y + dy:.1f}">{text(_short(line))}</text>'


def _legend(graph: Graph, size: float) -> Iterator[str]:
    levels = [level for level in Level if any(arc.level is level for arc in graph.arcs)]
    step = size / (len(levels) + 1)
    for number, level in enumerate(levels, 1):
        x, y = number * step, size + 6
        yield f'<path class="{level}" d="M {x - 18:.1f} {y:.1f} h 36"/>'
        yield f'<text class="small" x="{x:.1f}" y="{y + 15:.1f}">{level}</text>'


def _summary(graph: Graph) -> str:
    up = sum(arc.level in {Level.UP, Level.STANDBY} for arc in graph.arcs)
    return f"{len(graph.vertices)} nodes, {up} of {len(graph.arcs)} tunnels up"


def _short(line: str) -> str:
    return line if len(line) <= 24 else f"{line[:23]}\N{HORIZONTAL ELLIPSIS}"
