"""JSON nested too deep: only what is too deep is lost."""

from __future__ import annotations

import json

import msgspec
import pytest

from fabricd.sources.pruned import DEPTH, pruned


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a": [1, {"b": 2}], "c": "]}"}', '{"a": [1, null], "c": "]}"}'),
        ('[[], [[]], "[[[", "\\"[[["]', '[[], [null], "[[[", "\\"[[["]'),
        ('{"a": [[[[]], {}]], "b": [1]}', '{"a": [null], "b": [1]}'),
        ("[]", "[]"),
        ("3", "3"),
    ],
)
def test_what_is_nested_deeper_than_two_levels_is_null(text: str, left: str) -> None:
    assert pruned(text.encode(), 2).decode() == left
    json.loads(left)


@pytest.mark.parametrize("text", ["[[[[", "]]]]", '["a', "[[[[]]", "{]", ""])
def test_what_is_no_json_stays_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own
        json.loads(pruned(text.encode(), 2))


def test_any_depth_can_be_read_afterwards() -> None:
    text = f'{{"items": [{nested(200_000)}, "fine"]}}'.encode()
    with pytest.raises(RecursionError):
        msgspec.json.decode(text)
    found = msgspec.json.decode(pruned(text))
    assert found["items"][1] == "fine"
    assert json.dumps(found).count("[") == DEPTH - 1
