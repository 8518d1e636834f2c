"""Which failures get a second try."""

from __future__ import annotations

import pytest

from tests.again import MOST, objection

LAB = "tests/lab/test_fabric.py::test_c1"


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        ([LAB], ""),
        ([LAB, "tests/kernel/test_ipip.py::test_a[x y]"], ""),
        ([f"{LAB}[{number}]" for number in range(MOST)], ""),
        ([], "no test is known to have failed"),
        (["tests/unit/test_log.py::test_a", LAB], "tests/unit/test_log.py: the same wherever"),
        ([f"{LAB}[{number}]" for number in range(MOST + 1)], "9 tests in 1 files are too many"),
        ([f"tests/lab/test_{name}.py::test" for name in "abc"], "3 tests in 3 files are too many"),
    ],
)
def test_a_second_try_is_for_few_tests_that_need_machines(failed: list[str], why: str) -> None:
    assert objection(failed).startswith(why)
    assert bool(objection(failed)) == bool(why)
