"""Sphinx's settings: `make docs` builds the site, `make man` the man pages.

Everything comes from this checkout: no page asks another host for anything.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from fabricd import __version__  # noqa: E402  # the path comes first

project = "fabricd"
author = "The fabricd authors"
copyright = "the fabricd authors; Apache License 2.0"  # noqa: A001  # Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx_click", "fabricd_docs"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
nitpicky = True
smartquotes = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"fabricd {release}"
html_show_sphinx = False
html_copy_source = False
pygments_style = "tango"
pygments_dark_style = "monokai"

man_pages = [
    ("reference/fabricd", "fabricd", "keep one node's part of an IPsec fabric", "", 8),
    ("reference/fabricctl", "fabricctl", "see and steer fabricd", "", 1),
    ("reference/config", "fabricd.toml", "configuration of fabricd", "", 5),
]
man_show_urls = False
