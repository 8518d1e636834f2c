"""The fabric as one value, and as DOT, Mermaid and SVG: sorted, and nothing breaks out."""

from __future__ import annotations

import random
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from fabricd.core.facts import NodeView, PeerView
from fabricd.core.graph import COLOURS, Arc, Graph, Level, Vertex, dot, graph, mermaid
from fabricd.core.svg import drawing, svg
from fabricd.model import Community, Node, Prefix, Role
from tests.unit.core.test_topology import edge, gateway

NODES = (
    edge("edge1", "a"),
    edge("edge2", "a", "b"),
    edge("edge3", endpoint=None),
    gateway("gw"),
)


def view(node: str, **peers: tuple[bool, str, str]) -> NodeView:
    """`peer=(up, state, reason)`."""
    return NodeView(node, {name: PeerView(name, *said) for name, said in peers.items()})


UP = (True, "up", "")


def graph_of(*views: NodeView, nodes: tuple[Node, ...] = NODES, **members: list[str]) -> Graph:
    return graph(
        {node.name: node for node in nodes},
        {name: Community(name, frozenset(listed)) for name, listed in members.items()},
        {each.node: each for each in views},
    )


def arcs(found: Graph) -> list[str]:
    return [str(arc) for arc in found.arcs]


# ---------------------------------------------------------------- the value


def test_nodes_and_tunnels_from_the_records() -> None:
    found = graph_of(b=["edge3"])
    assert [(v.name, v.communities) for v in found.vertices] == [
        ("edge1", ("a",)),
        ("edge2", ("a", "b")),
        ("edge3", ("b",)),
        ("gw", ()),
    ]
    assert arcs(found) == [
        "edge1 to edge2 (a): unknown",
        "edge1 to gw: unknown",
        "edge2 to gw: unknown",
        "edge3 to edge2 (b): unknown",
        "edge3 to gw: unknown",
    ]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        (UP, UP, Level.UP),
        (UP, (False, "waiting", "late"), Level.DOWN),
        ((False, "partial", "late"), UP, Level.PARTIAL),
        ((False, "connecting", "late"), (False, "partial", ""), Level.DOWN),
        ((True, "standby", ""), UP, Level.STANDBY),
        ((False, "unknown", "late"), UP, Level.UNKNOWN),
        ((False, "standby", "late"), UP, Level.DOWN),
    ],
)
def test_the_worse_word_of_the_two_ends_counts(
    one: tuple[bool, str, str], other: tuple[bool, str, str], level: Level
) -> None:
    found = graph_of(view("edge1", edge2=one), view("edge2", edge1=other))
    assert found.arcs[0].level is level
    assert found.arcs[0].reason in {"", "late"}


def test_one_end_that_says_something_is_enough() -> None:
    assert graph_of(view("edge2", edge1=UP)).arcs[0].level is Level.UP


def test_what_the_records_make_impossible() -> None:
    found = graph_of(nodes=(edge("edge1", "a", endpoint=None), edge("edge2", "a", endpoint=None)))
    assert arcs(found) == [
        "edge1 to edge2 (a): impossible: neither edge1 nor edge2 has an endpoint"
    ]


def test_the_order_of_the_records_changes_nothing() -> None:
    shuffled = list(NODES)
    random.Random(1).shuffle(shuffled)
    for form in (dot, mermaid, svg):
        assert form(graph_of(nodes=tuple(shuffled))) == form(graph_of())


# ---------------------------------------------------------------- DOT


def test_dot() -> None:
    assert (
        dot(graph_of(view("edge1", edge2=UP, gw=(False, "connecting", "no answer"))))
        == """\
digraph fabric {
  graph [layout=neato, overlap=false, splines=true, label="fabric"];
  node [fontname="sans-serif", fontsize=10, shape=box, style=rounded];
  edge [fontname="sans-serif", fontsize=9];
  "edge1" [label="edge1\\nedge\\n2.2.1.0/27\\na"];
  "edge2" [label="edge2\\nedge\\n2.2.2.0/27\\na, b"];
  "edge3" [label="edge3\\nedge\\n2.2.3.0/27"];
  "gw" [label="gw\\ncloud\\n10.233.0.0/16", shape=box3d, style=solid];
  "edge1" -> "edge2" [color="#2e8b57", style=solid, label="a, up",
    tooltip="edge1 to edge2 (a): up"];
  "edge1" -> "gw" [color="#d13438", style=solid, label="down",
    tooltip="edge1 to gw: down: no answer"];
  "edge2" -> "gw" [color="#8a8f98", style=dashed, label="unknown",
    tooltip="edge2 to gw: unknown"];
  "edge3" -> "gw" [color="#8a8f98", style=dashed, label="unknown",
    tooltip="edge3 to gw: unknown"];
}
"""
    )


