"""Which store a config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fabricd.config import parse
from fabricd.daemon.store import open_store
from fabricd.sources import DirStore, EtcdStore


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"type": "dir", "path": "/etc/fabricd/records"}, DirStore),
        ({}, EtcdStore),
        ({"endpoints": ["https://[fd00::1]:2379"], "ca": "/ca.crt"}, EtcdStore),
    ],
)
def test_the_store_that_is_named(section: dict[str, Any], kind: type) -> None:
    assert type(open_store(parse({"store": section}, Path("fabricd.toml")))) is kind
