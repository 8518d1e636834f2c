"""Desired against observed, whatever the keys and values are."""

from __future__ import annotations

from fabricd.core.diff import Delta, diff


def test_missing_different_surplus() -> None:
    delta = diff({"same": 1, "other": 2, "new": 3}, {"old": 9, "other": 8, "same": 1})
    assert delta == Delta(missing=(3,), different=((8, 2),), surplus=(9,))


def test_nothing_to_do() -> None:
    assert diff({"a": 1, "b": 2}, {"b": 2, "a": 1}) == Delta((), (), ())
    assert diff({}, {}) == Delta((), (), ())


def test_the_order_is_that_of_the_mappings() -> None:
    assert diff({"z": 1, "a": 2}, {}).missing == (1, 2)
    assert diff({}, {"z": 1, "a": 2}).surplus == (1, 2)
