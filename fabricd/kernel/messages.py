"""pyroute2's message classes, without the rest of pyroute2.

Importing any module of that package runs its `__init__`, which loads its database, sqlite,
ethtool and a dozen protocols that a daemon with two kinds of messages has no use for: 8 MB and
a tenth of a second on every edge. A bare package object in its place, with the same search path,
leaves the modules below it as they are and runs only those that are asked for.

In a process that has imported pyroute2 already, that one is used.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType


def _import_bare(name: str) -> None:
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"the package {name} is not installed")
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[name] = package


_import_bare("pyroute2")

from pyroute2.netlink.rtnl.fibmsg import fibmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402

__all__ = ["fibmsg", "ifaddrmsg"]
