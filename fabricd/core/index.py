"""All records, as far as one node asks something of all of them: who is a gateway, who is in which
community, what lies outside of the fabric's networks. Kept up to date by what has changed, so that
a node pays for its peers and for the change, and not for how many others there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import compress
from operator import is_not
from typing import TypeVar

from fabricd.model import Community, Node, Prefix, Role, within

T = TypeVar("T")


class Index:
    """Of the records that `update` was told last."""

    def __init__(self, networks: Collection[Prefix]) -> None:
        """`networks`: the fabric's."""
        self._networks = networks
        self.nodes: Mapping[str, Node] = {}
        self._communities: Mapping[str, Community] = {}
        self._members: dict[str, set[str]] = {}
        """Names of nodes by the tokens of their own records."""
        self._listed: dict[str, set[str]] = {}
        """Communities that list a name, whether there is such a node or not."""
        self.gateways: dict[str, Node] = {}
        """By name."""
        self.strays: dict[str, tuple[Prefix, ...]] = {}
        """By node: its subnets outside of the fabric's networks, if it has any."""

    @classmethod
    def of(
        cls,
        nodes: Mapping[str, Node],
        communities: Mapping[str, Community],
        networks: Collection[Prefix] = (),
    ) -> Index:
        """Of these records, from scratch."""
        index = cls(networks)
        index.update(nodes, communities)
        return index

    def update(self, nodes: Mapping[str, Node], communities: Mapping[str, Community]) -> None:
        """These are in force now. Values are compared by identity: most are the same objects."""
        for name, node, new_node in _changes(self.nodes, nodes):
            self._change_node(name, node, new_node)
        for name, community, new_community in _changes(self._communities, communities):
            self._change_community(name, community, new_community)
        self.nodes, self._communities = nodes, communities

    def tokens(self, node: Node) -> frozenset[str]:
        """The communities that a node is in: those of its own record, and those that list it."""
        return node.communities.union(self._listed.get(node.name, ()))

    def peers(self, node: Node) -> Iterator[Node]:
        """Who may have something to do with a node: a gateway with every edge; an edge with every
        gateway, and with those that share a community with it.
        """
        if node.role is Role.CLOUD:
            yield from (other for other in self.nodes.values() if other.role is not Role.CLOUD)
            return
        yield from self.gateways.values()
        names: set[str] = set()
        for token in self.tokens(node):
            names |= self._members.get(token, set())
            if (community := self._communities.get(token)) is not None:
                names |= community.members & self.nodes.keys()
        names.discard(node.name)
        yield from (self.nodes[name] for name in names if name not in self.gateways)

    def _change_node(self, name: str, old: Node | None, new: Node | None) -> None:
        tokens = (node.communities if node is not None else () for node in (old, new))
        _move(self._members, name, *tokens)
        self.gateways.pop(name, None)
        self.strays.pop(name, None)
        if new is None:
            return
        if new.role is Role.CLOUD:
            self.gateways[name] = new
        if outside := tuple(s for s in new.subnets if not within(s, self._networks)):
            self.strays[name] = outside

    def _change_community(self, token: str, old: Community | None, new: Community | None) -> None:
        members = (community.members if community is not None else () for community in (old, new))
        _move(self._listed, token, *members)


def _move(sets: dict[str, set[str]], item: str, old: Iterable[str], new: Iterable[str]) -> None:
    """Take an item out of the old sets and put it into the new; none of them stays empty."""
    for key in old:
        sets[key].discard(item)
        if not sets[key]:
            del sets[key]
    for key in new:
        sets.setdefault(key, set()).add(item)


def _changes(
    before: Mapping[str, T], after: Mapping[str, T]
) -> Iterator[tuple[str, T | None, T | None]]:
    """What differs: name, what was there, what is there."""
    names: Iterable[str] = after
    if before is after:
        return
    if list(before) == list(after):  # as nearly always: all in one go then
        names = compress(after, map(is_not, before.values(), after.values()))
    for name in names:
        old, new = before.get(name), after[name]
        if old is not new and old != new:
            yield name, old, new
    for name in before.keys() - after.keys() if names is after else ():
        yield name, before[name], None
