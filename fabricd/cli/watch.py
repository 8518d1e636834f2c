"""Looking at something again and again: redrawn in place on a terminal, elsewhere told when it
changes.

What is looked at, and how it looks, is the command's.
"""

from __future__ import annotations

import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import click

from fabricd.cli.options import Failed, printable, warn
from fabricd.cli.output import Document, coloured, on_terminal

PAUSE: Final = 2.0
"""Seconds between two looks."""

# Control sequences (ECMA-48; xterm's for the other screen and the cursor).
OTHER_SCREEN: Final = "\x1b[?1049h\x1b[?25l"
FIRST_SCREEN: Final = "\x1b[?25h\x1b[?1049l"
HOME: Final = "\x1b[H"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"


Look = Callable[[], Document]
Show = Callable[[Document], str]


def keep_looking(look: Look, show: Show, news: Callable[[Document], Any], between: str) -> None:
    """Until Ctrl-C, SIGTERM, or until nobody reads any more. Raises Failed if the first look fails.

    Where nothing can be redrawn, a document is told when that part of it has changed which is
    `news`, with `between` before all but the first.
    """
    # What SIGTERM ends has to put the terminal right, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if on_terminal():
            _redraw(look, show)
        else:
            _tell(look, show, news, between)
    except KeyboardInterrupt:
        return


def _tell(look: Look, show: Show, news: Callable[[Document], Any], between: str) -> None:
    document = look()
    told = news(document)
    click.echo(show(document))
    fault = ""
    while _pause():
        try:
            document = look()
        except Failed as error:
            if fault != "; ".join(error.faults):
                fault = "; ".join(error.faults)
                warn(f"{fault}; waiting for it")
            continue
        if fault:
            fault = ""
            warn("fabricd answers again")
        if news(document) != told:
            told = news(document)
            click.echo(between + show(document))


def _redraw(look: Look, show: Show) -> None:
    document = look()
    text, since, fault = show(document), "", ""
    with _screen():
        while True:
            head = coloured(f"no answer since {since}: {printable(fault)}", "red") if fault else ""
            _draw([*([head, ""] if head else []), *text.splitlines()])
            _pause()
            try:
                text, fault = show(look()), ""
            except Failed as error:
                since = since if fault else f"{datetime.now():%H:%M:%S}"
                fault = "; ".join(error.faults)


@contextmanager
def _screen() -> Iterator[None]:
    click.echo(OTHER_SCREEN, nl=False)
    try:
        yield
    finally:
        click.echo(FIRST_SCREEN, nl=False)


def _draw(lines: list[str]) -> None:
    """As many lines as there is room for; the last one says how many more there are."""
    room = shutil.get_terminal_size().lines
    if len(lines) > room:
        more = len(lines) - room + 1
        lines = [*lines[: room - 1], f"… {more} more lines: make the terminal larger, or look once"]
    # No line end after the last one: it would scroll.
    click.echo(HOME + f"{CLEAR_LINE}\n".join(lines) + CLEAR_LINE + CLEAR_BELOW, nl=False)


def _pause() -> bool:
    """Wait; False: whoever read stdout has gone."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # POLLERR and POLLHUP come unasked
    return not poll.poll(PAUSE * 1000)
