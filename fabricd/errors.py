"""Errors that are expected and retried. Everything else is a bug and ends the process."""

from __future__ import annotations


class Unavailable(Exception):
    """A part of the world that does not answer now: the store, the kernel, charon.

    `part` is `store`, `kernel` or `charon`; `reason` is one line for an operator: what was
    tried, where, and what to do about it.
    """

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason
