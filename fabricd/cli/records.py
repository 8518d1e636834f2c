"""`fabricctl node` and `fabricctl community`: the records in the store, checked before a write.

What is refused is what the Rib of every node would refuse: the new record is put among those
that are there, and none may be rejected that was not before. Documents are records as stored.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import click
import msgspec
import trio

from fabricd.cli.options import (
    Failed,
    Settings,
    config_option,
    output_option,
    pass_settings,
    printable,
    warn,
)
from fabricd.cli.output import emit, table
from fabricd.cli.progress import working
from fabricd.cli.status import rejected_text
from fabricd.config import Config, ConfigError
from fabricd.core.events import Listed, Put
from fabricd.core.records import decode
from fabricd.core.rib import Rib
from fabricd.core.unreadable import UNREADABLE
from fabricd.daemon.store import open_store
from fabricd.model import Rejection
from fabricd.sources import Store

T = TypeVar("T")

Fields = Mapping[str, Any]
"""A record's JSON object."""

Columns = Callable[[Fields, bool], dict[str, str]]
"""An entry's cells by header; True: with more of them."""


@click.group()
@config_option
@output_option
def node() -> None:
    """Node records: put, get, list, delete."""


@click.group()
@config_option
@output_option
def community() -> None:
    """Community records: put, get, list, delete."""


# ---------------------------------------------------------------- put


@node.command("put")
@config_option
@click.argument("name")
@click.option("--role", type=click.Choice(["edge", "cloud"]), help="What it is.  [default: edge]")
@click.option("--endpoint", help="Underlay address or DNS name; without: behind NAT.")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="Repeat for each.")
@click.option("--community", "tokens", multiple=True, metavar="TOKEN", help="Repeat for each.")
@click.option("--identity", metavar="DN", help="Subject of its certificate.")
@click.option("--priority", type=int, help="Cloud only; edges prefer the higher.  [default: 100]")
@click.option("--file", "file", type=click.File("rb"), help="JSON instead; - is standard input.")
@pass_settings
def node_put(
    settings: Settings,
    *,
    name: str,
    role: str | None,
    endpoint: str | None,
    subnets: tuple[str, ...],
    tokens: tuple[str, ...],
    identity: str | None,
    priority: int | None,
    file: Any,
) -> None:
    """Write a node's whole record, if it is right."""
    given = {
        "role": role,
        "endpoint": endpoint,
        "subnets": list(subnets) or None,
        "community": ";".join(tokens) or None,
        "identity": identity,
        "priority": priority,
    }
    if file is None and not role:
        given = {**given, "role": "edge"}  # whoever reads the store need not know the default
    _put(settings, f"nodes/{name}", given, file)


@community.command("put")
@config_option
@click.argument("name")
@click.option("--member", "members", multiple=True, metavar="NODE", help="Repeat for each.")
@click.option("--file", "file", type=click.File("rb"), help="JSON instead; - is standard input.")
@pass_settings
def community_put(settings: Settings, name: str, members: tuple[str, ...], file: Any) -> None:
    """Write a community's whole record, if it is right."""
    _put(settings, f"communities/{name}", {"members": list(members) or None}, file)


def _put(settings: Settings, key: str, given: Fields, file: Any) -> None:
    fields = {field: value for field, value in given.items() if value is not None}
    if file is not None and fields:
        raise click.UsageError("--file has the whole record: no field can be given beside it")
    value = file.read() if file is not None else json.dumps(fields, ensure_ascii=False).encode()
    config = settings.config()

    async def put(store: Store) -> None:
        faults = refusals(await store.list(), key, value, config.ike.identity)
        if faults:
            raise Failed(*(f"{fault}; nothing was written" for fault in faults))
        await store.put(key, value)

    in_store(config, put)
    for text in decode(key, value, config.ike.identity).warnings:
        warn(text)
    click.echo(f"{key}: written")


def refusals(
    records: Sequence[Put], key: str, value: bytes, identity_template: str
) -> tuple[str, ...]:
    """Why `value` can't be written under `key` beside `records`: a line each, none if it can.

    A record keeps the rank of its creation; a new one comes last. So an update can push out a
    record that was created later: that is refused too.
    """
    ranks = {put.key: put.created for put in records}
    created = ranks.get(key, max(ranks.values(), default=0) + 1)
    others = [put for put in records if put.key != key]
    before = {fault.key for fault in _rejected(records, identity_template)}
    after = _rejected([*others, Put(key, value, created)], identity_template)
    return tuple(
        str(fault) if fault.key == key else f"{key}: would put another record out of force: {fault}"
        for fault in after
        if fault.key == key or fault.key not in before
    )


