"""The control socket's answers about pods, to `fabricctl` and to `fabric-cni`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from fabricd.core.unreadable import UNREADABLE
from fabricd.daemon.cni import Cni
from fabricd.daemon.picture import Picture
from fabricd.daemon.pods import PodService, Refused, Wish
from fabricd.daemon.serve import json_response
from fabricd.daemon.web import Handler, Request, Response, Routes
from fabricd.pods.cni import Call

B = TypeVar("B", bound=msgspec.Struct)


class Attach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /pods/attach`."""

    name: str
    netns: str
    ifname: str = "eth0"
    addresses: tuple[str, ...] = ()


class Detach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /pods/detach`."""

    name: str


def pod_routes(pods: PodService, picture: Callable[[], Picture]) -> Routes:
    """Pods attached, detached and listed; and CNI's calls."""
    cni = Cni(pods, picture)

    async def get_pods(_: Request) -> Response:
        document = {"pods": pods.documents(picture()), "faults": list(pods.faults)}
        return json_response(document)

    async def attach(wish: Attach) -> dict[str, Any]:
        entry = await pods.attach(Wish(wish.name, wish.netns, wish.ifname, wish.addresses))
        return pods.document(entry, picture())

    async def detach(wish: Detach) -> dict[str, Any]:
        return {"name": wish.name, "detached": await pods.detach(wish.name)}

    return {
        ("GET", "/pods"): get_pods,
        ("POST", "/pods/attach"): _taking(Attach, attach),
        ("POST", "/pods/detach"): _taking(Detach, detach),
        ("POST", "/cni"): _taking(Call, cni.answer),
    }


def _taking(kind: type[B], act: Callable[[B], Awaitable[dict[str, Any]]]) -> Handler:
    """Answers requests that have this as their body; what is refused is told."""

    async def handle(request: Request) -> Response:
        try:
            body = msgspec.json.decode(request.body, type=kind)
        except UNREADABLE as error:
            return json_response({"error": f"the request's body: {error}"}, 400)
        try:
            return json_response(await act(body))
        except Refused as refused:
            return json_response({"error": str(refused)}, 409)

    return handle
