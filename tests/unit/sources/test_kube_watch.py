"""What a list and a watch make of objects that somebody has nested too deep to be read."""

from __future__ import annotations

from typing import Any

from fabricd.sources.kube_records import COMMUNITIES, KubeCommunity
from fabricd.sources.kube_watch import Resource, _read, list_all

RESOURCE = Resource(f"/apis/fabricd.io/v1/{COMMUNITIES}", KubeCommunity)
DEEP = "[" * 1500 + "]" * 1500


def community(name: str, members: str) -> str:
    return (
        f'{{"metadata": {{"name": "{name}", "resourceVersion": "7"}}, '
        f'"spec": {{"members": {members}}}}}'
    )


class Client:
    """Answers every call with one list."""

    def __init__(self, *objects: str) -> None:
        self.body = f'{{"metadata": {{"resourceVersion": "9"}}, "items": [{", ".join(objects)}]}}'

    async def call(self, *_: Any) -> bytes:
        return self.body.encode()


async def test_one_that_nobody_can_read_does_not_hide_the_others_in_a_list() -> None:
    client: Any = Client(community("deep", DEEP), community("app1", '["edge2"]'))
    found, version = await list_all(client, RESOURCE)
    assert version == "9"
    assert [each.metadata.name for each in found] == ["deep", "app1"]
    assert found[1].spec == {"members": ["edge2"]}


def test_nor_does_it_end_a_watch() -> None:
    line = f'{{"type": "ADDED", "object": {community("deep", DEEP)}}}'.encode()
    client: Any = None
    found, version, gone = _read(client, RESOURCE, line)  # type: ignore[arg-type]
    assert found is not None
    assert (found.metadata.name, version, gone) == ("deep", "7", False)