def _rejected(records: Sequence[Put], identity_template: str) -> tuple[Rejection, ...]:
    rib = Rib(identity_template)
    rib.apply(Listed(tuple(records)), now=0)
    return rib.in_force().rejected


# ---------------------------------------------------------------- get, list, delete


def _add_reading_verbs(group: click.Group, folder: str, columns: Columns) -> None:
    """The verbs that nodes and communities have in common."""

    @group.command("get")
    @config_option
    @output_option
    @click.argument("name")
    @pass_settings
    def get(settings: Settings, name: str) -> None:
        """Show a record as it is stored."""
        config = settings.config()
        key = f"{folder}/{name}"
        found = {put.key: put for put in in_store(config, _list)}.get(key)
        if found is None:
            raise Failed(f"{key}: there is no such record: see fabricctl {group.name} list")
        fields = fields_of(found)
        if fields is None:
            raise Failed(*map(str, decode(key, found.value, config.ike.identity).faults))
        emit(fields, settings.form, lambda wide: _table(columns, [_named(name, fields)], wide))

    @group.command("list")
    @config_option
    @output_option
    @pass_settings
    def list_(settings: Settings) -> None:
        """Show all records, and those that are rejected."""
        config = settings.config()
        puts = in_store(config, _list)
        entries = [
            _named(put.key.removeprefix(f"{folder}/"), fields_of(put))
            for put in puts
            if put.key.startswith(f"{folder}/")
        ]
        faults = [
            fault
            for fault in _rejected(puts, config.ike.identity)
            if fault.key.startswith(f"{folder}/")
        ]
        rejected = [fault.shown(config.store.prefix) for fault in faults]

        def as_text(wide: bool) -> str:
            text = _table(columns, entries, wide) if entries else f"no {folder}"
            return f"{text}\n\n{rejected_text(rejected)}" if rejected else text

        emit({folder: entries, "rejected": rejected}, settings.form, as_text)

    @group.command("delete")
    @config_option
    @click.argument("name")
    @pass_settings
    def delete(settings: Settings, name: str) -> None:
        """Delete a record."""
        key = f"{folder}/{name}"

        async def delete_it(store: Store) -> bool:
            there = any(put.key == key for put in await store.list())
            return there and await store.delete(key)

        if not in_store(settings.config(), delete_it):
            raise Failed(f"{key}: there is no such record: see fabricctl {group.name} list")
        click.echo(f"{printable(key)}: deleted")


def in_store(config: Config, use: Callable[[Store], Awaitable[T]]) -> T:
    """Run `use` on the config's store. Raises Failed, and Unavailable."""

    async def main() -> T:
        async with aclosing(open_store(config)) as store:
            return await use(store)

    try:
        with working("asking the store"):
            return trio.run(main)
    except ConfigError as error:
        raise Failed(*error.faults) from error


async def _list(store: Store) -> tuple[Put, ...]:
    return await store.list()


def fields_of(put: Put) -> dict[str, Any] | None:
    """The record's JSON object; None if it is none."""
    try:
        return msgspec.json.decode(put.value, type=dict[str, Any])
    except UNREADABLE:
        return None


def _named(name: str, fields: Fields | None) -> dict[str, Any]:
    """A record's fields behind its name, which is the key's, whatever they say."""
    return {"name": name} | dict(fields or {}) | {"name": name}


# ---------------------------------------------------------------- tables


def _table(columns: Columns, entries: Sequence[Fields], wide: bool) -> str:
    rows = [columns(entry, wide) for entry in entries]
    return table(list(rows[0]), [list(row.values()) for row in rows])


def _node_columns(entry: Fields, wide: bool) -> dict[str, str]:
    columns = {
        "NAME": entry["name"],
        "ROLE": _cell(entry.get("role") or "edge"),
        "ENDPOINT": _cell(entry.get("endpoint")),
        "SUBNETS": _cell(entry.get("subnets")),
        "COMMUNITY": _cell(entry.get("community"), ";"),
    }
    if wide:
        columns["IDENTITY"] = _cell(entry.get("identity"))
        columns["PRIORITY"] = _cell(entry.get("priority"))
        columns["DRAINED"] = _cell(entry.get("drained"))
    return columns


def _community_columns(entry: Fields, _: bool) -> dict[str, str]:
    return {"NAME": entry["name"], "MEMBERS": _cell(entry.get("members"))}


def _cell(value: Any, separator: str = ",") -> str:
    """A field's value, right or not; `-` where there is none."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return separator.join(value)
    return value if isinstance(value, str) else json.dumps(value)


_add_reading_verbs(node, "nodes", _node_columns)
_add_reading_verbs(community, "communities", _community_columns)
