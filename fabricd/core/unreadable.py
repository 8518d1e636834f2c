"""What msgspec raises for a text that is not what was expected."""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""It is wrong, no UTF-8, or nested deeper than Python's stack goes."""
