"""The fabric's topology as one value, and its projections for Graphviz, Mermaid and programs.

Everything is sorted: the same records and states give the same text. `core.svg` draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from fabricd.core.facts import NodeView, PeerView
from fabricd.core.index import Index
from fabricd.core.topology import Peering, peerings
from fabricd.model import Community, Node, Prefix, Role


class Level(StrEnum):
    """How a tunnel is, the best first."""

    UP = "up"
    STANDBY = "standby"
    """Its IKE_SA stands, another gateway carries the traffic."""
    UNKNOWN = "unknown"
    PARTIAL = "partial"
    """Some of its CHILD_SAs are missing."""
    DOWN = "down"
    IMPOSSIBLE = "impossible"
    """The records allow none."""


COLOURS: Final = {
    Level.UP: "#2e8b57",
    Level.STANDBY: "#3b7dd8",
    Level.UNKNOWN: "#8a8f98",
    Level.PARTIAL: "#b87a00",
    Level.DOWN: "#d13438",
    Level.IMPOSSIBLE: "#b03a8c",
}
"""Each with a contrast of 3:1 at least to white and to a dark page (WCAG 2.2, 1.4.11)."""

SOLID: Final = frozenset({Level.UP, Level.PARTIAL, Level.DOWN})
"""The others are dashed."""


@dataclass(frozen=True, slots=True, order=True)
class Vertex:
    """A node."""

    name: str
    role: Role
    subnets: tuple[Prefix, ...] = ()
    communities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Arc:
    """A tunnel, from the node that initiates to the one that responds."""

    initiator: str
    responder: str
    communities: tuple[str, ...] = ()
    """Those that make it; none between an edge and a gateway."""
    level: Level = Level.UNKNOWN
    reason: str = ""
    """Why it is not up, as far as one of the two says."""

    def __str__(self) -> str:
        because = f" ({', '.join(self.communities)})" if self.communities else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.initiator} to {self.responder}{because}: {self.level}{reason}"


@dataclass(frozen=True, slots=True)
class Graph:
    """All of it, sorted."""

    vertices: tuple[Vertex, ...]
    arcs: tuple[Arc, ...]


def graph(
    nodes: Mapping[str, Node],
    communities: Mapping[str, Community],
    views: Mapping[str, NodeView],
) -> Graph:
    """The topology of these records; `views`: what nodes say of their tunnels."""
    index = Index.of(nodes, communities)
    vertices = (
        Vertex(node.name, node.role, node.subnets, tuple(sorted(index.tokens(node))))
        for node in nodes.values()
    )
    arcs = (
        _arc(node, peering, views)
        for node in nodes.values()
        for peering in peerings(node, index)
        if peering.initiate  # of two peers exactly one does
    )
    return Graph(tuple(sorted(vertices)), tuple(sorted(arcs)))


def _arc(node: Node, peering: Peering, views: Mapping[str, NodeView]) -> Arc:
    peer = peering.peer.name
    if peering.obstacle:
        return Arc(node.name, peer, peering.because, Level.IMPOSSIBLE, peering.obstacle)
    said = [
        view.peers[other]
        for name, other in ((node.name, peer), (peer, node.name))
        if (view := views.get(name)) is not None and other in view.peers
    ]
    if not said:
        return Arc(node.name, peer, peering.because)
    worst = max(said, key=lambda view: list(Level).index(level_of(view)))
    return Arc(node.name, peer, peering.because, level_of(worst), worst.reason)


def level_of(view: PeerView) -> Level:
    """The state of a tunnel as one end says it."""
    if view.up:
        return Level.STANDBY if view.state == "standby" else Level.UP
    if view.state in {Level.PARTIAL, Level.IMPOSSIBLE, Level.UNKNOWN}:
        return Level(view.state)
    return Level.DOWN


# ---------------------------------------------------------------- Graphviz


def dot(found: Graph) -> str:
    """The graph in the DOT language; arrows go from the initiator."""
    lines = [
        "digraph fabric {",
        '  graph [layout=neato, overlap=false, splines=true, label="fabric"];',
        '  node [fontname="sans-serif", fontsize=10, shape=box, style=rounded];',
        '  edge [fontname="sans-serif", fontsize=9];',
    ]
    for vertex in found.vertices:
        label = _dot(_label(vertex))
        shape = ", shape=box3d, style=solid" if vertex.role is Role.CLOUD else ""
        lines.append(f"  {_dot([vertex.name])} [label={label}{shape}];")
    for arc in found.arcs:
        style = "solid" if arc.level in SOLID else "dashed"
        lines.append(
            f"  {_dot([arc.initiator])} -> {_dot([arc.responder])} "
            f'[color="{COLOURS[arc.level]}", style={style}, label={_dot([_caption(arc)])},\n'
            f"    tooltip={_dot([str(arc)])}];"
        )
    return "\n".join([*lines, "}", ""])


def _dot(lines: Iterable[str]) -> str:
    """A quoted string of DOT, of several lines."""
    escaped = (_plain(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


# ---------------------------------------------------------------- Mermaid


def mermaid(found: Graph) -> str:
    """The graph as a Mermaid flowchart."""
    ids = {vertex.name: f"n{number}" for number, vertex in enumerate(found.vertices)}
    lines = ["flowchart LR"]
    for vertex in found.vertices:
        label = "<br/>".join(_mermaid(line) for line in _label(vertex))
        left, right = ("[[", "]]") if vertex.role is Role.CLOUD else ("(", ")")
        lines.append(f'  {ids[vertex.name]}{left}"{label}"{right}')
    for arc in found.arcs:
        arrow = "-->" if arc.level in SOLID else "-.->"
        ends = ids[arc.initiator], ids[arc.responder]
        lines.append(f'  {ends[0]} {arrow}|"{_mermaid(_caption(arc))}"| {ends[1]}')
    lines += [
        f"  linkStyle {number} stroke:{COLOURS[arc.level]}" for number, arc in enumerate(found.arcs)
    ]
    return "\n".join([*lines, ""])


def _mermaid(text: str) -> str:
    """Text inside quotes; entity codes of Mermaid are `#NN;`."""
    return "".join(c if c.isalnum() or c in " .,:/-_" else f"#{ord(c)};" for c in _plain(text))


# ---------------------------------------------------------------- JSON


def graph_document(found: Graph) -> dict[str, list[dict[str, Any]]]:
    """The graph as a document: `{"nodes": [{"name", …}], "tunnels": [{"initiator", …}]}`."""
    return {
        "nodes": [
            {
                "name": vertex.name,
                "role": vertex.role.value,
                "subnets": list(vertex.subnets),
                "communities": list(vertex.communities),
            }
            for vertex in found.vertices
        ],
        "tunnels": [
            {
                "initiator": arc.initiator,
                "responder": arc.responder,
                "communities": list(arc.communities),
                "state": arc.level.value,
                "reason": arc.reason,
            }
            for arc in found.arcs
        ],
    }


# ---------------------------------------------------------------- words


def _label(vertex: Vertex) -> list[str]:
    lines = [vertex.name, vertex.role.value, ", ".join(vertex.subnets)]
    return [line for line in (*lines, ", ".join(vertex.communities)) if line]


def _caption(arc: Arc) -> str:
    return ", ".join([*arc.communities, arc.level.value])


def _plain(text: str) -> str:
    """On one line, without what is not to be seen."""
    return "".join(c if c.isprintable() else " " for c in text)
