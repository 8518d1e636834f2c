"""The service's unit, judged by systemd itself."""

from __future__ import annotations

import re

from lab.debian import CHECKOUT
from lab.process import command

UNIT = CHECKOUT / "systemd/fabricd.service"


def test_its_exposure_is_under_1_5() -> None:
    said = command("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    [level] = re.findall(r"Overall exposure level for fabricd\.service: (\d+\.\d)", said)
    assert float(level) < 1.5, said
