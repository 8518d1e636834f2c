"""Counts the instructions that code takes: a cost that is the same in every run, however busy the
machine is. What C code does in one of them counts as one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


@dataclass
class Count:
    """So far."""

    number: int = 0


@contextmanager
def counted(*packages: ModuleType) -> Iterator[Count]:
    """Of what this thread runs of these packages meanwhile, in all its tasks."""
    folders = tuple(str(Path(str(package.__file__)).parent) for package in packages)
    count = Count()

    def instruction(_frame: FrameType, event: str, _argument: Any) -> Any:
        count.number += event == "opcode"
        return instruction

    def call(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(folders):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return instruction

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield count
    finally:
        sys.settrace(before)
