"""The status document as it is published: a store takes no value of any length.

What is said first of all is what is wrong. So lists of faults are cut, and then of the peers those
that are up are told in few words, as few as the other nodes' `fabricctl why` and `graph` need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

ENTRIES: Final = 100
"""Entries of each list of faults."""

LIST: Final = 96 << 10
"""Octets of each list of faults."""

ROOMY: Final = 512 << 10
"""Octets of a document in which all is told of all peers: it is written anew with each change."""

MOST: Final = 1 << 20
"""Octets of a document. etcd takes requests of 1.5 MiB, and so do the servers of Kubernetes, whose
objects have more to them than the document."""

Peer = Mapping[str, Any]
Telling = Callable[[Peer], Peer]


def abridged(status: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document is published; its warnings say what is left out."""
    result = dict(status)
    notes: list[str] = []
    for name in ("warnings", "rejected", "held"):
        result[name] = _fitting(status[name][:ENTRIES], LIST)
        if more := len(status[name]) - len(result[name]):
            notes.append(f"{name}: {more} more are not shown here")
    faults = result["warnings"]
    for up, others, limit in STEPS:
        peers = [(up if peer["up"] else others)(peer) for peer in status["peers"]]
        said = [*faults, *notes, *_of_peers(up, others)]
        result |= {"warnings": said, "peers": peers}
        if _size(result) <= limit:
            return result
    room = MOST - _size(result | {"peers": []}) - _MARGIN
    kept = _fitting(peers, room, last=itemgetter("up"))
    more = len(peers) - len(kept)
    said.append(f"peers: {more} more are not shown here, those that are up before the others")
    return result | {"peers": kept}


# ---------------------------------------------------------------- peers


def _whole(peer: Peer) -> Peer:
    return peer


def _short(peer: Peer) -> Peer:
    """All that is read of the document of another node."""
    told = {name: peer[name] for name in ("name", "role", "up", "state", "reason", "last_error")}
    seen = peer["certificate"]
    certificate = seen and {name: seen[name] for name in ("not_after", "subnets")}
    return {**told, "certificate": certificate}


def _least(peer: Peer) -> Peer:
    return {name: peer[name] for name in ("name", "up", "state")}


STEPS: Final[tuple[tuple[Telling, Telling, int], ...]] = (
    (_whole, _whole, ROOMY),
    (_short, _whole, ROOMY),
    (_least, _whole, MOST),
    (_least, _short, MOST),
    (_least, _least, MOST),
)
"""How peers that are up are told and how the others, and how large the document may be with that;
the first that fits is taken."""


def _of_peers(up: Telling, others: Telling) -> Iterable[str]:
    which = "of those that are up not all" if others is _whole else "of none all"
    if up is not _whole:
        yield f"peers: {which} is shown here; see fabricctl status on this node"


# ---------------------------------------------------------------- room

_MARGIN: Final = 256
"""Octets for one more warning."""


def _fitting(items: Sequence[Any], room: int, last: Callable[[Any], Any] = bool) -> list[Any]:
    """As many of the items as there is room for, those that come `last` after the others."""
    kept = set()
    for place in sorted(range(len(items)), key=lambda place: bool(last(items[place]))):
        size = _size(items[place]) + len(",")
        if size <= room:
            kept.add(place)
            room -= size
    return [item for place, item in enumerate(items) if place in kept]


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))
