"""What takes its time says so: to people, and without leaving anything behind."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from fabricd.cli import progress
from fabricd.cli.progress import working

BOUND = 20


class Stderr(io.StringIO):
    """stderr, be it a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self.written = threading.Event()

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_a_person_who_waits_is_told_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with working("asking the store"):
        assert stderr.written.wait(BOUND)
    assert stderr.getvalue().startswith("\rasking the store … 0 s")
    assert stderr.getvalue().endswith("\r\x1b[K"), "the line is clean again"


def test_what_is_quick_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    with working("asking the store"):
        pass
    assert stderr.getvalue() == ""


def test_a_program_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    before = threading.active_count()
    with working("asking the store"):
        assert threading.active_count() == before
    assert stderr.getvalue() == ""


def test_a_failure_leaves_a_clean_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "PATIENCE", 0.01)

    def interrupted() -> None:
        with working("asking the store"):
            assert stderr.written.wait(BOUND)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stderr.getvalue().endswith("\r\x1b[K")
