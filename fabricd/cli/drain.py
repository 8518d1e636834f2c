"""`fabricctl drain` and `undrain`: a gateway hands its edges to the others, and takes them back.

It is a field of the gateway's record: so every edge hears of it as it hears of everything, and a
gateway that is restarted or replaced meanwhile stays drained.
"""

from __future__ import annotations

import json

import click

from fabricd.cli.options import Failed, Settings, config_option, pass_settings, warn
from fabricd.cli.records import fields_of, in_store, refusals
from fabricd.config import Config
from fabricd.core.records import decode
from fabricd.model import Node, Role
from fabricd.sources import Store


@click.command()
@config_option
@click.argument("name", required=False)
@pass_settings
def drain(settings: Settings, name: str | None) -> None:
    """Hand the edges of a gateway, this node, to the others.

    NAME is another gateway. Edges move without loss; `fabricctl status` on the gateway shows when
    the last one is gone. Where no other gateway works they stay.
    """
    _mark(settings.config(), name, drained=True)


@click.command()
@config_option
@click.argument("name", required=False)
@pass_settings
def undrain(settings: Settings, name: str | None) -> None:
    """Let edges come back to a gateway, this node.

    NAME is another gateway. Those that belong there come back, without loss.
    """
    _mark(settings.config(), name, drained=False)


def _mark(config: Config, name: str | None, *, drained: bool) -> None:
    key = f"nodes/{name or config.node.name}"

    async def mark(store: Store) -> str:
        records = await store.list()
        found = next((put for put in records if put.key == key), None)
        fields = fields_of(found) if found is not None else None
        if found is None or fields is None:
            raise Failed(f"{key}: there is no such record: see fabricctl node list")
        nodes = [decode(put.key, put.value, config.ike.identity).record for put in records]
        gateways = {n.name: n for n in nodes if isinstance(n, Node) and n.role is Role.CLOUD}
        own = gateways.get(key.removeprefix("nodes/"))
        if own is None:
            raise Failed(f"{key}: is no gateway (role cloud): only a gateway can be drained")
        if drained and not any(
            other.name != own.name
            and not other.drained
            and not set(other.subnets).isdisjoint(own.subnets)
            for other in gateways.values()
        ):
            warn(f"{key}: no other gateway has its subnets: the edges stay where they are")
        if own.drained is drained:
            return "already was"
        fields.pop("drained", None)
        value = json.dumps(fields | ({"drained": True} if drained else {}), ensure_ascii=False)
        if faults := refusals(records, key, value.encode(), config.ike.identity):
            raise Failed(*(f"{fault}; nothing was written" for fault in faults))
        await store.put(key, value.encode())
        return "is"

    said = in_store(config, mark)
    click.echo(f"{key}: {said} {'drained' if drained else 'in use'}")
