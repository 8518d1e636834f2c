"""docs/fabric.svg: the fabric of contrib/records as `fabricctl graph -o svg` draws it, all well.

`make docs` draws it anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from fabricd.config import IkeSection
from fabricd.core.events import Listed
from fabricd.core.facts import NodeView, PeerView
from fabricd.core.graph import graph
from fabricd.core.index import Index
from fabricd.core.rib import Rib
from fabricd.core.svg import svg
from fabricd.core.topology import peerings
from fabricd.sources import DirStore

ROOT: Final = Path(__file__).parents[2]
RECORDS: Final = ROOT / "contrib/records"
PICTURE: Final = ROOT / "docs/fabric.svg"


def picture() -> str:
    """The drawing, an SVG document."""
    rib = Rib(IkeSection().identity)
    rib.apply(Listed(trio.run(DirStore(RECORDS).list)), now=0)
    records = rib.in_force()
    assert not records.rejected, records.rejected
    index = Index.of(records.nodes, records.communities)
    views = {
        node.name: NodeView(
            node.name,
            {
                peering.peer.name: PeerView(
                    peering.peer.name, up=True, state="standby" if peering.standby else "up"
                )
                for peering in peerings(node, index)
            },
        )
        for node in records.nodes.values()
    }
    return svg(graph(records.nodes, records.communities, views))


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
