"""Looking at one node to say why two pods can or cannot talk: facts in, no judgement.

Stands beside the daemon and works without it: the kernel is asked by netlink, iproute2 and nft,
charon over VICI, the other nodes by what they publish in the store, the path by ICMP echo.
Nothing is changed. What is found is `core.facts`; `core.explain` judges it.
"""

from fabricd.probe.gather import gather
from fabricd.probe.records import Source, read_source

__all__ = ["Source", "gather", "read_source"]
