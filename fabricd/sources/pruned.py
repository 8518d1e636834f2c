"""JSON without what is nested too deep to be read.

In a list of objects one that anybody may have written must not keep the others from being read.
"""

from __future__ import annotations

import re
from typing import Final

DEPTH: Final = 64
"""Brackets inside brackets; what Kubernetes' objects and lists need is a quarter of that."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}]', re.DOTALL)
"""Strings, in which brackets mean nothing, and brackets (RFC 8259, sections 2 and 7)."""


def pruned(data: bytes, depth: int = DEPTH) -> bytes:
    """The same with `null` for each value that begins deeper. What is no JSON stays so."""
    kept: list[bytes] = []
    level = start = 0
    for token in _TOKEN.finditer(data):
        match token[0]:
            case b"[" | b"{":
                level += 1
                if level == depth + 1:
                    kept.append(data[start : token.start()])
            case b"]" | b"}":
                if level == depth + 1:
                    kept.append(b"null")
                    start = token.end()
                level -= 1
    if level > depth:  # it ends in there
        return b"".join(kept)
    kept.append(data[start:])
    return b"".join(kept)