# ---------------------------------------------------------------- Mermaid


def test_mermaid() -> None:
    assert (
        mermaid(graph_of(view("edge1", edge2=UP), nodes=NODES[:2]))
        == """\
flowchart LR
  n0("edge1<br/>edge<br/>2.2.1.0/27<br/>a")
  n1("edge2<br/>edge<br/>2.2.2.0/27<br/>a, b")
  n0 -->|"a, up"| n1
  linkStyle 0 stroke:#2e8b57
"""
    )


# ---------------------------------------------------------------- SVG


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)


def classes(root: ET.Element) -> list[str]:
    return [each.get("class", "") for each in root.iter() if each.tag.endswith("path")]


def test_svg_has_every_node_and_every_tunnel_in_its_state() -> None:
    root = parsed(svg(graph_of(view("edge1", edge2=UP, gw=(False, "partial", "slow")))))
    words = [each.text for each in root.iter() if each.tag.endswith("}text")]
    assert {"edge1", "edge2", "edge3", "gw", "2.2.1.0/27", "a, b"} <= set(words)
    assert classes(root)[:4] == ["up", "partial", "unknown", "unknown"]
    titles = [each.text for each in root.iter() if each.tag.endswith("}title")]
    assert titles[:2] == ["4 nodes, 1 of 4 tunnels up", "edge1 to edge2 (a): up"]
    assert words.count("partial") == 2, "on the line too: nobody has to tell it by its colour"


@pytest.mark.parametrize("edges", [0, 1, 2, 3, 60])
@pytest.mark.parametrize("gateways", [0, 1, 2, 9])
def test_no_two_nodes_are_in_one_place_and_all_are_in_the_picture(
    edges: int, gateways: int
) -> None:
    nodes = [Vertex(f"e{n}", Role.EDGE) for n in range(edges)]
    nodes += [Vertex(f"g{n}", Role.CLOUD) for n in range(gateways)]
    root = parsed(drawing(Graph(tuple(nodes), ())))
    width, height = map(float, root.get("viewBox", "").split()[2:])
    places = [
        (float(each.get("cx", "")), float(each.get("cy", "")))
        for each in root
        if each.tag.endswith("circle")
    ]
    assert len(set(places)) == edges + gateways
    assert all(20 < x < width - 20 and 20 < y < height - 20 for x, y in places)
    for x, y in places:
        near = [p for p in places if p != (x, y) and abs(p[0] - x) + abs(p[1] - y) < 40]
        assert near == []


def test_a_tunnel_between_edges_does_not_run_through_the_gateway() -> None:
    root = parsed(drawing(graph_of(nodes=(*NODES[:2], gateway("gw")))))
    [gate] = [c for c in root if c.get("class") == "node cloud"]
    [first, *_] = [p for p in root if p.tag.endswith("path")]
    numbers = [float(n) for n in re.findall(r"-?[0-9.]+", first.get("d", ""))]
    # The middle of a quadratic curve: half of its control point, a quarter of each end.
    y = (numbers[1] + 2 * numbers[3] + numbers[5]) / 4
    assert abs(y - float(gate.get("cy", ""))) > 30


# ---------------------------------------------------------------- hostile records

NASTY = "\"]; x -> y <script>alert('&')</script> \\n \x07 ]]> -->"


def hostile() -> Graph:
    """Not even the names are what the records' check lets pass."""
    one = Vertex(NASTY, Role.EDGE, (Prefix("2.2.2.0/27"),), (NASTY,))
    other = Vertex("edge2", Role.CLOUD)
    return Graph((other, one), (Arc(NASTY, "edge2", (NASTY,), Level.DOWN, NASTY),))


def test_nothing_breaks_out_of_a_string_of_dot() -> None:
    for line in dot(hostile()).splitlines()[4:-1]:
        bare = re.sub(r'"(\\.|[^"\\])*"', "", line)
        assert re.fullmatch(r"[\s\[\]=,;>a-z0-9-]*", bare), line
        assert line.isprintable()


def test_nothing_breaks_out_of_a_string_of_mermaid() -> None:
    for line in mermaid(hostile()).splitlines()[1:]:
        assert line.count('"') in {0, 2}
        assert "<script" not in line


def test_nothing_breaks_out_of_the_svg() -> None:
    root = parsed(svg(hostile()))
    tags: set[Any] = {each.tag.partition("}")[2] for each in root.iter()}
    assert tags == {"svg", "title", "style", "path", "text", "circle"}
    assert not any(key.startswith("on") for each in root.iter() for key in each.attrib)


def test_every_level_has_a_colour() -> None:
    assert set(COLOURS) == set(Level)
