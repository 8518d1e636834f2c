"""What a page of the documentation tells its reader to type."""

from __future__ import annotations

import re

from lab.debian import CHECKOUT


def commands(page: str, heading: str) -> list[str]:
    """The blocks marked `sh` under a heading, down to the next one; KeyError: none are there."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        found: list[str] = re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
        if title == heading and found:
            return found
    raise KeyError(f"{page}: no commands under {heading!r}")
