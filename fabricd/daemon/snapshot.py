"""The last good records on disk, so that a node boots without its store.

One JSON file in `store.state_dir`, replaced atomically. Only records that were right are in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from fabricd import atomic
from fabricd.core.events import Put
from fabricd.core.unreadable import UNREADABLE

FILE: Final = "records.json"


class Line(msgspec.Struct, frozen=True):
    """One version of one record, as it is written to the file."""

    key: str
    value: str
    created: int = 0


def save(folder: Path, versions: Iterable[Put]) -> None:
    """Replace the snapshot; raises OSError. Blocks: call it in a thread."""
    lines = [Line(put.key, put.value.decode(), put.created) for put in versions]
    data = msgspec.json.format(msgspec.json.encode(lines), indent=1)
    atomic.write(folder / FILE, data)


def load(folder: Path) -> tuple[Put, ...]:
    """What `save` wrote; empty when there is no snapshot yet.

    Raises OSError when the file can't be read and ValueError when it is not a snapshot.
    """
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return ()
    try:
        lines = msgspec.json.decode(data, type=list[Line])
    except UNREADABLE as error:
        raise ValueError(f"{folder / FILE} is not a snapshot: {error}") from error
    return tuple(Put(line.key, line.value.encode(), line.created) for line in lines)
