"""Log lines: JSON for machines, colours for people."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from fabricd import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object() -> None:
    out = io.StringIO()
    log.configure(out)
    structlog.get_logger().warning("source lost", reason="no answer\nat all", nodes=3)
    [line] = lines(out)
    assert line["event"] == "source lost"
    assert line["level"] == "warning"
    assert line["reason"] == "no answer\nat all"
    assert line["nodes"] == 3
    assert line["timestamp"].endswith("Z")


def test_what_json_does_not_know_is_shown_as_it_is() -> None:
    out = io.StringIO()
    log.configure(out)
    structlog.get_logger().info("action", item=frozenset({1}))
    assert lines(out)[0]["item"] == "frozenset({1})"


def test_a_traceback_is_part_of_its_line() -> None:
    out = io.StringIO()
    log.configure(out)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("crash")
    [line] = lines(out)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert line["exception"][0]["exc_value"] == "boom"


def test_debug_lines_only_when_asked_for() -> None:
    quiet, loud = io.StringIO(), io.StringIO()
    log.configure(quiet)
    structlog.get_logger().debug("detail")
    log.configure(loud, debug=True)
    structlog.get_logger().debug("detail")
    assert quiet.getvalue() == ""
    assert lines(loud)[0]["event"] == "detail"


def test_people_get_words_and_colours() -> None:
    out = Terminal()
    log.configure(out)
    structlog.get_logger().info("source in sync", records=3)
    assert "source in sync" in out.getvalue()
    assert "\x1b[" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    structlog.get_logger().info("starting")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "starting"
