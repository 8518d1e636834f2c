"""Each surface with its samples, with what was found to break it once, and with some hundred inputs
that hypothesis makes up. `make fuzz` looks for longer, and looks where it gets to.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Target, bounded
from tests.fuzz.targets import TARGETS

REGRESSIONS = Path(__file__).with_name("regressions")

targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Anything; and samples with something cut out, put in or overwritten."""
    samples = list(target.seeds())
    pieces = st.one_of(st.binary(max_size=8), st.sampled_from([*target.words, *samples, b""]))
    changes = st.tuples(st.integers(0, 1 << 16), st.integers(0, 40), pieces)
    changed = st.builds(_changed, st.sampled_from(samples), st.lists(changes, max_size=4))
    return st.one_of(st.binary(max_size=200), changed)


def _changed(sample: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, piece in changes:
        at = start % (len(sample) + 1)
        sample = sample[:at] + piece + sample[at + length :]
    return sample


@targets
def test_samples_are_taken(target: Target) -> None:
    samples = list(target.seeds())
    assert samples
    with bounded():
        for sample in samples:
            said = target.feed(sample)  # no rejection at all
            assert said is not None


@targets
def test_nothing_but_clean_rejections(target: Target) -> None:
    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(inputs(target))
    def check(data: bytes) -> None:
        with bounded():
            target.check(data)

    check()


FOUND = sorted(path.relative_to(REGRESSIONS) for path in REGRESSIONS.glob("*/*"))


@pytest.mark.parametrize("found", FOUND, ids=str)
def test_what_broke_it_once(found: Path) -> None:
    with bounded():
        TARGETS[found.parent.name].check((REGRESSIONS / found).read_bytes())
