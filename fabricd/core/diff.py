"""Desired against observed, generic over keys and values; equality is the values' own ==."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[V]):
    """What has to happen to `observed` to become `desired`."""

    missing: tuple[V, ...]
    """Desired, not there."""
    different: tuple[tuple[V, V], ...]
    """There, but not as desired: observed value, desired value."""
    surplus: tuple[V, ...]
    """There, not desired."""


def diff(desired: Mapping[K, V], observed: Mapping[K, V]) -> Delta[V]:
    """Compare two mappings key by key; the order is that of the mappings."""
    return Delta(
        missing=tuple(v for k, v in desired.items() if k not in observed),
        different=tuple(
            (observed[k], v) for k, v in desired.items() if k in observed and observed[k] != v
        ),
        surplus=tuple(v for k, v in observed.items() if k not in desired),
    )
