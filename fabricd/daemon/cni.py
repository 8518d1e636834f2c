"""What a container runtime asks for by CNI, done with this node's pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from fabricd.daemon.picture import Picture
from fabricd.daemon.pods import PodService, Refused, Wish
from fabricd.pods.cni import (
    NOT_AS_IT_WAS,
    NOT_AVAILABLE,
    REFUSED,
    UNKNOWN_CONTAINER,
    Asked,
    Call,
    CniError,
    missing_from,
    parse,
    result,
    valid_attachments,
    version_of,
)


class Cni:
    """Answers calls of `fabric-cni`."""

    def __init__(self, pods: PodService, picture: Callable[[], Picture]) -> None:
        self._pods = pods
        self._picture = picture

    async def answer(self, call: Call) -> dict[str, Any]:
        """`{"ok", "document"}`: whether it is done, and what to write to standard output, if
        anything.
        """
        try:
            asked = parse(call)
            match asked.command:
                case "ADD":
                    return _ok(await self._add(asked))
                case "DEL":
                    await self._detach(asked.pod)
                case "CHECK":
                    self._check(asked)
                case "GC":
                    await self._collect(asked)
                case "STATUS":
                    self._status()
        except CniError as error:
            return {"ok": False, "document": error.document(version_of(call.config))}
        return _ok(None)

    async def _add(self, asked: Asked) -> dict[str, Any]:
        wish = Wish(
            name=asked.pod,
            netns=asked.netns,
            ifname=asked.ifname,
            addresses=asked.addresses,
            holder=asked.container,
            network=asked.network,
        )
        try:
            entry = await self._pods.attach(wish)
        except Refused as refused:
            raise CniError(REFUSED, str(refused)) from None
        return result(asked, entry, self._picture().desired.pod_mtu)

    async def _detach(self, name: str) -> None:
        try:
            await self._pods.detach(name)  # done already is done
        except Refused as refused:
            raise CniError(REFUSED, str(refused)) from None

    def _check(self, asked: Asked) -> None:
        entry = self._pods.entry(asked.pod)
        if entry is None or entry.leaving:
            text = f"container {asked.container} has no {asked.ifname} here"
            raise CniError(UNKNOWN_CONTAINER, text)
        state = self._pods.document(entry, self._picture())
        if state["state"] != "attached":
            raise CniError(NOT_AS_IT_WAS, f"{entry.name} is {state['state']}: {state['reason']}")
        if lacking := missing_from(asked.config["prevResult"], entry):
            raise CniError(NOT_AS_IT_WAS, lacking)

    async def _collect(self, asked: Asked) -> None:
        valid = valid_attachments(asked.config)
        errors: list[str] = []

        async def detach(name: str) -> None:
            try:
                await self._detach(name)
            except CniError as error:
                errors.append(f"{name}: {error.message}")

        async with trio.open_nursery() as nursery:
            for entry in self._pods.entries():
                if entry.network == asked.network and entry.name not in valid:
                    nursery.start_soon(detach, entry.name)
        if errors:
            raise CniError(REFUSED, "; ".join(sorted(errors)))

    def _status(self) -> None:
        if obstacle := self._pods.obstacle():
            raise CniError(NOT_AVAILABLE, obstacle)


def _ok(document: dict[str, Any] | None) -> dict[str, Any]:
    return {"ok": True, "document": document}
