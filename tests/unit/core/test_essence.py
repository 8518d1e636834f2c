"""What of a status document is news."""

from __future__ import annotations

from typing import Any

import pytest

from fabricd.core.essence import essence

PEER = {
    "name": "edge3",
    "up": True,
    "state": "up",
    "reason": "",
    "remote": "10.0.0.3",
    "certificate": {"serial": "01", "not_after": 1},
    "bytes_in": 1,
    "age": 1,
}
STATUS: dict[str, Any] = {
    "time": 1,
    "role": "edge",
    "version": "1",
    "synced": True,
    "rejected": [],
    "held": [],
    "warnings": [],
    **{part: {"reason": ""} for part in ("source", "kernel", "charon")},
}


def of(**changed: object) -> Any:
    return essence({**STATUS, "peers": [PEER | changed]})


@pytest.mark.parametrize(
    ("changed", "news"),
    [
        ({"bytes_in": 2, "age": 2}, False),
        ({"up": False}, True),
        ({"remote": "10.0.0.33"}, True),
        ({"certificate": {"serial": "02", "not_after": 2}}, True),
        ({"certificate": None}, True),
    ],
)
def test_what_is_news_of_a_peer(changed: dict[str, object], news: bool) -> None:
    assert (of(**changed) != of()) == news
