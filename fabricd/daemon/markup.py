"""HTML that can't be broken by what is put into it: elements are made by `tag`, text is escaped.

What `tag` returns is an Html and goes into another element as it is; every other string is
text. So names and reasons out of records, which others write, stay text wherever they stand.
"""

from __future__ import annotations

from html import escape
from typing import Final

from fabricd.core.svg import text

VOID: Final = frozenset({"meta", "link", "br"})
"""Elements without an end tag (HTML, 13.1.2)."""


class Html(str):
    """HTML that is right: `tag` takes it as it is."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str) -> Html:
    """An element. A trailing or inner underscore in an attribute's name stands for `-` or nothing:
    `class_`, `http_equiv`.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{words}>")
    inside = "".join(part if isinstance(part, Html) else text(part) for part in content)
    return Html(f"<{name}{words}>{inside}</{name}>")
