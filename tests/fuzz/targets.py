"""All surfaces, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.fuzz import charon, cni, kernel, kubernetes, nodes, operator, pki, web
from tests.fuzz.harness import Target

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for module in (operator, nodes, charon, kernel, web, kubernetes, pki, cni)
    for target in module.TARGETS
}
