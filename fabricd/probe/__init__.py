"""Looking at one node to say why two pods can or cannot talk: facts in, no judgement.

Stands beside the daemon and works without it: the kernel is asked by netlink, iproute2 and nft,
charon over VICI, the other nodes by what they publish in the store, the path by ICMP echo.
Nothing is changed. What is found is `core.facts`; `core.explain` judges it.

Nothing is imported here: `charon_files` is for a program that has no time for the rest.
"""
